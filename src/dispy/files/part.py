"""Parts: files on their way into the store, which receive the content of a file until it is whole.

A part is locked (``flock``) by the node that receives the file. The lock ends with the node, so a part without a lock
is where the next node goes on. Files of up to ``limits.SMALL_FILE_MAX`` bytes come in one piece, and have no part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor

from dispy.files.untrusted_directory import CHUNK

WRITE_MAX = 256 << 10
"""Largest number of bytes written to a part by one system call. The kernel takes memory for all of them in one piece.
Large free pieces are what the host of a virtual machine takes back, and gives again page by page: 200 MB in writes of
1 or 2 MiB take 0.3 to 0.6 s. In writes of up to 512 KiB they take 0.05 s, since the kernel uses what is left of
memory in use."""

HASHED_APART_MIN = 1 << 20
"""Smallest piece (bytes) that is hashed on another thread while it is written: hashing 1 MiB takes 0.6 ms. A smaller
piece is hashed before it is written, on the same thread."""


class BusyError(OSError):
    """Raised by ``Store.begin`` when another node of this user holds the part of a file, and receives the file.

    Attributes:
        size: Bytes of the file that are in that part so far. The caller tries again later, and sees by a larger
            number that the other node makes progress.
    """

    def __init__(self, size: int) -> None:
        super().__init__("another node receives it")
        self.size = size


class Part:
    """A file on its way into the store, and the lock on it, which ends with ``finish``, ``abandon`` or ``close``.

    Making a ``Part`` reads and hashes the bytes that an earlier node has left in the part; a part that is longer than
    the file is emptied. One thread at a time calls the methods.

    Args:
        keep: Called with the part by ``finish`` if its content is right; gives the part the file's name in the store.
        descriptor: Descriptor of the part, locked, open for reading and writing. Closed with the part, and -1 then.
        path: Path of the part.
        digest: SHA-256 of the whole content.
        size: Bytes of the whole content.

    Attributes:
        offset: Bytes of the file that are in the part: the next ``write`` must begin there.
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
        """Running SHA-256 of the first ``offset`` bytes of the file; compared with ``digest`` by ``finish``."""
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, 0)
        buffer = bytearray(CHUNK)
        while count := os.preadv(descriptor, [buffer], self.offset):
            self._hash.update(memoryview(buffer)[:count])
            self.offset += count

    def write(self, offset: int, data: bytes | memoryview, hasher: Executor | None = None) -> None:
        """Append bytes to the part, and hash them.

        Args:
            offset: Where the bytes begin in the file; must be ``self.offset``.
            data: The bytes.
            hasher: Pool whose thread hashes the bytes while they are written, if they are ``HASHED_APART_MIN`` or
                more; None: they are hashed before.

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
        """Give the part its name in the store if its content is right. All bytes must have been written.

        The part is closed in any case.

        Returns:
            False if the content is not that of the digest; then the part is removed.

        Raises:
            OSError: The part cannot get its name.
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
        """Remove the part with all that has come, and close it: the file is not needed, or is in the store by now."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Give up the lock and the descriptor, so that another node can go on with the part. Safe to repeat.

        The common part of a file stays for the next node, unless nothing has come; a part of this process alone
        (``apart`` of ``Store.begin``) is removed.
        """
        if self.descriptor >= 0:
            if not self.offset or not self.path.endswith(f"{self.digest.hex()}.part"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            os.close(self.descriptor)
            self.descriptor = -1
