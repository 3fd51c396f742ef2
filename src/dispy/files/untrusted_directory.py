"""A directory in which we put and find files, though jobs may write to it at any time.

Jobs do as they like in their working directories. The attacks: a job puts a link where we are about to make a file,
or moves a directory away while we are in it, so that we would write or read elsewhere with our rights. So no path is
ever handed to the system as a whole: directories are opened one by one, relative to the descriptor of the one above,
links are not followed, and a file gets its name only when it is finished."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from dispy.files.removal import empty_directory
from dispy.protocol.files import MODE_BITS, RESERVED, FileEntry, check_path

CHUNK = 1 << 20
"""Bytes of a file that are read and hashed at once: 0.6 ms, during which other threads run."""

SMALL_CHUNK = 64 << 10
"""Bytes of the first read when a file is hashed. A smaller file needs no buffer of ``CHUNK`` bytes."""

COPY_MAX = 64 << 20
"""Bytes of a file that are copied between two calls of ``is_wanted``, which can end the copy: some 50 ms."""

SAME_S = 1
"""Seconds by which the times of writing of equal files may differ: some file systems count in seconds. Beyond it,
``Tree.holds`` does not read the file, and says False."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory; a link in its place is an error."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to read a file that a job may have replaced: a link is an error, and a pipe does not block."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to make a file: whatever has its name already is an error."""
_numbers = itertools.count(1)
"""Serial numbers in the names of temporary files of this process. Several threads take them."""
_FICLONE = 0x40049409
"""Number of the ``ioctl`` by which a file becomes a clone of another one."""

Linker = Callable[[int, str], bool]
"""Function that puts a file into a directory without copying all of it. The arguments are the descriptor of the
directory and the file's name there. Returns False if that is not possible: then the caller copies the content."""


FindMissing = Callable[
    [list[FileEntry], Sequence[str], Callable[[list[str]], list[bool]], Callable[[], bool]], list[FileEntry]
]
"""The method ``Installed.missing``."""


class ChangedError(OSError):
    """Raised when a file was changed while it was copied: the copy is worthless, and may be tried again."""


class Tree:
    """A directory with files of ours in it. The caller must close it, or use it as a context manager.

    All paths are relative to the directory; ``protocol.files.check_path`` raises ValueError for paths that lead out.
    One thread at a time may use it.

    Args:
        directory: Descriptor of the directory, which stays the caller's. No path: a job may have put a link in the
            place of a directory on the way.
    """

    can_link = True
    """True: files of the store may be lent by links (``put``), since this process may link them."""

    def __init__(self, directory: int) -> None:
        self._root = os.dup(directory)
        self._last: tuple[tuple[str, ...], int] = ((), self._root)
        """Directory used last: the names on the way to it, and its descriptor, kept open since many files lie in one
        directory."""

    def close(self) -> None:
        """Close all descriptors that the tree has opened. To be called once."""
        self._forget_last()
        os.close(self._root)

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(
        self,
        entry: FileEntry,
        source: int,
        link: Linker | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
        is_unchanged: Callable[[], bool] = lambda: True,
    ) -> None:
        """Put a file into the directory, by a link or as a copy of an open file.

        A file that has its name is replaced: jobs see the old file or the whole new one. Missing directories on the
        way are made.

        Args:
            entry: Path, size, permission bits and time of writing of the new file.
            source: Descriptor of the open file with the content.
            link: Function that links the file in place of copying, tried first; None: copy.
            is_wanted: Called between steps of the copy; returns False to end it with OSError.
            is_unchanged: Called after the copy: returns True if the open file was not changed meanwhile.

        Raises:
            ChangedError: The open file was changed; nothing was put there.
            OSError: There is no room, something is in the way, or the copy is not wanted any more.
            ValueError: The path leads out of the directory.
        """
        *above, name = check_path(entry.path)
        parent = self.descend(tuple(above))
        if link is None or not link(parent, name):
            self._replace(parent, name, entry, source, link, is_wanted, is_unchanged)
        if name.endswith(".py"):
            _forget_compiled(parent, name)

    def _replace(
        self,
        parent: int,
        name: str,
        entry: FileEntry,
        source: int,
        link: Linker | None,
        is_wanted: Callable[[], bool],
        is_unchanged: Callable[[], bool],
    ) -> None:
        """Link or copy a file to a temporary name, and then rename it: jobs see either the old or the new file.

        The temporary file is removed after an error.
        """
        # A number for each file: other threads may be putting the same file there.
        temporary = f"{RESERVED}{os.getpid()}-{next(_numbers)}"
        try:
            if link is None or not link(parent, temporary):
                try:
                    self._make(parent, temporary, entry, source, is_wanted)
                except FileExistsError:
                    # The temporary file of a dead process that had our PID.
                    os.unlink(temporary, dir_fd=parent)
                    self._make(parent, temporary, entry, source, is_wanted)
                if not is_unchanged():
                    raise ChangedError
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise

    def _make(
        self, parent: int, name: str, entry: FileEntry, source: int, is_wanted: Callable[[], bool]
    ) -> None:
        """Copy an open file to a new one, with the permission bits and the time of ``entry``.

        Raises:
            FileExistsError: Something in directory ``parent`` has this name already.
            OSError: The copy fails (see ``copy``).
        """
        made = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            copy(source, made, entry.size, is_wanted)
            _set_status(made, entry)
        finally:
            os.close(made)

    def flush(self) -> None:
        """Return at once: ``put`` has put each file there already."""

    def nameless(self) -> int:
        """Make an empty file without a name on the file system of the directory; returns its descriptor.

        The caller closes it. Without ``finish`` the file is gone then.

        Raises:
            OSError: There is no room, or the file system has no files without names.
        """
        return os.open(f"/proc/self/fd/{self._root}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def copy_range(
        self, source: int, target: int, start: int, end: int, is_wanted: Callable[[], bool]
    ) -> None:
        """Copy bytes of an open file to the same offsets of a file of ``nameless`` (see the function)."""
        copy_range(source, target, start, end, is_wanted)

    def finish(self, made: int, entry: FileEntry) -> None:
        """Put a file of ``nameless``, which has its whole content, into the directory, as ``put`` does.

        Args:
            made: Descriptor of the file.
            entry: Path, permission bits and time of writing that it gets.

        Raises:
            OSError: There is no room, or something is in the way.
            ValueError: The path leads out of the directory.
        """
        _set_status(made, entry)

        def link(directory: int, name: str) -> bool:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)  # of a dead process that had our PID
            os.link(f"/proc/self/fd/{made}", name, dst_dir_fd=directory)
            return True

        *above, name = check_path(entry.path)
        parent = self.descend(tuple(above))
        self._replace(parent, name, entry, made, link, lambda: True, lambda: True)
        if name.endswith(".py"):
            _forget_compiled(parent, name)

    def holds_all(self, entries: list[FileEntry]) -> list[bool]:
        """Returns for each file whether the directory has it already (``holds``)."""
        return [self.holds(entry) for entry in entries]

    def find_missing(
        self,
        find_missing: FindMissing,
        entries: list[FileEntry],
        search_path: Sequence[str],
        is_wanted: Callable[[], bool],
    ) -> list[FileEntry]:
        """Returns the files to send, those of packages that are installed here left out.

        ``find_missing`` is ``Installed.missing``; its other arguments are passed on.
        """
        return find_missing(entries, search_path, self.has_names, is_wanted)

    def has_names(self, names: list[str]) -> list[bool]:
        """Returns for each name whether the directory has an entry of that name."""
        found = set(os.listdir(self._root))
        return [name in found for name in names]

    def holds(self, entry: FileEntry) -> bool:
        """True if the directory has the file of ``entry`` already: with its size, time of writing and digest.

        The content is hashed only if size and time fit. Permission bits that differ are corrected, but not of a file
        with a second name, such as one that the store has lent: they would change there, too. False if the file
        cannot be read.
        """
        *above, name = check_path(entry.path)
        try:
            parent = self.descend(tuple(above), make=False)
            descriptor = os.open(name, _READ, dir_fd=parent)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            is_like = stat.S_IMODE(status.st_mode) == entry.mode
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_size != entry.size
                or not (is_like or status.st_nlink == 1)
                or abs(status.st_mtime_ns - entry.mtime_ns) > SAME_S * 1_000_000_000
                or digest_of(descriptor) != entry.digest
            ):
                return False
            if not is_like:
                os.fchmod(descriptor, entry.mode)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def reserve(self, files: list[tuple[str, int]]) -> list[list[str]]:
        """Make way for files that are to be there for a while: files that have their names are moved aside.

        A file that lies there gets a hidden name, and its own again by ``release``. Used for the files of a single
        job, which may hide those of the computation. Without ``release`` jobs do not find the hidden file.

        Args:
            files: Path of each file, and a number that is unique in the directory, part of the hidden name: a file
                that has the hidden name is overwritten.

        Returns:
            For each file the paths of directories on the way to it that are not there, the deepest first.
        """
        missing = []
        for path, number in files:
            missing.append(self._missing_directories(path))
            *above, name = check_path(path)
            with contextlib.suppress(OSError):
                parent = self.descend(tuple(above), make=False)
                os.rename(name, f"{RESERVED}aside-{number}", src_dir_fd=parent, dst_dir_fd=parent)
        return missing

    def release(self, files: list[tuple[str, int, list[str]]], *, was_put: bool = True) -> None:
        """Remove files, and give those that ``reserve`` has moved aside their names back. Errors are ignored.

        Args:
            files: Path and number of each file, as given to ``reserve``, and directories, as returned: they are
                removed if they are empty, in this order.
            was_put: False: the files were not put there, since ``reserve`` has failed; what has their names stays,
                unless a hidden file is there to take its place.
        """
        for path, number, directories in files:
            *above, name = check_path(path)
            with contextlib.suppress(OSError):
                parent = self.descend(tuple(above), make=False)
                if was_put:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=parent)
                os.rename(f"{RESERVED}aside-{number}", name, src_dir_fd=parent, dst_dir_fd=parent)
            for made in directories:
                *above, name = check_path(made)
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=self.descend(tuple(above), make=False))

    def _missing_directories(self, path: str) -> list[str]:
        """Returns paths of the directories on the way to a file that are not there, the deepest first."""
        names = check_path(path)
        missing = []
        for depth in range(len(names) - 1, 0, -1):
            try:
                self.descend(names[:depth], make=False)
            except OSError:
                missing.append("/".join(names[:depth]))
            else:
                break
        return missing

    def empty(self, limit_s: float = float("inf")) -> bool:
        """Remove all that is in the directory, within ``limit_s`` seconds; returns False if some is left for more
        calls (``empty_directory``)."""
        self._forget_last()
        return empty_directory(self._root, limit_s)

    def remove_directory(self, path: str) -> None:
        """Remove a directory with its content, and then those above it, below the tree's own, that are empty.

        Errors are ignored.
        """
        names = check_path(path)
        with contextlib.suppress(OSError):
            empty_directory(self.descend(names, make=False))
            for depth in range(len(names), 0, -1):
                os.rmdir(names[depth - 1], dir_fd=self.descend(names[: depth - 1], make=False))

    def open_below(self, names: tuple[str, ...], *, make: bool = True) -> int:
        """Returns the descriptor of a directory below (``descend``), which the caller closes."""
        return os.dup(self.descend(names, make=make))

    def descend(self, names: tuple[str, ...], *, make: bool = True) -> int:
        """Returns the descriptor of a directory below. It stays ours, and is valid until the next call of any method.

        Args:
            names: Names of the directories on the way; empty: the directory itself.
            make: Make directories that are missing.

        Raises:
            OSError: A directory is not there (with ``make``: cannot be made), or a link is on the way.
        """
        if self._last[0] == names:
            return self._last[1]
        current = self._root
        try:
            for name in names:
                following = self._step(current, name, make)
                if current != self._root:
                    os.close(current)
                current = following
        except BaseException:
            if current != self._root:
                os.close(current)
            raise
        self._forget_last()
        self._last = (names, current)
        return current

    def _forget_last(self) -> None:
        """Close the directory that was used last."""
        if self._last[1] != self._root:
            os.close(self._last[1])
        self._last = ((), self._root)

    def _step(self, parent: int, name: str, make: bool) -> int:
        """Open a directory by its name in directory ``parent``; returns the descriptor, which the caller closes.

        With ``make`` the directory is made if it is missing.

        Raises:
            OSError: The directory is not there, cannot be made, or is a link or a file.
        """
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotADirectoryError(
                    errno.ENOTDIR, "something is there that is no directory", name
                ) from None
            raise


def _set_status(made: int, entry: FileEntry) -> None:
    """Give an open file the permission bits and the time of writing of ``entry``; an ``OSError`` is passed on."""
    os.fchmod(made, entry.mode & MODE_BITS)
    os.utime(made, ns=(entry.mtime_ns, entry.mtime_ns))


def _forget_compiled(parent: int, name: str) -> None:
    """Remove the compiled code of module file ``name`` (in directory ``parent``), which was replaced.

    Python knows compiled code by time (in seconds) and size of its source. If the old file had equal ones, jobs would
    run its code.
    """
    with contextlib.suppress(OSError):
        compiled = os.open("__pycache__", _DIRECTORY, dir_fd=parent)
        try:
            os.unlink(f"{name[:-3]}.{sys.implementation.cache_tag}.pyc", dir_fd=compiled)
        finally:
            os.close(compiled)


def digest_of(descriptor: int) -> bytes:
    """Returns the SHA-256 (32 bytes) of all of an open file. The offset of the descriptor is not used."""
    found = hashlib.sha256()
    # A buffer for a chunk costs more than hashing a small file.
    data = os.pread(descriptor, SMALL_CHUNK, 0)
    found.update(data)
    if len(data) < SMALL_CHUNK:
        return found.digest()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    offset = len(data)
    while count := os.preadv(descriptor, [buffer], offset):
        found.update(view[:count])
        offset += count
    return found.digest()


def copy(source: int, target: int, size: int, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Copy an open file into another, empty one: as a clone of its blocks where the file system can (btrfs, XFS).

    Otherwise the bytes are copied within the kernel, as by ``copy_range``.

    Args:
        source: Descriptor of the file to read from.
        target: Descriptor of the file to write to.
        size: Bytes that the source must have.
        is_wanted: Called between steps of the copy; returns False to end it with OSError.

    Raises:
        ChangedError: The source is shorter.
        OSError: There is no room, or the copy is not wanted any more.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        pass
    else:
        return
    copy_range(source, target, 0, size, is_wanted)


def copy_range(source: int, target: int, start: int, end: int, is_wanted: Callable[[], bool]) -> None:
    """Copy the bytes from offset ``start`` to before ``end`` of an open file to the same offsets of another.

    The bytes are copied within the kernel. ``is_wanted`` is asked before each step of ``COPY_MAX`` bytes.

    Raises:
        ChangedError: The source is shorter.
        OSError: There is no room, or ``is_wanted`` has returned False.
    """
    offset = start
    while offset < end:
        if not is_wanted():
            raise OSError(errno.ECANCELED, "it is not wanted any more")
        step = min(end - offset, COPY_MAX)
        try:
            count = os.copy_file_range(source, target, step, offset, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            os.lseek(target, offset, os.SEEK_SET)
            count = os.sendfile(target, source, offset, step)
        if not count:
            raise ChangedError(errno.EIO, "the file became shorter while it was copied")
        offset += count
