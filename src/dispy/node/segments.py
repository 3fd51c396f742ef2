"""Files on a memory file system that carry large payloads between the node and its workers."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from dispy.net.directories import memory_directory, private_directory


class Segments:
    """A node's directory of segments, one subdirectory per computation.

    The node holds a lock in it; what a crash leaves is removed by the next node of this user.

    Args:
        incarnation: Name of this run of the node.
    """

    def __init__(self, incarnation: str) -> None:
        base = memory_directory()
        _remove_abandoned(base)
        self.root, self._lock = _new_locked(base, incarnation)
        self._next = 1

    def open(self, name: str) -> Path:
        """The directory of a computation."""
        return private_directory(self.root / name)

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
            return (
                memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)) if size else memoryview(b"")
            )

    def remove(self, directory: Path, name: int) -> None:
        """Remove a segment; one that is gone already is fine."""
        with suppress(OSError):
            os.unlink(directory / str(name))

    def drop(self, directory: Path) -> None:
        """Remove the segments of a computation."""
        shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Remove all."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)


def _new_locked(base: Path, name: str) -> tuple[Path, int]:
    """A new directory with a lock in it, held; it appears under its name only with the lock held."""
    fresh = private_directory(base / f".{name}")
    lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(fresh, base / name)
    return base / name, lock


def _remove_abandoned(base: Path) -> None:
    """Remove directories whose node no longer holds its lock."""
    for path in base.glob("[!.]*"):
        try:
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


class WorkSpace:
    """The node's files on disk: a directory for each computation, removed with it.

    Args:
        prefix: Directory below which they go; the temporary directory if empty.
        incarnation: Name of this run of the node.
    """

    def __init__(self, prefix: str, incarnation: str) -> None:
        base = private_directory(Path(prefix or tempfile.gettempdir()) / f"dispy-node-{os.getuid()}")
        _remove_abandoned(base)
        self.root, self._lock = _new_locked(base, incarnation)

    def open(self, name: str) -> Path:
        """The working directory of a computation."""
        return private_directory(self.root / name)

    def close(self) -> None:
        """Remove all."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)
