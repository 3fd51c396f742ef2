"""The store of a user's nodes: files that were sent to them, by content.

Theory of operation:

- A file lies under the name of its SHA-256 and is written once. All nodes of a user share the store.
- A file is received in a *part* (``files.part``), which the receiving node locks. Another node that wants the file
  waits as long as that node makes progress. A part without a lock is where the next node goes on.
- Jobs may be *lent* a file: they get a hard link to it in their working directory, instead of a copy.
- No file is trusted for its name alone. Unless a node has written or hashed it since the machine was started, and
  since it was lent (``files.verification``), it is hashed before it is used. So a file that a crash has cut, or that
  a job has changed, is dropped and received anew. That takes the place of ``fsync``.

Layout: ``ab/abcd…`` a file; ``….part`` its part; ``…-PID-N.part`` a part of one process; ``….lent`` the note of a
lent file; ``lock`` held while a node trims.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from dispy.files.copy_in_progress import Directory, Following
from dispy.files.part import BusyError, Part
from dispy.files.untrusted_directory import Linker, copy_range, digest_of
from dispy.files.verification import has_mark, mark, note_of, seen, unmark
from dispy.protocol.files import FileEntry
from dispy.system.directories import reopen_private
from dispy.system.run_directory import is_unlocked

VERIFIED_MAX = 200_000
"""Files that this process remembers to have verified: 30 MB of memory. When there are more, all are forgotten; then a
mark, a note or a new hash has to prove each file."""

YOUNG_S = 60
"""Seconds since its last use during which a part is not trimmed, though it has no lock: a node may be about to take
the lock."""

FRESH_S = 60
"""Seconds within which several uses of a file count as one: its time of access, the order of trimming, is set
once."""

NOTED_MIN = 1 << 20
"""Smallest lent file (bytes) that gets a note for other nodes. Hashing a smaller file takes no longer than its
note."""

FOLLOWED_MIN = 16 << 20
"""Smallest file (bytes) that is copied while another node receives it. A smaller file is copied in 5 ms
afterwards."""

_NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of each ``open`` in the store: no link is followed, and no child process inherits the descriptor."""


class Store:
    """Files by their content. Several threads may call the methods.

    Args:
        root: Directory of the store, the user's alone. Made on first use.
        size_max: Bytes that ``trim`` leaves at most. Between two trims there may be more.
    """

    def __init__(self, root: Path, size_max: int) -> None:
        self._root = root
        self._size_max = size_max
        self._verified: dict[bytes, tuple[int, int, int, int]] = {}
        """Inode, size and times (``verification.seen``) that each file had when this process verified it, by digest.
        As long as they are the same the file is not hashed again."""
        self._numbers = itertools.count(1)
        """Serial numbers in the names of temporary files and parts of this process alone."""
        self._has_grown = True
        """True if files were added since the last ``trim``, or before this process began. False: ``trim`` has nothing
        to do."""
        self._is_ours = False
        """True once the directory was made, or found to be the user's alone: checked before the first write only."""

    def _path(self, digest: bytes, ending: str = "") -> str:
        """Returns the path of a file in the store; with an ``ending`` of its part (".part") or note (".lent")."""
        name = digest.hex()
        return f"{self._root}/{name[:2]}/{name}{ending}"

    def _open(self, path: str, flags: int, mode: int) -> int:
        """Open a file of the store to write to it; returns the descriptor. The file is made if it is missing.

        Missing directories above it are made, too. ``mode`` is that of a new file.

        Raises:
            OSError: The file cannot be opened or made, or the store cannot be made, or is open to other users.
        """
        if not self._is_ours:
            reopen_private(self._root)
            self._is_ours = True
        try:
            return os.open(path, flags | os.O_CREAT | _NOFOLLOW, mode)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            return os.open(path, flags | os.O_CREAT | _NOFOLLOW, mode)

    def find(self, digest: bytes, size: int) -> int | None:
        """Returns a descriptor to read a file, or a copy of it; None if the store lacks the file, or has it damaged.

        A damaged file is removed from the store. The caller must close the descriptor, and ask ``is_unchanged`` after
        it has read.
        """
        return self._look(digest, size, self._checked)

    def _look(self, digest: bytes, size: int, check: Callable[[int, bytes, int], int | None]) -> int | None:
        """Open a file, and return the descriptor that ``check`` makes of it; None if the file is not there, or wrong.

        Args:
            digest: SHA-256 of the file.
            size: Bytes of the file.
            check: ``_glanced`` or ``_checked``, called with descriptor, digest and size; returns None if the content
                is wrong. Then the file is removed from the store.
        """
        path = self._path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
        except OSError:
            return None
        found = None
        try:
            found = check(descriptor, digest, size)
            if found is None:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            elif found == descriptor:
                self._touch(descriptor, digest)
        except OSError:
            found = None
        if found != descriptor:
            os.close(descriptor)
        return found

    def _touch(self, descriptor: int, digest: bytes) -> None:
        """Note by its time of access that a file is used: ``trim`` removes files that were used longest ago first."""
        now = time.time_ns()
        status = os.fstat(descriptor)
        # A lent file is left alone: setting its times would hide that a job has written to it.
        if status.st_nlink == 1 and now - status.st_atime_ns > FRESH_S * 1_000_000_000:
            os.utime(descriptor, ns=(now, status.st_mtime_ns))
            self._remember(digest, os.fstat(descriptor))

    def has(self, digest: bytes, size: int) -> bool:
        """True if the store has a file with the right content. A file with wrong content is removed from it."""
        descriptor = self._look(digest, size, self._glanced)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def _is_known(self, digest: bytes, descriptor: int, status: os.stat_result) -> bool:
        """True if memory, a mark or a note proves the content (``files.verification``), so that it is not hashed.

        A proof holds if the file (``status``) was not written to since a node verified or lent it.
        """
        return (
            self._verified.get(digest) == seen(status)
            or has_mark(descriptor, status)
            or self._is_noted(digest, status)
        )

    def _glanced(self, descriptor: int, digest: bytes, size: int) -> int | None:
        """Returns the descriptor if the content is right at this moment; None if it is not.

        The file is hashed unless a proof spares that. A job that was lent the file may change it at any time after:
        that is enough for ``has``, which hands out no descriptor; ``find`` uses ``_checked``.
        """
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return None
        is_known = self._is_known(digest, descriptor, status)
        if not is_known and digest_of(descriptor) != digest:
            return None
        if is_known or status.st_nlink == 1:
            self._remember(digest, status)
        return descriptor

    def _checked(self, descriptor: int, digest: bytes, size: int) -> int | None:
        """Returns a descriptor whose content is right, and for which later changes can be seen; None if it is wrong.

        A lent file that may have been written to is copied, and the copy is hashed: a write sets the time first
        and the bytes after that, and a mapped page is written to again without a new time. So content that is right
        while it is hashed can be wrong after that, with the same times.
        """
        status = os.fstat(descriptor)
        if status.st_nlink == 1 or status.st_size != size or self._is_known(digest, descriptor, status):
            return self._glanced(descriptor, digest, size)
        copied = self._nameless(size)
        try:
            copy_range(descriptor, copied, 0, size, lambda: True)
            is_right = digest_of(copied) == digest
            if is_right:
                self._remember(digest, os.fstat(copied))
                return copied
        except OSError:
            os.close(copied)
            raise
        os.close(copied)
        return None

    def _nameless(self, size: int) -> int:
        """Make an empty file without a name, which is gone when it is closed; returns its descriptor.

        ``size`` is the number of bytes that are to be written to it: up to ``NOTED_MIN`` bytes are in memory, more
        are on disk, in the directory of the store.
        """
        if size <= NOTED_MIN:
            return os.memfd_create("dispy", os.MFD_CLOEXEC)
        return os.open(self._root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def is_unchanged(self, digest: bytes, descriptor: int) -> bool:
        """True if a file is still as it was when ``find`` opened it, or when this process lent it.

        False also if its proof was forgotten (``VERIFIED_MAX``). After False a copy is worthless, and made again.
        """
        return self._verified.get(digest) == seen(os.fstat(descriptor))

    def _remember(self, digest: bytes, status: os.stat_result) -> None:
        """Note that a file with this status has the right content, so that this process does not hash it again."""
        if len(self._verified) >= VERIFIED_MAX:
            self._verified.clear()
        self._verified[digest] = seen(status)

    def add(self, digest: bytes, data: bytes | memoryview) -> bool:
        """Store a small file at once, without a part. Returns False, and stores nothing, if the data is wrong.

        Raises:
            OSError: There is no room; nothing is stored.
        """
        if hashlib.sha256(data).digest() != digest:
            return False
        temporary = self._path(digest, f"-{os.getpid()}-{next(self._numbers)}.part")
        descriptor = self._open(temporary, os.O_WRONLY | os.O_EXCL, 0o400)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, "no space left on device")
            os.rename(temporary, self._path(digest))
            status = os.fstat(descriptor)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        self._remember(digest, status)
        self._has_grown = True
        return True

    def begin(self, digest: bytes, size: int, *, apart: bool = False) -> Part:
        """Open the part of a file, to receive the file from where the part ends.

        The caller must call ``finish``, ``abandon`` or ``close`` of the part.

        Args:
            digest: SHA-256 of the file.
            size: Bytes of the file.
            apart: Use a part of this process alone: another node holds the common one, and stands still.

        Raises:
            BusyError: Another node holds the lock on the part, and receives the file.
            OSError: The part cannot be written.
        """
        ending = f"-{os.getpid()}-{next(self._numbers)}.part" if apart else ".part"
        path = self._path(digest, ending)
        while True:
            descriptor = self._open(path, os.O_RDWR, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between opening and locking, the part may have become the file, or been removed.
                if os.fstat(descriptor).st_ino == os.stat(path, follow_symlinks=False).st_ino:
                    return Part(self.finish, descriptor, path, digest, size)
            except BlockingIOError:
                received = os.fstat(descriptor).st_size
                os.close(descriptor)
                raise BusyError(received) from None
            except FileNotFoundError:
                pass
            os.close(descriptor)

    def finish(self, part: Part) -> None:
        """Make a part the file of the store, by renaming it. Called by ``Part.finish`` when the content is right.

        Raises:
            OSError: The part cannot be renamed.
        """
        mark(part.descriptor)
        os.fchmod(part.descriptor, 0o400)
        os.rename(part.path, self._path(part.digest))
        self._remember(part.digest, os.fstat(part.descriptor))
        self._has_grown = True

    def linker(self, entry: FileEntry, descriptor: int, group: int | None) -> Linker | None:
        """Returns a function that lends a file, by a hard link where jobs find it; None if it has to be copied.

        The function takes the descriptor of a directory and a name; it returns False if the file has to be copied.

        A link shares mode and times with the file itself. Jobs of our own account may write to a lent file; then
        its time is no longer the one that we gave it, and we drop it from the store. So such a file has one link at a
        time, and files of no other job change. Jobs of another account are lent only files that no one may write
        to, any number of times.

        Args:
            entry: Permission bits and time of writing that the linked file is to have.
            descriptor: Descriptor of the file in the store, as ``find`` has opened it.
            group: Group of jobs of another account; None: jobs run under our account.
        """
        if group is None and not (self._knows_changes and entry.mode & 0o400):
            return None
        if group is not None and not _is_for_all(entry):
            return None

        def link(directory: int, name: str) -> bool:
            try:
                # Two nodes may want to lend the same file: one of them is first, the other copies.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    return self._lend(entry, descriptor, group, directory, name)
                finally:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            except OSError:
                return False

        return link

    def _lend(
        self, entry: FileEntry, descriptor: int, group: int | None, directory: int, name: str
    ) -> bool:
        """Link a file into a directory, under ``name``; returns False if the file has to be copied.

        That is so if it was changed since it was verified, or is lent already and may not have one more link. Sets
        mode and time of the file. The caller holds the lock on it, so no other node lends it meanwhile.
        """
        status = os.fstat(descriptor)
        is_like = stat.S_IMODE(status.st_mode) == entry.mode and status.st_mtime_ns == entry.mtime_ns
        if status.st_nlink > 1 and not (is_like and group is not None):
            return False
        if self._verified.get(entry.digest) != seen(status):
            return False
        # Link the file that was verified, whatever file has its name by now.
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory)
        if not is_like:
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(time.time_ns(), entry.mtime_ns))
            if group is not None:
                os.fchown(descriptor, -1, group)
                mark(descriptor)
        if group is None:
            unmark(descriptor)
        status = os.fstat(descriptor)
        self._remember(entry.digest, status)
        if group is None and entry.size >= NOTED_MIN:
            self._note(entry.digest, status)
        return True

    def _note(self, digest: bytes, status: os.stat_result) -> None:
        """Write the note that spares other nodes hashing a lent file. A job that writes to the file makes it void.

        Errors are ignored: without the note the other nodes hash the file.
        """
        path = self._path(digest, _NOTE)
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            descriptor = self._open(path, os.O_WRONLY | os.O_EXCL, 0o400)
            try:
                os.write(descriptor, note_of(status))
            finally:
                os.close(descriptor)

    def _is_noted(self, digest: bytes, status: os.stat_result) -> bool:
        """True if the note of a lent file fits its status: no job has written to the file since it was lent."""
        try:
            descriptor = os.open(self._path(digest, _NOTE), os.O_RDONLY | _NOFOLLOW)
        except OSError:
            return False
        try:
            return os.read(descriptor, 1024) == note_of(status)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def follow(self, entry: FileEntry, open_directory: Callable[[], Directory]) -> Following | None:
        """Begin an early copy of a file that another node receives; returns None if impossible or not needed.

        The caller must close the copy. Not needed are copies of small files, and copies on file systems that clone
        files.

        Args:
            entry: The file.
            open_directory: Opens the working directory of the jobs that need the file: the copy is made there.
        """
        if entry.size < FOLLOWED_MIN or self._kind in _CLONING:
            return None
        try:
            directory = open_directory()
        except OSError:
            return None
        try:
            return Following(self._path(entry.digest, ".part"), directory)
        except OSError:
            directory.close()
            return None

    @functools.cached_property
    def _kind(self) -> str:
        """Type of the file system that the store is on, such as "ext4"; empty if unknown.

        From the type follows whether files can be lent to jobs of our account, and whether early copies pay.
        """
        return filesystem(self._root)

    @property
    def _knows_changes(self) -> bool:
        """True if the file system notes the time of every write, mapped ones too, and cannot clone files.

        Only then are files lent to jobs of our own account: a change by a job is seen, and a copy would cost more.
        """
        return self._kind in ("ext2", "ext3", "ext4")

    def trim(self) -> None:
        """Remove files used longest ago until ``size_max`` bytes are left. Does nothing while another node trims."""
        if not self._has_grown or not self._root.is_dir():
            return
        self._has_grown = False
        with contextlib.suppress(OSError):
            lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._trim()
            finally:
                os.close(lock)

    def _trim(self) -> None:
        """Remove files and parts, used longest ago first, until ``size_max`` bytes of disk are left.

        The caller holds the lock on the file ``lock`` of the store.

        Parts stay that a node receives, or that were used in the last ``YOUNG_S`` seconds.
        """
        found = []
        for directory in os.scandir(self._root):
            if directory.is_dir(follow_symlinks=False):
                for item in os.scandir(directory):
                    with contextlib.suppress(OSError):
                        status = item.stat(follow_symlinks=False)
                        found.append((status.st_atime_ns, status.st_blocks * 512, item.path))
        left = sum(size for _, size, _ in found)
        young = time.time_ns() - YOUNG_S * 1_000_000_000
        for used, size, path in sorted(found):
            if left <= self._size_max:
                return
            if not path.endswith(".part") or (used < young and _is_free(path)):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    left -= size
                    if not path.endswith((".part", _NOTE)):
                        os.unlink(path + _NOTE)


_NOTE = ".lent"
"""Ending of the name of a note, a file that says what status a file had when it was lent."""

_CLONING = ("bcachefs", "btrfs", "ocfs2", "xfs")
"""Types of file systems that can clone files: a copy costs nothing there, so none is made early."""


def _is_for_all(entry: FileEntry) -> bool:
    """True if a file may be lent to many jobs of another account, by its mode: all may read, no one may write."""
    return not entry.mode & 0o222 and bool(entry.mode & 0o004)


def filesystem(path: Path) -> str:
    """Returns the kind of file system that a path is on, such as "ext4"; empty if the kernel does not tell."""
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as mounts:
        for mount in mounts:
            place, _, kind = mount.partition(" - ")
            if place.split()[2] == name:
                return kind.split()[0]
    return ""


def _is_free(path: str) -> bool:
    """True if no node holds the lock on a part, so that it may be trimmed. False also if the part is gone."""
    try:
        return is_unlocked(path)
    except OSError:
        return False
