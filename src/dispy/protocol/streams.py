"""Streams: large payloads in chunks, on the receiving and on the sending side (see ``protocol.frames``).

A payload arrives in a *sink*: memory, or anything else that takes bytes. It leaves from a *source*. On both sides a
stream is known by its number, which the sender chooses. The receiver can use a payload only when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dispy.errors import RemoteProtocolError
from dispy.protocol import limits


class Sink(Protocol):
    """Takes the bytes of one payload that arrives, in order: memory, or a file. When the payload is complete,
    ``IncomingStreams.take`` gives the sink to its reader."""

    def write(self, body: memoryview) -> None:
        """Take the next bytes of the payload, by copying: ``body`` is valid only during the call."""

    def room(self, size: int) -> memoryview | None:
        """Returns memory for the payload's next ``size`` bytes: the connection receives them there directly (saves a
        copy).

        ``write`` is not called for them. None: the sink has no such memory, and ``write`` will bring them.
        """

    def discard(self) -> None:
        """Free what the sink holds (memory, a file): the payload is incomplete, and will stay so. The last call."""


class MemorySink:
    """A sink whose memory grows as bytes arrive. A peer that announces a large payload and sends none costs
    nothing, so its argument, the announced size (bytes), is not used."""

    __slots__ = ("data",)

    def __init__(self, size: int) -> None:
        self.data = bytearray()
        """Bytes of the payload that have arrived; all of it once the stream is complete."""

    def write(self, body: memoryview) -> None:
        """Append the next bytes."""
        self.data += body

    def room(self, size: int) -> memoryview | None:
        """Returns None: the connection cannot receive into memory that grows, so all bytes come by ``write``."""
        return None

    def discard(self) -> None:
        """Do nothing: the memory is freed with the sink."""


class IncomingStreams:
    """The payloads that are arriving on one connection, by stream number.

    Methods raise ``RemoteProtocolError`` if the peer breaks the rules; the connection must end then.

    Args:
        make_sink: Makes a payload's sink, given the announced size (bytes). Called when its first bytes come; for an
            empty payload, when it is taken.
        payload_max: Bytes of the largest payload accepted; ``open`` refuses a larger one.
    """

    def __init__(
        self, make_sink: Callable[[int], Sink] = MemorySink, payload_max: int = limits.PAYLOAD_MAX
    ) -> None:
        self._make_sink = make_sink
        self._payload_max = payload_max
        self._sizes: dict[int, int] = {}
        """Announced size (bytes) of each payload, by stream number: from its OPEN until it is taken or dropped."""
        self._arrived: dict[int, int] = {}
        """Bytes that have arrived of each payload, by stream number; same keys as ``_sizes``."""
        self._sinks: dict[int, Sink] = {}
        """Sinks of the payloads of which a chunk has come, by stream number."""

    def count(self) -> int:
        """Returns the number of payloads that are announced, or have come and were not taken yet."""
        return len(self._sizes)

    def open(self, stream: int, size: int) -> None:
        """Note that the peer announces a payload of ``size`` bytes; no memory is taken yet.

        Raises:
            RemoteProtocolError: The number is 0 or open, ``STREAMS_MAX`` are open, or the payload is too large.
        """
        if stream == 0 or stream in self._sizes or len(self._sizes) >= limits.STREAMS_MAX:
            raise RemoteProtocolError(f"stream {stream} cannot be opened")
        if size > self._payload_max:
            raise RemoteProtocolError(f"a payload of {size} bytes; {self._payload_max} are allowed")
        self._sizes[stream] = size
        self._arrived[stream] = 0

    def chunk(self, stream: int, body: memoryview) -> None:
        """Write a chunk, the next bytes of a stream, into its sink.

        Raises:
            RemoteProtocolError: There is no such stream, or it has more bytes now than it announced.
        """
        self._expect(stream, len(body)).write(body)
        self._arrived[stream] += len(body)

    def room(self, stream: int, length: int) -> memoryview | None:
        """Returns memory of a stream's sink to receive its next chunk of ``length`` bytes in, without a copy.

        Call ``placed`` when the chunk is there. None: the sink has no such memory; call ``chunk`` with the bytes.
        """
        return self._expect(stream, length).room(length)

    def placed(self, stream: int, length: int) -> None:
        """Note that a chunk of ``length`` bytes is complete in the memory that ``room`` returned for it."""
        self._arrived[stream] += length

    def _expect(self, stream: int, length: int) -> Sink:
        """Returns the sink of a stream (made for its first chunk), if ``length`` more bytes are within its announced
        size; else raises ``RemoteProtocolError``."""
        size = self._sizes.get(stream, -1)
        if self._arrived.get(stream, 0) + length > size:
            raise RemoteProtocolError(f"a chunk that stream {stream} did not announce")
        return self._sink(stream, size)

    def _sink(self, stream: int, size: int) -> Sink:
        sink = self._sinks.get(stream)
        if sink is None:
            sink = self._sinks[stream] = self._make_sink(size)
        return sink

    def abort(self, stream: int) -> None:
        """Drop the payload of a stream that the peer has given up, with its sink. Unknown streams are ignored."""
        self._sizes.pop(stream, None)
        self._arrived.pop(stream, None)
        sink = self._sinks.pop(stream, None)
        if sink is not None:
            sink.discard()

    def close(self) -> None:
        """Drop all payloads that no message has taken, complete or not: the connection is gone."""
        for stream in list(self._sizes):
            self.abort(stream)

    def take(self, stream: int) -> Any:
        """Returns the sink with the complete payload of a stream, and forgets the stream; the caller owns the sink.

        Raises:
            RemoteProtocolError: The payload is not complete, or there is no such stream.
        """
        size = self._sizes.get(stream, -1)
        if self._arrived.get(stream, 0) != size:
            raise RemoteProtocolError(f"a message refers to stream {stream}, which is not complete")
        sink = self._sink(stream, size)
        del self._sizes[stream], self._arrived[stream], self._sinks[stream]
        return sink


class Source(Protocol):
    """Gives the bytes of one payload that leaves: from memory, or from a file. ``size`` is its length (bytes)."""

    size: int

    def read(self, start: int, size: int) -> bytes | memoryview:
        """Returns ``size`` bytes from position ``start`` on. They must not change until they have left: the socket
        may keep a reference to them."""
        ...

    def close(self) -> None:
        """Free what the source holds (a file, a mapping): no more will be read. Called once, also if the payload is
        given up."""


class MemorySource:
    """A source whose bytes are in memory. The memory must not change while it is sent."""

    __slots__ = ("_view", "size")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)

    def read(self, start: int, size: int) -> memoryview:
        """Returns a view of ``size`` bytes from position ``start`` on; nothing is copied."""
        return self._view[start : start + size]

    def close(self) -> None:
        """Do nothing: the memory has another owner."""


class Group:
    """The streams that one message refers to. The message leaves after the last chunk of all of them.

    Args:
        numbers: Numbers of the streams.
        message: The message that contains these numbers, encoded.
    """

    __slots__ = ("_left", "_message", "numbers")

    def __init__(self, numbers: Sequence[int], message: bytes) -> None:
        self.numbers = numbers
        self._left = len(numbers)
        """Streams whose last chunk has not left; 0 also if the group was given up."""
        self._message = message

    def is_over(self) -> bool:
        """True if the last chunk of all streams has left, and the message with it, or the group was given up."""
        return self._left == 0

    def give_up(self) -> None:
        """Mark the group as given up, so that its message is never sent. The caller stops its streams."""
        self._left = 0

    def stream_done(self) -> bytes | None:
        """Note that one stream has sent its last chunk; returns the encoded message, to be sent now, if it was the
        last stream of the group, else None."""
        self._left -= 1
        return self._message if self._left == 0 else None


class OutgoingStream:
    """One payload that leaves, and how far it has been sent.

    ``offset`` is the number of bytes taken so far to be sent. ``window`` is the number of bytes that the peer allows
    now (a grant raises it, a chunk lowers it); at 0 the stream waits for a grant.

    Args:
        number: Stream number, unique among the sender's open streams.
        source: The payload.
        group: The group of streams to which this one belongs.
    """

    __slots__ = ("group", "number", "offset", "source", "window")

    def __init__(self, number: int, source: Source, group: Group) -> None:
        self.number = number
        self.source = source
        self.group = group
        self.offset = 0
        self.window = limits.STREAM_WINDOW

    def is_ready(self) -> bool:
        """True if a chunk may be sent now: bytes are left, and the window is open."""
        return self.window > 0 and self.offset < self.source.size

    def is_done(self) -> bool:
        """True if all bytes have been taken to be sent; an empty payload is done from the start."""
        return self.offset >= self.source.size

    def left(self) -> int:
        """Returns the number of bytes that have not been taken to be sent."""
        return self.source.size - self.offset

    def next_chunk(self, size_max: int = limits.CHUNK_MAX) -> bytes | memoryview:
        """Take the next bytes to send, at most ``size_max`` and as the window allows, and lower the window by them.

        Returns:
            The bytes; empty if none are left or the window is closed.
        """
        size = min(size_max, self.window, self.source.size - self.offset)
        chunk = self.source.read(self.offset, size)
        self.offset += size
        self.window -= size
        return chunk
