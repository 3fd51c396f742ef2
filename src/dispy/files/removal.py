"""Removal of what jobs have left in a directory: trees of any depth, directories without permissions, many files."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time

from dispy.protocol.files import RESERVED

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory; a link in its place is an error."""

_numbers = itertools.count(1)
"""Serial numbers in the names that subdirectories get on their way to removal."""


DEPTH_MAX = 50
"""Levels of subdirectories that are open at once. What lies deeper is first moved up."""


class _OutOfTime(Exception):
    """Raised when the time for a removal is over."""


def empty_directory(directory: int, limit_s: float = float("inf")) -> bool:
    """Remove all that is in a directory; the directory stays. Links are removed and not followed.

    Below ``DEPTH_MAX`` levels a subdirectory is moved up into ``directory``, under a name of ours. So a tree of any
    depth takes a bounded number of descriptors, and no path ever has more than one name. What cannot be removed, such
    as a mount point, stays.

    Args:
        directory: Descriptor of the directory.
        limit_s: Seconds after which the call returns, though files are left: the caller calls again.

    Returns:
        True if the directory is empty, or nothing more in it can be removed. False if the time is over.
    """
    deadline = time.monotonic() + limit_s
    try:
        while _clear(directory, directory, 0, deadline):
            pass
    except _OutOfTime:
        return False
    return True


def _clear(directory: int, top: int, depth: int, deadline: float) -> bool:
    """Remove the entries of a directory, ``depth`` levels below ``top``; returns True if anything changed.

    Raises:
        _OutOfTime: The deadline has passed.
    """
    is_changed = False
    for name in os.listdir(directory):
        if time.monotonic() > deadline:
            raise _OutOfTime
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=directory)
                is_changed = True
            else:
                is_changed |= _clear_below(directory, name, status.st_mode, top, depth, deadline)
    return is_changed


def _clear_below(directory: int, name: str, mode: int, top: int, depth: int, deadline: float) -> bool:
    """Remove a subdirectory, or at least some of what is in it, or move it up; returns True if anything changed.

    Raises:
        OSError: Nothing of that is possible.
        _OutOfTime: The deadline has passed.
    """
    if mode & 0o700 != 0o700:
        # A directory is also moved only by a process that may write to it, since its ".." changes.
        _permit(directory, name)
    is_changed = False
    if depth < DEPTH_MAX:
        below = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            is_changed = _clear(below, top, depth + 1, deadline)
        finally:
            os.close(below)
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:
        if depth < DEPTH_MAX:
            return is_changed
        moved = f"{RESERVED}gone-{os.getpid()}-{next(_numbers)}"
        os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
    return True


def _permit(parent: int, name: str) -> None:
    """Give a subdirectory of ``parent`` all permissions for its owner. A link that has taken its place is an error.

    Raises:
        OSError: The entry is no directory, or another user's.
    """
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{found}", 0o700)
    finally:
        os.close(found)
