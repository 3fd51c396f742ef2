"""A node's own directories: on disk for computations, on a memory file system for large payloads."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from dispy.net.directories import memory_directory, private_directory
from dispy.processes import kill_marked

logger = logging.getLogger("dispy.node")


class Place:
    """A directory of one run of a node, with a subdirectory for each computation.

    The node holds a lock in it; what a crash leaves is removed by the next node of this user.

    Args:
        base: Where it is made; must be private.
        incarnation: Name of this run of the node.
    """

    def __init__(self, base: Path, incarnation: str) -> None:
        for path in base.glob("[!.]*"):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
        # It appears under its name only with the lock held.
        fresh = private_directory(base / f".{incarnation}")
        self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.root = base / incarnation
        os.rename(fresh, self.root)

    def open(self, name: str) -> Path:
        """The directory of a computation."""
        return private_directory(self.root / name)

    def drop(self, directory: Path) -> None:
        """Remove the directory of a computation."""
        shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Remove all; again is fine."""
        if self._lock >= 0:
            shutil.rmtree(self.root, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


class WorkSpace(Place):
    """Working directories, on disk.

    Args:
        prefix: Directory below which they go; the temporary directory if empty.
        incarnation: Name of this run of the node.
    """

    def __init__(self, prefix: str, incarnation: str) -> None:
        base = Path(prefix or tempfile.gettempdir()) / f"dispy-node-{os.getuid()}"
        super().__init__(private_directory(base), incarnation)


class Segments(Place):
    """Files on a memory file system that carry large payloads between the node and its workers.

    Their directory is also what the node's processes carry as a mark: whoever has the mark of a
    node that is dead was left behind, and is killed by the next node.
    """

    def __init__(self, incarnation: str) -> None:
        killed = kill_marked(lambda mark: _is_abandoned(Path(mark)))
        if killed:
            logger.warning("killed %d processes that a dead node had left behind", killed)
        super().__init__(memory_directory(), incarnation)
        self._next = 1

    def put(self, directory: Path, data: bytearray) -> int:
        """Write a payload; returns its name there."""
        name = self._next
        self._next += 1
        descriptor = os.open(
            directory / str(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except OSError:
            self.remove(directory, name)
            raise
        return name

    def map(self, directory: Path, name: int) -> memoryview:
        """The content of a segment, mapped."""
        with open(directory / str(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ))

    def remove(self, directory: Path, name: int) -> None:
        """Remove a segment; one that is gone already is fine."""
        with suppress(OSError):
            os.unlink(directory / str(name))


def _is_abandoned(path: Path) -> bool:
    """Whether the node that held the lock in this directory has ended without tidying up."""
    try:
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
