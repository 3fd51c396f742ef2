"""Parts: files on their way into the store, which receive the content of a file until it is whole.

A part is locked (``flock``) by the node that receives the file. The lock ends with the node, so a part without a lock
is where the next node goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor

from dispy.files.untrusted_directory import CHUNK

SMALL = 48 * 1024
"""Largest size (bytes) of files that are sent in one piece, several of them in one message, and that have no part."""

WRITE_MAX = 256 << 10
"""Bytes that are written by one system call. The kernel takes memory for all of them in one piece. Large free pieces
are what the host of a virtual machine takes back, and gives again page by page: 200 MB in writes of 1 or 2 MiB take
0.3 to 0.6 s. In writes of up to 512 KiB they take 0.05 s, since the kernel uses what is left of memory in use."""

HASHED_APART_MIN = 1 << 20
"""Bytes from which it pays to hash them on another thread while they are written: hashing takes 0.6 ms."""


class BusyError(OSError):
    """Raised when another node of this user receives the file.

    Attributes:
        size: Bytes of the file that have arrived there.
    """

    def __init__(self, size: int) -> None:
        super().__init__("another node receives it")
        self.size = size


class Part:
    """A file on its way into the store. Closing it gives up the lock on it.

    What is there already is read and hashed at once; what is longer than the file is cut to nothing. Each method is
    called by one thread at a time.

    Args:
        keep: Called with the part once its content is whole and right; gives it its name in the store.
        descriptor: Of the part, locked, open for reading and writing; closed with it.
        path: Of the part.
        digest: SHA-256 of the whole content.
        size: Bytes of the whole content.

    Attributes:
        offset: Bytes that are there.
    """

    __slots__ = ("_hash", "_keep", "descriptor", "digest", "offset", "path", "size")

    def __init__(
        self, keep: Callable[[Part], None], descriptor: int, path: str, digest: bytes, size: int
    ) -> None:
        self._keep = keep
        self.descriptor = descriptor
        self.path = path
        self.digest = digest
        self.size = size
        self.offset = 0
        self._hash = hashlib.sha256()
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, 0)
        buffer = bytearray(CHUNK)
        while count := os.preadv(descriptor, [buffer], self.offset):
            self._hash.update(memoryview(buffer)[:count])
            self.offset += count

    def write(self, offset: int, data: bytes | memoryview, hasher: Executor | None = None) -> None:
        """Append the next bytes.

        Args:
            offset: Where the bytes begin in the file; must be ``self.offset``.
            data: The bytes.
            hasher: Hashes the bytes while they are written; None: they are hashed before.

        Raises:
            OSError: There is no room, or was none for bytes before these.
        """
        if offset != self.offset:
            raise OSError(errno.ESPIPE, "what comes before it was not written")
        view = memoryview(data)
        hashing = None
        if hasher is not None and len(view) >= HASHED_APART_MIN:
            hashing = hasher.submit(self._hash.update, view)
        else:
            self._hash.update(view)
        try:
            while view:
                count = os.pwrite(self.descriptor, view[:WRITE_MAX], self.offset)
                self.offset += count
                view = view[count:]
        finally:
            if hashing is not None:
                hashing.result()

    def finish(self) -> bool:
        """Store the file: all has come. The part is closed in any case.

        Returns:
            False if the content is not that of the digest; then the part is removed.
        """
        try:
            if self._hash.digest() == self.digest:
                self._keep(self)
                return True
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            return False
        finally:
            self.close()

    def abandon(self) -> None:
        """Remove the part, and close it: the file is not needed."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Give up the lock. A common part stays for the next node; a part of our own is removed. Safe to repeat."""
        if self.descriptor >= 0:
            if not self.path.endswith(f"{self.digest.hex()}.part"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            os.close(self.descriptor)
            self.descriptor = -1
