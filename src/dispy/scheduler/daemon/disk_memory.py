"""Buffers on disk, mapped like memory: for large payloads that wait for long.

Their files have no names, so the kernel removes them with the last map, also if the process is killed. Room on disk
is allocated before a buffer is used: on a full disk, a write to a missing page would kill the process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sized
from pathlib import Path

_STEP = 1024 * 1024
"""Bytes that are written at once, during which other threads run."""

_UNNAMED = getattr(os, "O_TMPFILE", 0) | os.O_RDWR | os.O_CLOEXEC
"""Flags to open a file without a name in a directory, where the file system has such files."""


class DiskMemory:
    """Buffers in files below one directory. Any thread may call the methods.

    Args:
        directory: Directory of this process alone, with mode 0700.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, size: int) -> memoryview:
        """Returns a writable buffer of ``size`` bytes, at least 1, all of them 0.

        Raises:
            MemoryError: There is no room on the disk, or the process has no descriptor or map to spare.
        """
        try:
            descriptor = self._open()
            try:
                return _map(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MemoryError(f"no room for {size} bytes in {self._directory}: {error.strerror}") from error

    def copy(self, payload: Sized) -> memoryview:
        """Returns a buffer with the bytes of a payload.

        Raises:
            MemoryError: As ``take``.
        """
        source = memoryview(payload)  # type: ignore[arg-type]  # payloads are bytes, or views of bytes
        try:
            descriptor = self._open()
            try:
                buffer = _map(descriptor, len(source))
                position = 0
                while position < len(source):
                    position += os.pwrite(descriptor, source[position : position + _STEP], position)
                return buffer
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MemoryError(
                f"no room for {len(source)} bytes in {self._directory}: {error.strerror}"
            ) from error

    def _open(self) -> int:
        """Returns the descriptor of a new file without a name.

        Raises:
            OSError: None can be made.
        """
        if getattr(os, "O_TMPFILE", 0):
            try:
                return os.open(self._directory, _UNNAMED, 0o600)
            except OSError:  # the file system has no such files
                pass
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        os.unlink(name)
        return descriptor


def _map(descriptor: int, size: int) -> memoryview:
    """Allocate and map a file.

    Raises:
        OSError: There is no room.
    """
    os.posix_fallocate(descriptor, 0, size)
    return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED))
