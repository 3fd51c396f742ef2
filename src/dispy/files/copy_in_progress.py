"""A copy of a file that is made while another node receives it.

Two nodes of a user have one store: one of them receives a file, and is lent it where that is possible; the other
needs a copy. It would begin with that when all has come. So it copies what has come so far, time and again, into
a file that has no name (nothing is left of it if we are killed), and only the end is missing when the file is
there, and found to be what it should be.

What is copied early was not looked at by anybody. That it is what was found to be right follows from this: as long
as a file has the name of a part it is only added to, by the node that hashes what it adds. So what was copied
counts if the part still had its name afterwards. Later it may have been lent, and a job may have written to it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from dispy.files.untrusted_directory import Linker, copy_range
from dispy.protocol.files import MODE_BITS, FileEntry


class Following:
    """A copy that is made of a part; to be closed. Used by several threads.

    Args:
        part: Path of what is being received.
        work: A directory on the file system where the copy is to be.

    Raises:
        OSError: It is not there, or the file system knows no files without names.
    """

    __slots__ = ("_copied", "_lock", "_made", "_part", "_source")

    def __init__(self, part: str, work: Path) -> None:
        self._lock = threading.Lock()
        """Guards the descriptors: who closes them waits for who copies."""
        self._part = part
        self._copied = 0
        """Bytes that count."""
        self._source = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._made = os.open(work, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            os.close(self._source)
            raise

    def advance(self, is_wanted: Callable[[], bool]) -> None:
        """Copy what has come since the last time; nothing if no more comes there.

        Raises:
            OSError: There is no room, or nobody wants it any more.
        """
        with self._lock:
            if self._source < 0 or not self._is_coming():
                return
            size = os.fstat(self._source).st_size
            copy_range(self._source, self._made, self._copied, size, is_wanted)
            if self._is_coming():
                self._copied = size

    def _is_coming(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self._part), os.fstat(self._source))
        except FileNotFoundError:
            return False

    def linker(
        self,
        entry: FileEntry,
        source: int,
        owner: tuple[int, int] | None,
        is_wanted: Callable[[], bool],
        is_unchanged: Callable[[], bool],
    ) -> Linker:
        """Gives the copy a name where jobs find it, when the file is there.

        Args:
            entry: What the file is to be.
            source: Open; found to be what it should be.
            owner: User and group that the copy is given to; None: it stays ours.
            is_wanted: Asked while the rest is copied.
            is_unchanged: Whether the source still is what was found; asked after that.
        """

        def link(directory: int, name: str) -> bool:
            try:
                with self._lock:
                    if self._source < 0 or not os.path.samestat(os.fstat(source), os.fstat(self._source)):
                        return False
                    copy_range(source, self._made, self._copied, entry.size, is_wanted)
                    if not is_unchanged():
                        return False
                    if owner is not None:
                        os.fchown(self._made, *owner)
                    os.fchmod(self._made, entry.mode & MODE_BITS)
                    os.utime(self._made, ns=(entry.mtime_ns, entry.mtime_ns))
                    os.link(f"/proc/self/fd/{self._made}", name, dst_dir_fd=directory)
                    return True
            except OSError:
                return False

        return link

    def close(self) -> None:
        """It is where it belongs, or not needed; again is fine."""
        with self._lock:
            if self._source >= 0:
                os.close(self._source)
                os.close(self._made)
                self._source = self._made = -1
