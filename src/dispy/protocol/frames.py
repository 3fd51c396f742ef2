"""Frames: how messages and payloads share the bytes of one connection.

A frame is a 16-byte header (kind, stream number, body length; big endian) and a body:

    kind      body                        meaning
    CONTROL   one message, msgpack
    OPEN      8 bytes: size               a payload follows in chunks, as stream N
    CHUNK     at most 1 MiB               the next bytes of stream N
    GRANT     16 bytes: count, time       the receiver has taken ``count`` bytes of stream N; ``time`` is its clock
    ABORT     none                        the rest of stream N will not come
    PING      none                        heartbeat

A payload too large for a message is a *stream* (``protocol.streams``). The receiver answers each chunk with a GRANT,
so neither side holds more than a window of the payload beyond the payload itself (back-pressure). A message refers to
a stream by its number, and is sent after the last chunk: a program that reads the message has the payload.

Chunks go between control frames and never before them. So a 2 GiB argument on a slow line delays no cancel, and it
keeps the connection alive, since any byte is a sign of life. Bytes handed to the socket cannot be overtaken any more,
and buffers of kernels, routers and proxies between two programs hold megabytes. So a sender hands over only as many
bytes as pass in a moment; ``protocol.pace`` learns from the grants how many that are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dispy.errors import RemoteProtocolError
from dispy.protocol import limits

CONTROL = 1
OPEN = 2
CHUNK = 3
GRANT = 4
ABORT = 5
PING = 6

PLACED = 0
"""Kind that ``FrameReader`` returns for a CHUNK whose body was received directly into its sink's memory. Never
sent: a peer that sends it is refused."""

NAMES = ("chunk, placed", "control frame", "open", "chunk", "grant", "abort", "ping")
"""Words for a frame, by its kind."""

_HEADER = struct.Struct(">B3xIQ")  # kind, stream number (0 unless a stream is meant), bytes of the body
HEADER_SIZE = _HEADER.size
_LENGTH = struct.Struct(">Q")
_GRANT = struct.Struct(">QQ")

_BUFFER_SIZE = 256 * limits.KIB  # one read of a loopback socket; larger buffers gain nothing

_HEAD_SIZE = 16 * limits.KIB
"""Bytes that the first read after a directly received chunk may take, where the header of another chunk is expected.
Bytes behind the header must be copied, and copying 64 KiB costs more than the system call that a larger read
saves."""

_PLACED_MIN = 32 * limits.KIB
"""Missing bytes of a chunk from which reading them directly into their sink is worth a system call. Fewer are read
into the buffer, and copied from there."""

_BODY_MAX = {  # bytes of the largest body, by kind; a frame with more, or of another kind, ends the connection
    CONTROL: limits.CONTROL_FRAME_MAX,
    OPEN: _LENGTH.size,
    CHUNK: limits.CHUNK_MAX,
    GRANT: _GRANT.size,
    ABORT: 0,
    PING: 0,
}


def header(kind: int, length: int, stream: int = 0) -> bytes:
    """Returns the 16 header bytes of a frame whose body has ``length`` bytes; ``stream`` 0: it concerns no stream."""
    return _HEADER.pack(kind, stream, length)


def open_frame(stream: int, length: int) -> bytes:
    """Returns an OPEN frame: announces that a payload of ``length`` bytes follows in chunks, as stream ``stream``."""
    return _HEADER.pack(OPEN, stream, _LENGTH.size) + _LENGTH.pack(length)


def read_open(body: memoryview) -> int:
    """Returns the payload size (bytes) that the body of an OPEN frame announces.

    Raises:
        RemoteProtocolError: The body has the wrong size.
    """
    if len(body) != _LENGTH.size:
        raise RemoteProtocolError(f"a length of {len(body)} bytes")
    value: int = _LENGTH.unpack(body)[0]
    return value


def grant_frame(stream: int, count: int, arrived_us: int) -> bytes:
    """Returns a GRANT frame: ``count`` bytes of a stream have arrived, so its sender may send as many more.

    ``arrived_us`` is the time of arrival (microseconds, monotonic clock of the receiver), for ``protocol.pace``.
    """
    return _HEADER.pack(GRANT, stream, _GRANT.size) + _GRANT.pack(count, arrived_us)


def read_grant(body: memoryview) -> tuple[int, int]:
    """Returns bytes granted and their arrival time (microseconds, peer's clock), from the body of a GRANT frame.

    Raises:
        RemoteProtocolError: The body has the wrong size.
    """
    if len(body) != _GRANT.size:
        raise RemoteProtocolError(f"a grant of {len(body)} bytes")
    count, arrived_us = _GRANT.unpack(body)
    return count, arrived_us


PING_FRAME = header(PING, 0)


def first_message(first: bytes, control_max: int) -> bytes | None:
    """Returns the encoded message in the first bytes of a connection; None if it is not complete yet.

    For a listener that looks at a dialer's first bytes before it makes a ``FrameReader``. ``first`` has at least one
    byte.

    Raises:
        RemoteProtocolError: The bytes are not the beginning of a control frame of at most ``control_max`` bytes.
    """
    if first[:1] != bytes([CONTROL]):
        raise RemoteProtocolError(f"a frame of kind {first[0]}")
    if len(first) < HEADER_SIZE:
        return None
    _, _, length = _HEADER.unpack_from(first)
    if length > control_max:
        raise RemoteProtocolError(f"a frame of {length} bytes")
    end = HEADER_SIZE + length
    return first[HEADER_SIZE:end] if len(first) >= end else None


def guess_protocol(first: bytes) -> str:
    """Returns the name of the protocol that a connection's first bytes look like, for error texts (wrong port):
    "TLS", "SSH", "HTTP", "dispy's protocol" or "another protocol"."""
    if first[:1] == b"\x16" or first[:2] == b"\x15\x03":
        return "TLS"
    if first.startswith(b"SSH-"):
        return "SSH"
    if first.startswith(
        (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"PRI ", b"HTTP/")
    ):
        return "HTTP"
    if first[: HEADER_SIZE - 8] == _HEADER.pack(CONTROL, 0, 0)[: HEADER_SIZE - 8]:
        return "dispy's protocol"
    return "another protocol"


Frame = tuple[int, int, memoryview]
"""Kind, stream number and body of a frame that has arrived."""


def _no_room(stream: int, length: int) -> memoryview | None:
    return None


class FrameReader:
    """Cuts a byte stream into frames, without copying bodies that fit the buffer.

    Use: read into ``writable()``, call ``received`` with the number of bytes read, then ``next_frame`` until it
    returns None.

    The rest of a large chunk is received directly into its sink's memory (no copy): ``writable`` then returns that
    memory until the chunk is complete.

    Args:
        control_max: Bytes of the largest control frame accepted now. ``HANDSHAKE_FRAME_MAX`` before the peer's
            proof: frames of all other kinds are then refused, too, until ``widen``.
        find_room: Called with the stream number and length (bytes) of a chunk that is incomplete; returns
            memory of that length to receive the chunk, or None: it is received in the buffer.
            With memory the frame is returned as PLACED, with that memory as its body.
    """

    def __init__(
        self,
        control_max: int = limits.CONTROL_FRAME_MAX,
        find_room: Callable[[int, int], memoryview | None] = _no_room,
    ) -> None:
        self._find_room = find_room
        self.control_max = control_max
        self.streams_allowed = control_max > limits.HANDSHAKE_FRAME_MAX
        # A stranger gets memory for one small frame only: nothing that an attacker could multiply.
        self._size = _BUFFER_SIZE if self.streams_allowed else 2 * limits.HANDSHAKE_FRAME_MAX
        self._buffer = bytearray(self._size)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0  # bytes between the two positions have arrived, and belong to an incomplete frame
        self._placed: memoryview | None = None
        """Sink's memory of the whole chunk that is being received directly; None if the buffer receives."""
        self._placed_stream = 0
        """Stream number of the chunk that is being received directly; stale while ``_placed`` is None."""
        self._missing = 0
        """Bytes of the chunk in ``_placed`` that have not arrived: the next reads go into its last ``_missing``."""
        self._read_max = self._size
        """Bytes that the next read into the empty buffer may take: ``_HEAD_SIZE`` after a chunk that was received
        directly, else the whole buffer."""

    def widen(self) -> None:
        """Accept frames of all kinds, and large ones, from now on. Called once the peer has proved that it knows the
        secret."""
        self.control_max = limits.CONTROL_FRAME_MAX
        self.streams_allowed = True
        self._size = self._read_max = _BUFFER_SIZE

    def close(self) -> None:
        """Drop the reference to a sink's memory when the connection is gone: its owner may then reuse the memory."""
        self._placed = None

    def writable(self) -> memoryview:
        """Returns the memory to read the next bytes into, of the buffer or of a sink; never empty.

        Call it when ``next_frame`` has returned None: bodies of frames are overwritten. Valid until the next call of
        ``received``, which must follow the read.
        """
        if self._placed is not None:
            return self._placed[-self._missing :]
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) != self._size:
                self._resize(self._size)
            return self._view[: self._read_max]
        if len(self._buffer) - self._end < self._size // 4:
            self._compact()
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Note that ``count`` bytes were read into ``writable()``. Then call ``next_frame`` until it returns None."""
        if self._placed is not None:
            self._missing -= count
        else:
            self._end += count
            self._read_max = self._size

    def next_frame(self) -> Frame | None:
        """Returns kind, stream number and body of the next complete frame; None if there is none before more bytes.

        The body is a view of the buffer, valid until the next call of ``next_frame`` or ``writable``.

        Raises:
            RemoteProtocolError: A frame has an unknown kind or exceeds its limit. End the connection then.
        """
        if self._placed is not None:
            return self._next_placed(self._placed)
        body = self._start + HEADER_SIZE
        if body > self._end:
            return None
        kind, stream, length = _HEADER.unpack_from(self._buffer, self._start)
        self._check(kind, length)
        end = body + length
        if end <= self._end:
            self._start = end
            return kind, stream, self._view[body:end]
        if kind != CHUNK or not self._place(stream, body, length):
            if HEADER_SIZE + length > len(self._buffer):
                self._resize(HEADER_SIZE + length + self._size)
        return None

    def _next_placed(self, placed: memoryview) -> Frame | None:
        """Returns the chunk that is received into ``placed``, a sink's memory, if it is complete, else None."""
        if self._missing:
            return None
        self._placed = None
        # The header of the next chunk follows, as a rule.
        self._read_max = min(_HEAD_SIZE, self._size)
        return PLACED, self._placed_stream, placed

    def _place(self, stream: int, body: int, length: int) -> bool:
        """Begin to receive the rest of an incomplete chunk directly into its sink: copies what is in the buffer.

        Args:
            stream: Number of the chunk's stream.
            body: Position of the chunk's first byte in the buffer.
            length: Bytes of the whole chunk.

        Returns:
            False, and nothing is done, if too few bytes are missing (``_PLACED_MIN``) or the sink has no memory.
        """
        here = self._end - body
        if length - here < _PLACED_MIN:
            return False
        room = self._find_room(stream, length)
        if room is None:
            return False
        room[:here] = self._view[body : self._end]
        self._start = self._end = 0
        self._placed, self._placed_stream, self._missing = room, stream, length - here
        return True

    def _check(self, kind: int, length: int) -> None:
        limit = _BODY_MAX.get(kind)
        if limit is None or (kind != CONTROL and not self.streams_allowed):
            raise RemoteProtocolError(f"a frame of kind {kind}")
        if length > limit or (kind == CONTROL and length > self.control_max):
            raise RemoteProtocolError(f"a frame of {length} bytes")

    def _compact(self) -> None:
        held = self._end - self._start
        self._buffer[:held] = self._buffer[self._start : self._end]
        self._start, self._end = 0, held

    def _resize(self, size: int) -> None:
        held = bytes(self._view[self._start : self._end])
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._buffer[: len(held)] = held
        self._start, self._end = 0, len(held)
