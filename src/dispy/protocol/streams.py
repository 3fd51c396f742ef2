"""Streams: payloads in chunks, as they arrive and as they leave (see ``frames``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dispy.errors import RemoteProtocolError
from dispy.protocol import limits


class Sink(Protocol):
    """Where the bytes of a payload go."""

    def write(self, body: memoryview) -> None:
        """Take the next bytes."""

    def room(self, size: int) -> memoryview | None:
        """Memory that the next ``size`` bytes are then received in, and not written; None if there is none."""

    def discard(self) -> None:
        """The payload will not be wanted."""


class MemorySink:
    """Takes memory as bytes arrive, not as they are announced."""

    __slots__ = ("data",)

    def __init__(self, size: int) -> None:
        self.data = bytearray()

    def write(self, body: memoryview) -> None:
        """Take the next bytes."""
        self.data += body

    def room(self, size: int) -> memoryview | None:
        """None: it grows."""
        return None

    def discard(self) -> None:
        """The payload will not be wanted."""


class IncomingStreams:
    """Payloads that are arriving, by stream number.

    Args:
        make_sink: From the size that a payload is announced with.
        payload_max: Bytes of one.
    """

    def __init__(
        self, make_sink: Callable[[int], Sink] = MemorySink, payload_max: int = limits.PAYLOAD_MAX
    ) -> None:
        self._make_sink = make_sink
        self._payload_max = payload_max
        self._sizes: dict[int, int] = {}
        self._arrived: dict[int, int] = {}
        self._sinks: dict[int, Sink] = {}

    def open(self, stream: int, size: int) -> None:
        """A peer announces a payload of ``size`` bytes."""
        if stream == 0 or stream in self._sizes or len(self._sizes) >= limits.STREAMS_MAX:
            raise RemoteProtocolError(f"stream {stream} cannot be opened")
        if size > self._payload_max:
            raise RemoteProtocolError(f"a payload of {size} bytes; {self._payload_max} are allowed")
        self._sizes[stream] = size
        self._arrived[stream] = 0

    def chunk(self, stream: int, body: memoryview) -> None:
        """Take a chunk in."""
        self._expect(stream, len(body)).write(body)
        self._arrived[stream] += len(body)

    def room(self, stream: int, length: int) -> memoryview | None:
        """Where a chunk can be received; it is then ``placed``. None: it comes by ``chunk``."""
        return self._expect(stream, length).room(length)

    def placed(self, stream: int, length: int) -> None:
        """A chunk was received in its room."""
        self._arrived[stream] += length

    def _expect(self, stream: int, length: int) -> Sink:
        """The sink of a stream that may have so many bytes more."""
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
        """The peer gave the payload up."""
        self._sizes.pop(stream, None)
        self._arrived.pop(stream, None)
        sink = self._sinks.pop(stream, None)
        if sink is not None:
            sink.discard()

    def close(self) -> None:
        """Nothing more will arrive."""
        for stream in list(self._sizes):
            self.abort(stream)

    def take(self, stream: int) -> Any:
        """The sink with the whole payload, which is the caller's from now on."""
        size = self._sizes.get(stream, -1)
        if self._arrived.get(stream, 0) != size:
            raise RemoteProtocolError(f"a message refers to stream {stream}, which is not complete")
        sink = self._sink(stream, size)
        del self._sizes[stream], self._arrived[stream], self._sinks[stream]
        return sink


class Source(Protocol):
    """Where the bytes of a payload come from."""

    size: int

    def read(self, start: int, size: int) -> bytes | memoryview:
        """Bytes from a place on, which must not change afterwards."""

    def close(self) -> None:
        """No more will be read."""


class MemorySource:
    """Memory that does not change."""

    __slots__ = ("_view", "size")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)

    def read(self, start: int, size: int) -> memoryview:
        """Bytes from a place on."""
        return self._view[start : start + size]

    def close(self) -> None:
        """It is not ours."""


class Group:
    """Streams that one message refers to.

    Args:
        numbers: Theirs.
        message: Encoded control message to send after the last chunk of all.
    """

    __slots__ = ("_left", "_message", "numbers")

    def __init__(self, numbers: Sequence[int], message: bytes) -> None:
        self.numbers = numbers
        self._left = len(numbers)
        self._message = message

    def is_over(self) -> bool:
        """Whether the last chunk of all has been taken, or none will be any more."""
        return self._left == 0

    def give_up(self) -> None:
        """None will be taken any more."""
        self._left = 0

    def stream_done(self) -> bytes | None:
        """One of them has sent all; the message, if that was the last."""
        self._left -= 1
        return self._message if self._left == 0 else None


class OutgoingStream:
    """One payload on its way out.

    Args:
        number: Stream number, unique among those the sender has open.
        source: The payload.
        group: The streams that it belongs to.
    """

    __slots__ = ("group", "number", "offset", "source", "window")

    def __init__(self, number: int, source: Source, group: Group) -> None:
        self.number = number
        self.source = source
        self.group = group
        self.offset = 0
        self.window = limits.STREAM_WINDOW

    def is_ready(self) -> bool:
        """Whether a chunk may go out now."""
        return self.window > 0 and self.offset < self.source.size

    def is_done(self) -> bool:
        """Whether all chunks have been taken."""
        return self.offset >= self.source.size

    def left(self) -> int:
        """Bytes that have not been taken."""
        return self.source.size - self.offset

    def next_chunk(self, size_max: int = limits.CHUNK_MAX) -> bytes | memoryview:
        """The next bytes to send; empty if there is nothing left or no window."""
        size = min(size_max, self.window, self.source.size - self.offset)
        chunk = self.source.read(self.offset, size)
        self.offset += size
        self.window -= size
        return chunk
