"""A node's own directories: on disk for computations, on a memory file system for large payloads."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from dispy.net.directories import memory_directory, private_directory
from dispy.node.accounts import Account
from dispy.processes import kill_marked

logger = logging.getLogger("dispy.node")


class Place:
    """A directory of one run of a node, with a subdirectory for each computation.

    The node holds a lock in it; what a crash leaves is removed by the next node of this user.

    Args:
        base: Where it is made; must be private.
        incarnation: Name of this run of the node.
        account: Whom the computations' directories are given to; None: they stay ours.
    """

    def __init__(self, base: Path, incarnation: str, account: Account | None) -> None:
        self._account = account
        mode = 0o700 if account is None else 0o711
        private_directory(base, mode)
        if account is not None:
            os.chmod(base, mode)  # whatever the umask
        for path in base.glob("[!.]*"):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
        # It appears under its name only with the lock held.
        fresh = private_directory(base / f".{incarnation}", mode)
        if account is not None:
            os.chmod(fresh, mode)
        self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.root = base / incarnation
        os.rename(fresh, self.root)

    def open(self, name: str) -> Path:
        """The directory of a computation."""
        directory = private_directory(self.root / name)
        if self._account is not None:
            os.chown(directory, self._account.uid, self._account.gid)
        return directory

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
        account: Whose they are; None: ours.
    """

    def __init__(self, prefix: str, incarnation: str, account: Account | None = None) -> None:
        name = f"dispy-node-{os.getuid()}" + (f"-{account.name}" if account else "")
        super().__init__(Path(prefix or tempfile.gettempdir()) / name, incarnation, account)


class Segments(Place):
    """Files on a memory file system that carry large payloads between the node and its workers.

    Their directory is also what the node's processes carry as a mark: whoever has the mark of a
    node that is dead was left behind, and is killed by the next node.
    """

    def __init__(self, incarnation: str, account: Account | None = None) -> None:
        killed = kill_marked(lambda mark: _is_abandoned(Path(mark)))
        if killed:
            logger.warning("killed %d processes that a dead node had left behind", killed)
        base = memory_directory()
        if account is not None:
            # Ours lets nobody pass.
            base = base.with_name(f"{base.name}-{account.name}")
        super().__init__(base, incarnation, account)
        self._next = 1

    def put(self, directory: Path, data: bytearray) -> int:
        """Write a payload; returns its name there."""
        name = self._next
        self._next += 1
        self._write(directory / str(name), data)
        return name

    def put_code(self, directory: Path, code: bytes) -> Path:
        """Write what a host loads, and removes."""
        path = directory / "code"
        with suppress(FileNotFoundError):
            path.unlink()
        self._write(path, code)
        return path

    def _write(self, path: Path, data: bytes | bytearray) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                if self._account is not None:
                    os.fchown(descriptor, self._account.uid, self._account.gid)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise

    def map(self, directory: Path, name: int) -> memoryview:
        """The content of a segment, mapped.

        Workers write them, so one may be a link to a file of ours, a pipe nobody writes to, or shrink while we
        read. Where they run as we do that is their own affair; those of another account get what
        they wrote and nothing else.

        Raises:
            OSError: It is not there, or not a plain file of theirs.
        """
        descriptor = os.open(
            directory / str(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            owner = os.getuid() if self._account is None else self._account.uid
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_nlink != 1:
                raise OSError(f"segment {name} is not what a worker writes")
            if not status.st_size:
                return memoryview(b"")
            if self._account is not None:
                return memoryview(file.read(status.st_size))
            return memoryview(mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ))

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
