"""Directories of one run of a program, which a later run removes after a crash.

Theory of operation: a run holds a lock (``flock``) on the file ``lock`` in its directory, and the kernel releases it
when the process ends. So a directory whose lock is free was left by a dead run. The directory is made under a hidden
name, and gets its name when the lock is held: no other run can find it without a lock, except for a directory with a
hidden name, which counts as abandoned only after ``MAKING_S``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dispy.system.directories import private_directory

MAKING_S = 60.0
"""Age (seconds) from which a directory that still has its hidden name counts as left by a process that was killed: it
is removed then. A younger one may be in the making."""


class Place:
    """A directory of one run, with subdirectories. This process holds the lock in it until ``close``.

    Making one also removes abandoned directories beside it.

    Args:
        base: Directory in which it is made; made if it is missing, and private.
        incarnation: Name of this run, which no other run has; becomes the name of the directory.
        mode: Permission bits of ``base`` and of the directory. 0o711 lets other users pass through, to subdirectories
            that are theirs.
        remove: Removes a directory of a run with all that is in it; raises no OSError. None: ``remove_tree``.

    Raises:
        StateDirectoryError: A directory cannot be made, or is not private.

    Attributes:
        root: Path of the directory.
    """

    def __init__(
        self, base: Path, incarnation: str, mode: int = 0o700, remove: Callable[[Path], None] | None = None
    ) -> None:
        self._remove_run = remove or remove_tree
        private_directory(base, mode)
        if mode != 0o700:
            os.chmod(base, mode)  # whatever the umask
        sweep(base, self._remove_run)
        # The directory gets its name only when the lock is held.
        fresh = private_directory(base / f".{incarnation}", mode)
        if mode != 0o700:
            os.chmod(fresh, mode)
        self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        """Descriptor of the locked file, which keeps others from removing the directory; -1 after ``close``."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.root = base / incarnation
        os.rename(fresh, self.root)

    def close(self) -> None:
        """Remove the directory with all that is in it, and release the lock. Safe to repeat."""
        if self._lock >= 0:
            self._remove_run(self.root)
            os.close(self._lock)
            self._lock = -1


def remove_tree(path: Path) -> None:
    """Remove a directory with all that jobs may have put there: also trees too deep for Python. Raises no OSError."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # The directory is gone; or it is too deep for Python, or was changed meanwhile.
        if os.path.lexists(path):
            # If no descriptor or process is left for this, it stays until the directory around it is removed.
            with suppress(OSError):
                subprocess.run(
                    ["rm", "-rf", "--", path],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )


def sweep(base: Path, remove: Callable[[Path], None] = remove_tree) -> None:
    """Remove directories below ``base`` that dead runs have left: unlocked, and not in the making.

    Args:
        base: Directory with the directories of runs.
        remove: Removes one with all that is in it; raises no OSError.

    Raises:
        OSError: ``base`` cannot be read.
    """
    for path in base.iterdir():
        if is_abandoned(path) and not (path.name.startswith(".") and _is_young(path)):
            remove(path)


def _is_young(path: Path) -> bool:
    """True if a directory is younger than ``MAKING_S`` or cannot be looked at: it may not have its lock yet."""
    try:
        return time.time() - path.lstat().st_mtime < MAKING_S
    except OSError:
        return True


def is_abandoned(path: Path) -> bool:
    """True if the process that held the lock in this directory has ended without removing it.

    False if the process lives, or if that cannot be told.
    """
    try:
        return is_unlocked(path / "lock")
    except FileNotFoundError:
        # A process was killed while it removed the directory: a directory gets its name only when it has a lock.
        return path.is_dir()
    except OSError:
        return False


def is_unlocked(path: Path | str) -> bool:
    """True if no process holds the lock on a file.

    Raises:
        OSError: The file cannot be opened.
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
