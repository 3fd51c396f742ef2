"""Room for large data: on the memory file system while that has some, else on disk.

Containers have 64 MB on the memory file system (Docker's default), or none. We must not fill it: that would kill
other programs that map files there (SIGBUS). Nor may files there take more than half of the memory that the container
has. Files on disk are mapped in the same way, but written by ``write`` before: so a full disk kills no process that
maps them."""

from __future__ import annotations

import errno
import functools
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from dispy.system.control_groups import memory_limit

_SPARED_SHARE = 8
"""Divisor: one part in this many of a memory file system is left to other programs, at most ``_SPARED_MAX`` bytes. A
file that would take of this part goes to disk, if there is a directory on disk."""

_SPARED_MAX = 64 * 1024 * 1024
"""Largest number of bytes of a memory file system that are left to other programs."""

SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of system calls that mean no room: on the file system, in the user's quota, by ``ulimit -f``."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
"""Flags of ``os.open`` for a file whose name must be new."""


class Room(NamedTuple):
    """Two directories for files of one purpose, such as payloads: in memory, and on disk where memory has no room.

    A file is looked for in memory first (``find``).

    Attributes:
        memory: Path on the memory file system; empty if there is none.
        disk: Path on disk; empty if there is none.
    """

    memory: str
    disk: str


class NoRoomError(OSError):
    """Raised when there is no room on the memory file system and none on disk.

    Args:
        room: The two directories.
        size: Bytes that found no room.

    Attributes:
        is_passing: True if there may be room later, when other payloads are gone: an empty file system would be large
            enough. Callers then try again; if False, they give up.
    """

    def __init__(self, room: Room, size: int) -> None:
        sizes = _sizes(room)
        allowed, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if allowed != resource.RLIM_INFINITY and size > allowed:
            self.is_passing = False
            super().__init__(errno.EFBIG, f"a file of {_mib(size)} is larger than allowed: see 'ulimit -f'")
            return
        self.is_passing = any(size <= total - _spared(kind, total) for kind, _, total, _ in sizes)
        places = " and ".join(
            f"{kind} {_mount_of(directory)} ({_mib(free)} of {_mib(total)} free)"
            for kind, directory, total, free in sizes
        )
        super().__init__(
            errno.ENOSPC,
            f"there is no room for {_mib(size)} on {places or 'any file system'}; give the first more "
            "(docker run --shm-size=2g), make room on the disk, or start the node with TMPDIR on a larger one"
            + ("; see also 'df -i' and 'quota'" if has_room(room, size) else ""),
        )

    def __str__(self) -> str:
        return str(self.strerror)


@functools.cache
def memory_max() -> int:
    """Returns the bytes that files on memory file systems may take; 0 if there is no limit of control groups.

    That is half the memory limit of our control groups, as the kernel counts these files as memory of the processes.
    The limit is read once. A process that forks others calls this before, to spare them the reading.
    """
    return (memory_limit() or 0) // 2


def kept_max(directory: str, most: int) -> int:
    """Returns the bytes of files without a use that a directory in memory may keep, to use them again later.

    That is a quarter of the file system, at most ``most`` bytes; 0 if the directory is not there.
    """
    try:
        total, _ = _memory(directory)
    except OSError:
        return 0
    return min(most, total // 4)


def fits_in_memory(directory: str, size: int) -> bool:
    """True if a directory in memory has room for a file of ``size`` bytes beside what is left to other programs.

    False if not, or if the directory is not there: callers then write to disk, or take anonymous memory.
    """
    try:
        total, free = _memory(directory)
    except OSError:
        return False
    return size <= free - _spared(_MEMORY, total)


_MEMORY = "the memory file system"
_DISK = "the disk"
"""Kind of a file system, in the words of ``NoRoomError``: ``_MEMORY`` or ``_DISK``. Only on a memory file system is
room left to other programs (``_spared``)."""


def _spared(kind: str, total: int) -> int:
    """Returns how many of the ``total`` bytes of a file system are left to other programs; 0 on disk.

    ``kind`` is ``_MEMORY`` or ``_DISK``.
    """
    return min(total // _SPARED_SHARE, _SPARED_MAX) if kind == _MEMORY else 0


def _memory(directory: str) -> tuple[int, int]:
    """Returns the bytes that a memory file system may hold, and how many of these are free (may be negative).

    That is its size, or ``memory_max`` if that is less.

    Raises:
        OSError: The directory is not there.
    """
    total, free = _disk(directory)
    limit = memory_max()
    if 0 < limit < total:
        return limit, limit - (total - free)
    return total, free


def _disk(directory: str) -> tuple[int, int]:
    """Returns size and free bytes of the file system that a directory is on; 2**60 twice if it does not tell.

    Raises:
        OSError: The directory is not there.
    """
    status = os.statvfs(directory)
    if not status.f_blocks:  # the file system has no limit, or does not tell it
        return 1 << 60, 1 << 60
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def places(room: Room, size: int) -> list[str]:
    """Returns the directories in which to try a file of ``size`` bytes, memory first; none if it fits nowhere.

    A directory with too little room is left out: the file would take the last bytes from others before it fails. But
    a directory in memory is tried in any case if there is none on disk.
    """
    found = [room.memory] if room.memory and (not room.disk or fits_in_memory(room.memory, size)) else []
    if room.disk and _fits_on_disk(room.disk, size):
        found.append(room.disk)
    return found


def has_room(room: Room, size: int) -> bool:
    """True if a file of ``size`` bytes would find room now, in memory or on disk.

    Where there is no directory on disk, the file may take all bytes of the memory file system.
    """
    if room.memory and fits_in_memory(room.memory, size):
        return True
    return _fits_on_disk(room.disk or room.memory, size)


def _fits_on_disk(directory: str, size: int) -> bool:
    """True if ``size`` bytes are free on the file system of a directory, or if that cannot be told."""
    try:
        return size <= _disk(directory)[1]
    except OSError:
        return True  # the attempt to write will say what is wrong


def write_new(room: Room, name: str, size: int, fill: Callable[[int], None]) -> str:
    """Make and fill a file where there is room; returns its path.

    Args:
        room: The directories in which it may be.
        name: Name of the file, new in both directories.
        size: Bytes that the file will have.
        fill: Writes the content to a descriptor. Called again for the other directory if it raises OSError.

    Raises:
        NoRoomError: There is no room.
        FileExistsError: The name exists.
        OSError: The file cannot be made for another reason.
    """
    failure: OSError | None = None
    for directory in places(room, size):
        path = f"{directory}/{name}"
        try:
            descriptor = os.open(path, _NEW, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            failure = error
            continue
        try:
            fill(descriptor)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(path)
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return path
        finally:
            os.close(descriptor)
    if failure is None or failure.errno in SHORT:
        raise NoRoomError(room, size) from failure
    raise failure


def find(room: Room, name: str) -> str:
    """Returns the path of a file that is in one of the two directories. Memory is looked at first.

    If the file is in neither, the path in memory is returned, or that on disk if there is no directory in memory.
    """
    if room.memory:
        path = f"{room.memory}/{name}"
        if not room.disk or os.path.lexists(path):
            return path
        other = f"{room.disk}/{name}"
        return other if os.path.lexists(other) else path
    return f"{room.disk}/{name}"


def _sizes(room: Room) -> list[tuple[str, str, int, int]]:
    """Returns, for each directory: kind of its file system in words, path, bytes of the file system, and free bytes.

    Memory comes first; a directory that is missing is left out. Used for the text of ``NoRoomError``.
    """
    found = []
    for kind, directory, look in ((_MEMORY, room.memory, _memory), (_DISK, room.disk, _disk)):
        with suppress(OSError):
            if directory:
                total, free = look(directory)
                found.append((kind, directory, total, max(0, free)))
    return found


def _mount_of(directory: str) -> str:
    """Returns the mount point of the file system that a directory is on."""
    with suppress(OSError):
        device = os.stat(directory).st_dev
        while (above := os.path.dirname(directory)) != directory and os.stat(above).st_dev == device:
            directory = above
    return directory


def _mib(size: int) -> str:
    """Returns a number of bytes in words, for errors: "12 MiB", or "500 bytes"."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size:,} bytes"
