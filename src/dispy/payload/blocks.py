"""Pickles with large buffers beside them, in one block of memory."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

from dispy.system.memory import copy, pool

PROTOCOL = 5

OUT_OF_BAND = 64 * 1024
"""Buffers (of arrays, mostly) of so many bytes are not copied into the pickle, but lie beside it."""

_ALIGNMENT = 64

_BLOCK = struct.Struct("<8sQQ")

MAGIC = b"\x01dispyB\x00"  # a pickle begins with 0x80

_LENGTH = struct.Struct("<Q")

Buffer = bytes | bytearray | memoryview

take: Callable[[int], memoryview] = pool.take
"""Where large payloads are kept; a program that has nodes on its machine sets another place."""


class Parts:
    """A pickle and the buffers beside it, still where they were: to be copied by whoever keeps them.

    As a block: magic, number of buffers, length of the pickle; the length of each buffer; the pickle; the
    buffers, each at a multiple of 64 bytes.

    Args:
        data: The pickle.
        buffers: What it refers to, in order.
    """

    __slots__ = ("pieces", "size")

    def __init__(self, data: bytes, buffers: list[memoryview]) -> None:
        head = [_BLOCK.pack(MAGIC, len(buffers), len(data))]
        head += [_LENGTH.pack(buffer.nbytes) for buffer in buffers]
        self.pieces: list[Buffer] = [b"".join(head), data]
        self.size = _BLOCK.size + _LENGTH.size * len(buffers) + len(data)
        for buffer in buffers:
            gap = -self.size % _ALIGNMENT
            self.pieces += [bytes(gap), buffer]
            self.size += gap + buffer.nbytes

    def copy(self) -> memoryview:
        """All of it in one block, as it is now."""
        block = take(self.size)
        position = 0
        for piece in self.pieces:
            end = position + len(piece)
            copy(piece, block[position:end])
            position = end
        return block


def whole(dumped: bytes | Parts) -> Buffer:
    """What ``dump`` made, in one piece and as it is now."""
    if isinstance(dumped, Parts):
        return dumped.copy()
    if len(dumped) < OUT_OF_BAND:
        return dumped
    block = take(len(dumped))
    copy(dumped, block)
    return block


def open_block(block: memoryview) -> tuple[memoryview, list[memoryview]]:
    _, count, length = _BLOCK.unpack_from(block)
    start = _BLOCK.size + _LENGTH.size * count
    sizes = [_LENGTH.unpack_from(block, _BLOCK.size + _LENGTH.size * place)[0] for place in range(count)]
    data = block[start : start + length]
    position = start + length
    buffers = []
    for size in sizes:
        position += -position % _ALIGNMENT
        buffers.append(block[position : position + size])
        position += size
    return data, buffers


class Collector(list[memoryview]):
    """Takes the buffers that are worth it out of the pickle."""

    __slots__ = ()

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickler has to take it in."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.append(raw)
        return False


class _Large:
    """Bytes that need not be copied into a pickle: the pickler takes them for a buffer."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce__(self) -> tuple[type, tuple[pickle.PickleBuffer]]:
        return type(self._data), (pickle.PickleBuffer(self._data),)


def _pickled(kind: type) -> bytes:
    return pickle.dumps(_Large(kind()), PROTOCOL, buffer_callback=lambda _: False)


_LARGE = {_pickled(kind): kind for kind in (bytes, bytearray)}
"""The pickle beside large bytes: always the same, for nothing of them is in it."""

_LARGE_HEAD = _BLOCK.size + _LENGTH.size + max(map(len, _LARGE))


class Ready:
    """A large payload that has become its value already; passes where a payload does.

    Args:
        value: What ``load`` gives.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __len__(self) -> int:
        return len(self.value)


def large_bytes(block: Buffer) -> tuple[type, int, int] | None:
    """Of a block, or of its head, that holds nothing but large bytes: their type, where they are, how many."""
    if block[: len(MAGIC)] != MAGIC or len(block) < _BLOCK.size + _LENGTH.size:
        return None
    _, count, length = _BLOCK.unpack_from(block)
    start = _BLOCK.size + _LENGTH.size
    kind = _LARGE.get(bytes(block[start : start + length])) if count == 1 else None
    if kind is None:
        return None
    end = start + length
    return kind, end + -end % _ALIGNMENT, _LENGTH.unpack_from(block, _BLOCK.size)[0]


def read_bytes(descriptor: int) -> Ready | None:
    """Read a file with a block, if that is nothing but large ``bytes``; else None.

    The only copy is the kernel's, and other threads run meanwhile. To read the block, and then to unpickle it,
    takes twice the time in a program that has much to do.

    Raises:
        OSError: It cannot be read.
    """
    found = large_bytes(os.pread(descriptor, _LARGE_HEAD, 0))
    if found is None or found[0] is not bytes:
        return None
    _, start, size = found
    value = os.pread(descriptor, size, start)
    return Ready(value) if len(value) == size else None


def out_of_band(value: Any) -> Any:
    """A value, or what stands for it if it is large and no buffer to the pickler."""
    return _Large(value) if type(value) in (bytes, bytearray) and len(value) >= OUT_OF_BAND else value
