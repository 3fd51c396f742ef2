"""A copy of a file that is made while another node receives the file.

Two nodes of a user share one store. The node that receives a file can lend it to its jobs, where that is possible;
the other node needs a copy, which it could begin only once the whole file has come. So it copies the bytes that are
there, time and again, into a file without a name (nothing is left of it if we are killed). When the file is complete
and verified, only its end has still to be copied.

The early copy itself is not verified. Why it is right all the same: as long as a file has the name of a *part* (a
file in the store that is still received) it is only appended to, by the node that hashes what it appends. So bytes
that were copied count if the part still had its name afterwards. Later the file may have been lent to a job, and the
job may have written to it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from dispy.protocol.files import FileEntry


class Directory(Protocol):
    """The directory in which jobs are to find the copy: an ``untrusted_directory.Tree``, or one that is like it."""

    def nameless(self) -> int: ...

    def copy_range(
        self, source: int, target: int, start: int, end: int, is_wanted: Callable[[], bool]
    ) -> None: ...

    def finish(self, made: int, entry: FileEntry) -> None: ...

    def close(self) -> None: ...


class Following:
    """An early copy of one file, made while another node receives it. Any thread may call the methods.

    The maker must call ``close``.

    Args:
        part: Path of the part: the file in the store to which another node appends what it receives.
        open_directory: Opens the directory in which jobs are to find the copy. ``close`` closes it.

    Raises:
        OSError: The part is not there, or the file system has no files without names.
    """

    __slots__ = ("_copied", "_directory", "_lock", "_made", "_part", "_source")

    def __init__(self, part: str, open_directory: Callable[[], Directory]) -> None:
        self._lock = threading.Lock()
        """Guards ``_source`` and ``_made`` between the threads that copy and the one that closes: closing waits until
        a copy is done."""
        self._part = part
        """Path of the part. While the file that ``_source`` has open bears this name, it is only appended to."""
        self._copied = 0
        """Bytes at the beginning of the copy that are right: they were copied while the part had its name."""
        with ExitStack() as undo:
            self._source = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            """Descriptor of the part; -1 after ``close``."""
            undo.callback(os.close, self._source)
            self._directory = open_directory()
            undo.callback(self._directory.close)
            self._made = self._directory.nameless()
            """Descriptor of the copy, a file without a name; -1 after ``close``."""
            undo.pop_all()

    def advance(self, is_wanted: Callable[[], bool]) -> None:
        """Copy bytes that have come into the part since the last call to the end of the early copy.

        Called again and again while another node receives the file. Nothing is copied if the part has lost its name,
        or after ``close``.

        Args:
            is_wanted: Called between steps of the copy; returns False to end it with OSError.

        Raises:
            OSError: There is no room, or the copy is not wanted any more.
        """
        with self._lock:
            if self._source < 0 or not self._is_coming():
                return
            size = os.fstat(self._source).st_size
            self._directory.copy_range(self._source, self._made, self._copied, size, is_wanted)
            if self._is_coming():
                self._copied = size

    def _is_coming(self) -> bool:
        """True if the file of ``_source`` still has the name of the part, so that it is only appended to.

        Asked before and after each step of copying: bytes copied in between count only if both answers are True.
        """
        try:
            return os.path.samestat(os.lstat(self._part), os.fstat(self._source))
        except FileNotFoundError:
            return False

    def finish(
        self,
        entry: FileEntry,
        source: int,
        is_wanted: Callable[[], bool],
        is_unchanged: Callable[[], bool],
    ) -> bool:
        """Complete the copy, and give it its name in the directory, where jobs find it.

        Args:
            entry: Path, permission bits, time of writing and size that the copy is to have.
            source: Descriptor of the complete file in the store, which was verified.
            is_wanted: Called between steps of the copy; returns False to end it.
            is_unchanged: Called after the copy: returns True if the source is as it was when it was verified.

        Returns:
            False if the early copy cannot be used, so that the caller links or copies the whole file: if the copy is
            closed, was made of another file, is not wanted any more, or cannot be written or named.
        """
        try:
            with self._lock:
                if self._source < 0 or not os.path.samestat(os.fstat(source), os.fstat(self._source)):
                    return False
                self._directory.copy_range(source, self._made, self._copied, entry.size, is_wanted)
                if not is_unchanged():
                    return False
                self._directory.finish(self._made, entry)
                return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the copy. Unless it was given a name, it is gone. Safe to repeat."""
        with self._lock:
            if self._source >= 0:
                os.close(self._source)
                os.close(self._made)
                self._directory.close()
                self._source = self._made = -1
