"""Directories of one run of a program: what a crash leaves is known by a lock and not by guessing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from dispy.system.directories import private_directory

MAKING_S = 60.0
"""A directory that is not finished after that was left by somebody who was killed at it."""


class Place:
    """A directory of one run, with subdirectories. Whoever makes it holds a lock in it.

    Args:
        base: Where it is made; must be private.
        incarnation: Name of this run.
        owner: User and group that the subdirectories are given to; None: they stay ours.
    """

    def __init__(self, base: Path, incarnation: str, owner: tuple[int, int] | None = None) -> None:
        self._owner = owner
        mode = 0o700 if owner is None else 0o711
        private_directory(base, mode)
        if owner is not None:
            os.chmod(base, mode)  # whatever the umask
        sweep(base)
        # It appears under its name only with the lock held.
        fresh = private_directory(base / f".{incarnation}", mode)
        if owner is not None:
            os.chmod(fresh, mode)
        self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.root = base / incarnation
        os.rename(fresh, self.root)

    def open(self, name: str) -> Path:
        """A subdirectory."""
        directory = private_directory(self.root / name)
        if self._owner is not None:
            os.chown(directory, *self._owner)
        return directory

    def drop(self, directory: Path) -> None:
        """Remove a subdirectory."""
        remove_tree(directory)

    def close(self) -> None:
        """Remove all; again is fine."""
        if self._lock >= 0:
            remove_tree(self.root)
            os.close(self._lock)
            self._lock = -1


def remove_tree(path: Path) -> None:
    """Remove a directory with all that somebody may have put there."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # It is gone; or is too deep for Python, or changes under it.
        if os.path.lexists(path):
            # Without descriptors or processes it stays until the place that it is in is removed.
            with suppress(OSError):
                subprocess.run(
                    ["rm", "-rf", "--", path],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )


def sweep(base: Path) -> None:
    """Remove what the dead have left."""
    for path in base.iterdir():
        if is_abandoned(path) and not (path.name.startswith(".") and _is_young(path)):
            remove_tree(path)


def _is_young(path: Path) -> bool:
    """Whether it may be a directory that somebody is making just now, and has not locked yet."""
    try:
        return time.time() - path.lstat().st_mtime < MAKING_S
    except OSError:
        return True


def is_abandoned(path: Path) -> bool:
    """Whether the program that held the lock in this directory has ended without tidying up."""
    try:
        return is_unlocked(path / "lock")
    except FileNotFoundError:
        # Whoever tidied up was killed at it; a directory gets its name when its lock is there.
        return path.is_dir()
    except OSError:
        return False


def is_unlocked(path: Path | str) -> bool:
    """Whether nobody holds the lock on a file.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
