"""Pickles with large buffers beside them, in one block of memory.

The memory of an array of 64 KiB or more is not copied into the pickle: pickle protocol 5 hands the array's buffer to
a ``Collector``, and ``Parts`` holds the pickle and the buffers, which are still the array's own memory.
``Parts.copy`` makes one block of them, in memory of ``take``; in a program with nodes on its machine that is memory
that it shares with them. A worker writes the pieces of ``Parts`` to a segment instead (``worker.segments``). Where a
block is loaded, ``open_block`` returns views of the block, and arrays are made over these views without a copy.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

from dispy.system.memory import copy, pool

PROTOCOL = 5
"""Version of the pickle protocol for all payloads: the first one that can leave buffers out of the pickle."""

OUT_OF_BAND = 64 * 1024
"""Size (bytes) from which buffers, mostly of arrays, lie beside the pickle and are not copied into it."""

_ALIGNMENT = 64
"""Alignment (bytes): each buffer in a block begins at a multiple of it; zeros fill the gap before the buffer."""

_BLOCK = struct.Struct("<8sQQ")
"""Head of a block (24 bytes, little-endian): ``MAGIC``, number of buffers, length of the pickle (bytes)."""

MAGIC = b"\x01dispyB\x00"  # a pickle begins with 0x80
"""First 8 bytes of a block. The very first one tells it from a pickle, which begins with 0x80."""

_LENGTH = struct.Struct("<Q")
"""Format of the length of one buffer (bytes): behind the head of a block stands one for each buffer, in order."""

Buffer = bytes | bytearray | memoryview
"""A payload in one piece: a pickle, or a block."""

take: Callable[[int], memoryview] = pool.take
"""Returns writable memory for a large payload. The argument is the size (bytes).

By default it is memory of this process. A client with nodes on its machine sets a function whose memory it shares
with them, so that a payload need not be sent. MemoryError: no memory is left.
"""


class Parts:
    """A pickle and the buffers beside it, which are still the memory of the pickled objects.

    Copy the pieces (``copy``), or write them, before the objects may change.

    The layout of a block: magic, number of buffers, length of the pickle; the length of each buffer; the pickle; the
    buffers, each at a multiple of 64 bytes.

    Args:
        data: The pickle.
        buffers: The buffers that the pickle refers to, in order.

    Attributes:
        pieces: Head with the lengths, pickle, and for each buffer the gap before it and the buffer itself, in order;
            written one after another they are the block.
        size: Size of the block (bytes).
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
        """Returns a copy of the pickle and the buffers in one block, in memory of ``take`` (or its MemoryError)."""
        block = take(self.size)
        position = 0
        for piece in self.pieces:
            end = position + len(piece)
            copy(piece, block[position:end])
            position = end
        return block


def whole(dumped: bytes | Parts) -> Buffer:
    """Returns a pickle, or ``Parts`` as a block, in one piece, which later changes of the objects do not reach.

    ``dumped``: what ``values.dump`` returned. ``Parts``, and a pickle of ``OUT_OF_BAND`` bytes or more, are copied to
    memory of ``take``. A smaller pickle is returned as it is.
    """
    if isinstance(dumped, Parts):
        return dumped.copy()
    if len(dumped) < OUT_OF_BAND:
        return dumped
    block = take(len(dumped))
    copy(dumped, block)
    return block


def open_block(block: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Returns a view of the pickle in a block, and views of the block's buffers in order; nothing is copied."""
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
    """List of the buffers that lie beside a pickle, in the order in which the pickle refers to them.

    Give the method ``take`` to the pickler as its ``buffer_callback``. If the list is empty after pickling, the
    pickle can be loaded by itself; else make ``Parts`` of both.
    """

    __slots__ = ()

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer of ``OUT_OF_BAND`` bytes or more and return False.

        True for a smaller one, which is not taken: the pickler copies it into the pickle.
        """
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.append(raw)
        return False


class _Large:
    """Stand-in for large ``bytes`` or a large ``bytearray``, which unpickles to a copy of them.

    The pickler copies ``bytes`` into the pickle. The content of the stand-in it gives to the ``Collector`` instead.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce__(self) -> tuple[type, tuple[pickle.PickleBuffer]]:
        return type(self._data), (pickle.PickleBuffer(self._data),)


def _pickled(kind: type) -> bytes:
    """Returns the pickle in a block that holds nothing but large bytes of a type: the same one for any content.

    ``kind``: ``bytes`` or ``bytearray``.
    """
    return pickle.dumps(_Large(kind()), PROTOCOL, buffer_callback=lambda _: False)


_LARGE = {_pickled(kind): kind for kind in (bytes, bytearray)}
"""``bytes`` and ``bytearray``, each by the answer of ``_pickled``: ``large_bytes`` looks a block's pickle up here."""

_LARGE_HEAD = _BLOCK.size + _LENGTH.size + max(map(len, _LARGE))
"""Number of bytes at the beginning of a block that ``large_bytes`` needs to tell what the block holds."""


class Ready:
    """A large payload whose value was read already (``read_bytes``): ``values.load`` returns it without unpickling.

    Args:
        value: The value, which ``read`` returns.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __len__(self) -> int:
        return len(self.value)

    def read(self) -> Any:
        """Returns the value."""
        return self.value


def large_bytes(block: Buffer) -> tuple[type, int, int] | None:
    """Describes a block, or its first ``_LARGE_HEAD`` bytes, if it holds nothing but large bytes.

    Returns:
        Type (``bytes`` or ``bytearray``), offset in the block at which their content begins, and its length (both in
        bytes); None if the block holds anything else, or is no block.
    """
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
    """Read the value of a large payload from a file, if it is a block of nothing but ``bytes``.

    Returns None if the file holds anything else (a ``bytearray``, too), or fewer bytes than its head says: the caller
    then copies the payload, and ``values.load`` unpickles it. ``descriptor``: the open file, at any position.

    The only copy is the kernel's, and other threads run meanwhile. Reading the block and then unpickling it takes
    twice the time in a program that has much to do.

    Raises:
        OSError: The file cannot be read.
    """
    found = large_bytes(os.pread(descriptor, _LARGE_HEAD, 0))
    if found is None or found[0] is not bytes:
        return None
    _, start, size = found
    value = os.pread(descriptor, size, start)
    return Ready(value) if len(value) == size else None


def out_of_band(value: Any) -> Any:
    """Returns a stand-in (``_Large``) for ``bytes`` or a ``bytearray`` of ``OUT_OF_BAND`` bytes or more.

    Any other value is returned as it is. Without the stand-in the pickler would copy the bytes into the pickle.
    """
    return _Large(value) if type(value) in (bytes, bytearray) and len(value) >= OUT_OF_BAND else value
