"""Files of payloads on their way between a node and the sockets of its clients: ``Incoming`` and ``Outgoing``."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from dispy.system.free_space import SHORT, NoRoomError, Room, places
from dispy.system.shared_memory import claim_file, free_file, map_shared

_MOVE_STEP = 1024 * 1024
"""Bytes that are copied by one read and write when a payload moves from memory to disk."""


class Outgoing:
    """A segment on its way to a client. The caller must close it.

    The file is read and not mapped: mapping the pages of a GiB takes 100 ms, during which nothing else is done, and a
    worker that truncates a mapped file would kill us.

    Args:
        descriptor: Descriptor of the segment's file; closed by ``close``.
        size: Number of bytes that are sent.
        start: Offset in the file (bytes) of the first byte that is sent.
    """

    __slots__ = ("_descriptor", "_start", "size")

    def __init__(self, descriptor: int, size: int, start: int = 0) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size = size

    def read(self, start: int, size: int) -> bytes:
        """Returns ``size`` bytes of what is sent, from its offset ``start`` on.

        Bytes that are not there any more are zeros, so that the number of bytes sent stays as it was announced.
        """
        data = b""
        with suppress(OSError):
            data = os.pread(self._descriptor, size, self._start + start)
        return data if len(data) == size else data.ljust(size, b"\0")

    def close(self) -> None:
        """Close the segment's file. The segment itself stays until its owner removes it."""
        os.close(self._descriptor)


class Incoming:
    """A payload on its way from a client's socket into a file.

    The caller adds bytes by ``room`` or ``write``, and ends with ``finish``, ``read``, ``view`` or ``discard``.

    A new file is written and not mapped: page faults cost more than copying. A file that is used again has its
    pages, and is mapped, so that the socket is read straight into it. If the memory file system becomes full in the
    middle of a payload, the payload moves to disk. Errors are raised by ``finish``, ``read`` or ``view``, not before;
    bytes that come after an error are dropped.

    Args:
        room: Directories in memory and on disk in which the file may be.
        name: Name of the file, new in both directories.
        size: Number of bytes of the payload, known before it arrives.
        free: Directory of free files, whose memory a new payload can take; empty if there is none.
        expected: Bytes that other payloads on their way are going to need of the memory file system. If it has no
            room for them and this payload together, a new file is made on disk.
    """

    def __init__(self, room: Room, name: str, size: int, free: str, expected: int = 0) -> None:
        self._room = room
        self._name = name
        self._size = size
        self._free = free
        self._error: OSError | None = None
        """First error; ``finish``, ``read`` and ``view`` raise it. None: all has gone well so far."""
        self._descriptor = -1
        """Descriptor of the file; -1 before it is made and after it is closed."""
        self._mapped: memoryview | None = None
        """Memory of a file that is used again; None for a new file, which is written."""
        self._position = 0
        """Number of bytes of the payload that are in the file, or for which ``room`` has given memory."""
        self.directory = room.memory or room.disk
        """Directory that the file is in: in memory first, on disk if it has moved or found no room in memory."""
        try:
            if claim_file(free, size, self._path):
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                self._mapped = memoryview(map_shared(self._descriptor, size))
                return
        except OSError as error:
            self._error = error
            return
        self._open(places(room, size + expected))

    @property
    def _path(self) -> str:
        """Path of the file, in ``directory``."""
        return f"{self.directory}/{self._name}"

    @property
    def size(self) -> int:
        """Number of bytes of the whole payload, arrived or not."""
        return self._size

    @property
    def expected(self) -> int:
        """Bytes of the memory file system that the payload is still going to take; 0 if it is on disk or mapped."""
        is_growing = self._descriptor >= 0 and self._mapped is None and self.directory == self._room.memory
        return self._size - self._position if is_growing else 0

    def _open(self, directories: list[str]) -> None:
        """Make a new file in the first of ``directories`` in which one can be made, which becomes ``directory``.

        If there is none, the error is kept until ``finish``, ``read`` or ``view``.
        """
        for self.directory in directories:
            try:
                how = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._descriptor = os.open(self._path, how, 0o600)
            except OSError as error:
                self._error = error
            else:
                self._error = None
                return
        if self._error is None or self._error.errno in SHORT:
            self._error = NoRoomError(self._room, self._size)

    def room(self, size: int) -> memoryview | None:
        """Returns memory for the next ``size`` bytes of the payload, which the caller must fill.

        The socket is read straight into that memory. None for a new file, which is not mapped: the caller passes the
        bytes to ``write`` instead.
        """
        if self._mapped is None:
            return None
        self._position += size
        return self._mapped[self._position - size : self._position]

    def write(self, body: memoryview) -> None:
        """Append the next bytes of the payload.

        Errors are kept, and raised by ``finish``, ``read`` or ``view``; bytes that come after one are dropped.
        """
        room = self.room(len(body))
        if room is not None:
            room[:] = body
            return
        while body and self._error is None:
            try:
                count = os.write(self._descriptor, body)
                self._position += count
                body = body[count:]
            except OSError as error:
                self._move(error)

    def _move(self, error: OSError) -> None:
        """Move the payload from memory to disk after a failed write.

        If it is on disk already, or the disk fails, too, the error is kept and the file is removed.
        """
        room, before, path = self._room, self._descriptor, self._path
        if error.errno not in SHORT or not room.disk or self.directory == room.disk:
            self._error = NoRoomError(room, self._size) if error.errno in SHORT else error
            self.discard()
            return
        self._descriptor = -1
        self._open([room.disk])
        try:
            position = 0
            while position < self._position and self._error is None:
                data = os.pread(before, min(_MOVE_STEP, self._position - position), position)
                if not data:
                    raise OSError(errno.EIO, "shorter than it was")
                position += os.write(self._descriptor, data)
        except OSError as failure:
            self._error = NoRoomError(room, self._size) if failure.errno in SHORT else failure
            self.discard()
        finally:
            os.close(before)
            with suppress(OSError):
                os.unlink(path)

    def finish(self) -> Path:
        """Close the file when all bytes have come; returns its path. The file is then the caller's.

        Raises:
            NoRoomError: There was no room for the payload.
            OSError: The payload cannot be written for another reason.
        """
        if self._error is not None:
            raise self._error
        self._close()
        return Path(self._path)

    def read(self) -> bytes:
        """Returns the bytes of the whole payload, when all have come. Call it instead of ``finish``.

        The file becomes a free file for a later payload if it is in memory, and is removed otherwise.

        Raises:
            OSError: There was no room for the payload, or it cannot be written for another reason.
        """
        data = self.finish().read_bytes()
        self._drop()
        return data

    def view(self) -> bytes | memoryview:
        """Returns the whole payload: the mapped memory of a file that is used again, or a copy of a new file's bytes.

        Call it when all bytes have come, and ``let_go`` when the payload is not needed any more: it is invalid then.

        Raises:
            OSError: There was no room for the payload, or it cannot be written for another reason.
        """
        if self._error is not None:
            raise self._error
        return self._mapped if self._mapped is not None else os.pread(self._descriptor, self._size, 0)

    def let_go(self) -> None:
        """End the use of the payload that ``view`` has returned.

        The file becomes a free file for a later payload if it is in memory, and is removed otherwise.
        """
        self._close()
        self._drop()

    def discard(self) -> None:
        """Close and remove the file: the payload is not wanted."""
        self._close()
        with suppress(OSError):
            os.unlink(self._path)

    def _drop(self) -> None:
        """Move the closed file to the free files for later payloads, if it is in memory; otherwise remove it."""
        free_file(self._free if self.directory == self._room.memory else "", self._path, self._size)

    def _close(self) -> None:
        """Close the descriptor, and let go of the mapped memory. Safe to repeat."""
        self._mapped = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
