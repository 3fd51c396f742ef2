"""Formats of a spool's files: written whole or not at all, and recognised as damaged if they are not as written.

A file of results: ``MAGIC``, ``_HEAD``, the length of each part, ``Header`` (msgpack), the parts, a CRC of each part.
A note: ``MAGIC``, ``_HEAD`` with 0 parts, ``Note`` (msgpack). Integers are little-endian. Parts are large payloads.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.protocol.limits import BATCH_MAX, MIB
from dispy.protocol.node import HeldJobs, Identity, JobsEnded, Name, Number
from dispy.system.directories import sync_directory

MAGIC = b"dispy spool 2\n\0\0"
"""First bytes of each file, with the number of the format. A file that begins otherwise counts as damaged."""
_HEAD = struct.Struct("<QII")  # bytes of the header, CRC of header and lengths of parts, number of parts
_LENGTH = struct.Struct("<Q")
"""Format of the length of a part (bytes)."""
CRC = struct.Struct("<I")
"""Format of the CRC-32 of a part; the CRCs of all parts follow the last part. A result has up to two parts, its value
and its output: the second's CRC goes on from the first's, so that the client checks both by one number."""

_COPY = 1 * MIB
"""Bytes of a segment that are copied into a file at once: a large payload is never in memory as a whole."""

DAMAGED = ".damaged"
"""Suffix of a file whose content is not what was written. The file tells the next node that results are lost."""


class Header(Struct, array_like=True):
    """Header of a file of results. ``stream`` and ``output_stream`` of its results number the parts, from 1; 0: none.

    Attributes:
        client: Identity of the client.
        name: Name of the client.
        batches: Batches of results, in the order in which they were stored, with small payloads in them.
    """

    client: Identity
    name: Name
    batches: Annotated[list[JobsEnded], Meta(max_length=BATCH_MAX)]


class Note(Struct, array_like=True):
    """Content of a note: the jobs of a client that had not ended, or whose results were not on disk.

    Attributes:
        client: Identity of the client.
        name: Name of the client.
        open: The jobs, one list for each computation: number of the computation, and number and attempt of each job.
        next_batch: Number that the client's next batch of results would have had. The next node goes on from it.
    """

    client: Identity
    name: Name
    open: list[HeldJobs]
    next_batch: Number


_header_decoder = msgspec.msgpack.Decoder(Header)
_note_decoder = msgspec.msgpack.Decoder(Note)
_encode = msgspec.msgpack.Encoder().encode


UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Exceptions that msgspec raises for content that is not what was written. Such a file counts as damaged."""


class Damaged(Exception):
    """Raised for a file that is not what was written. Nothing of it is used; the text says how that was found."""


class ResultsFile:
    """A file of results on disk, and the numbers of its batches that are still wanted.

    The owner of this object removes the file when ``batches`` is empty.

    Args:
        path: Path of the file.
        batches: Numbers of batches of one client; changed by the owner as they are added or forgotten.
    """

    __slots__ = ("batches", "path")

    def __init__(self, path: Path, batches: set[int]) -> None:
        self.path = path
        self.batches = batches


def client_of(path: Path) -> str:
    """Returns the identity (hexadecimal) of the client that a file is for: the file's name up to the first ``-``."""
    return path.stem.partition("-")[0]


def pack_note(note: Note) -> bytes:
    """Returns the whole content of a file with a note."""
    data = _encode(note)
    return MAGIC + _HEAD.pack(len(data), zlib.crc32(data), 0) + data


def pack_header(header: Header, sizes: list[int]) -> bytes:
    """Returns the content of a file of results before its parts; ``sizes``: bytes of each part, in their order."""
    data = _encode(header)
    lengths = b"".join(_LENGTH.pack(size) for size in sizes)
    crc = zlib.crc32(lengths, zlib.crc32(data))
    return MAGIC + _HEAD.pack(len(data), crc, len(sizes)) + lengths + data


def write(
    directory: Path, name: str, head: bytes, parts: list[tuple[Callable[[], int], int, bool]]
) -> Path:
    """Write a file whole or not at all, and sync it and its name to the disk.

    Args:
        directory, name: Where the file is to be.
        head: Content of the file before the parts (``pack_header``, ``pack_note``).
        parts: Segments that are copied into the file as its parts, in this order: function that opens it and returns
            the descriptor, size (bytes), and True if the part's CRC goes on from that of the part before. The CRC-32
            of each part is written after the last part.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: A segment is gone or has become shorter.
        OSError: There is no room, or the disk fails.
    """
    temporary = directory / f".{name}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(head))
            crc = 0
            crcs = []
            for open_part, size, goes_on in parts:
                crc = _copy(open_part, size, file.fileno(), crc if goes_on else 0)
                crcs.append(CRC.pack(crc))
            _write_all(file.fileno(), memoryview(b"".join(crcs)))
            os.fsync(file.fileno())
        os.rename(temporary, directory / name)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    # The name of the file has to survive a power failure, too.
    sync_directory(directory)
    return directory / name


def _write_all(descriptor: int, data: memoryview) -> None:
    """Write all bytes to a descriptor, in as many calls as it takes; an ``OSError`` is passed on."""
    while data:
        data = data[os.write(descriptor, data) :]


def _copy(open_part: Callable[[], int], size: int, target: int, crc: int) -> int:
    """Append ``size`` bytes of a segment to the file of descriptor ``target``; returns their CRC, begun from ``crc``.

    The segment is read, not mapped: a segment that is used again meanwhile may shrink, and a mapping would crash.

    Raises:
        FileNotFoundError: The segment is gone or has become shorter.
    """
    source = open_part()
    try:
        left = size
        while left:
            piece = os.read(source, min(left, _COPY))
            if not piece:
                raise FileNotFoundError("a segment is shorter than it was")
            _write_all(target, memoryview(piece))
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    finally:
        os.close(source)
    return crc


def read_note(path: Path) -> Note:
    """Read a file with a note.

    Raises:
        Damaged: The file is not what was written. To use it could mean to take jobs for never started that were.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    start = len(MAGIC) + _HEAD.size
    if len(data) < start or not data.startswith(MAGIC):
        raise Damaged("it does not begin as a note")
    length, crc, parts = _HEAD.unpack_from(data, len(MAGIC))
    if parts or length != len(data) - start or zlib.crc32(data[start:]) != crc:
        raise Damaged("its checksum is wrong")
    try:
        return _note_decoder.decode(data[start:])
    except UNDECODABLE as error:
        raise Damaged(str(error)) from error


def read_header(descriptor: int) -> tuple[Header, list[tuple[int, int]]]:
    """Read the header of a file of results; the parts are not read, and their CRCs not checked.

    Returns:
        The header, and for each part its offset and size (bytes).

    Raises:
        Damaged: The file is no file of results, or not whole.
    """
    total = os.fstat(descriptor).st_size
    head = os.pread(descriptor, len(MAGIC) + _HEAD.size, 0)
    if len(head) < len(MAGIC) + _HEAD.size or not head.startswith(MAGIC):
        raise Damaged("it does not begin as a file of results")
    length, crc, count = _HEAD.unpack_from(head, len(MAGIC))
    start = len(head) + _LENGTH.size * count
    if start + length > total:
        raise Damaged("it ends too early")
    lengths = os.pread(descriptor, _LENGTH.size * count, len(head))
    header = os.pread(descriptor, length, start)
    if zlib.crc32(lengths, zlib.crc32(header)) != crc:
        raise Damaged("its checksum is wrong")
    parts = []
    position = start + length
    for (size,) in _LENGTH.iter_unpack(lengths):
        parts.append((position, size))
        position += size
    if position + CRC.size * count != total:
        raise Damaged("it ends too early")
    try:
        return _header_decoder.decode(header), parts
    except UNDECODABLE as error:
        raise Damaged(str(error)) from error
