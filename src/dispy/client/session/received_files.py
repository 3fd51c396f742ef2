"""Files that running jobs send, on their way to the program's disk.

A file comes in parts, over the node's link, one after another. They are written to a file without a name, which
gets one when it is whole; so nothing of a file is to be seen that was not sent to its end, and nothing stays of it
when this program is killed. Each part is acknowledged when it is written, or refused. A part may come twice, after
a broken link.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets as randomness
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from dispy import config
from dispy.client.session.callback_thread import Caller
from dispy.core.scheduling.ids import NodeId
from dispy.protocol import limits
from dispy.protocol.files import RESERVED, check_path
from dispy.protocol.node import AcknowledgeProvisional, FilePart, Provisional
from dispy.system import current_directory
from dispy.system.escaping import line

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")

OPEN_MAX = 256
"""Files under way at once; of more, each takes a descriptor or two."""

_root = ""


def note_root() -> None:
    """The first cluster of the program is made: files go below the directory that is current now."""
    global _root
    if not _root:
        _root = str(current_directory.directory() or "")


class Key(NamedTuple):
    """A file under way."""

    computation: int
    number: int
    attempt: int
    transfer: int


class Arrivals:
    """Files under way to a program. Written on a thread of their own.

    Args:
        answer: Told what is to be said to which node.
        is_open: Asked whether a job of a computation has not ended.
    """

    def __init__(
        self,
        answer: Callable[[NodeId, AcknowledgeProvisional], object],
        is_open: Callable[[int, int], bool],
    ) -> None:
        self._answer = answer
        self._is_open = is_open
        self._caller = Caller("dispy files")
        self._arriving: dict[Key, _Arriving] = {}
        self._arrived: set[Key] = set()
        """Whole ones of jobs that go on: they may not know it yet."""

    def take(self, cluster: ClusterState, message: Provisional, node: NodeId) -> None:
        """A part has come; on the engine's loop."""
        self._caller.call(self._take, [(cluster.name, message, node)])

    def tidy(self) -> None:
        """Let go of what jobs have not sent to its end; on the engine's loop."""
        if self._arriving or self._arrived:
            self._caller.call(self._tidy, [()])

    def stop(self) -> None:
        """Nothing comes any more."""
        self._caller.call(self._drop_all, [()])
        self._caller.stop()

    # On our thread.

    def _take(self, name: str, message: Provisional, node: NodeId) -> None:
        part = message.file
        assert part is not None
        key = Key(message.computation, message.number, message.attempt, part.transfer)
        reason = ""
        is_there = False
        try:
            is_there = self._write(key, part, message.payload)
        except (OSError, ValueError) as error:
            reason = str(error)
            self._drop([key])
            logger.warning("file %s of a job of cluster %s is refused: %s", line(part.path), name, reason)
        told = AcknowledgeProvisional(
            message.computation, message.number, message.attempt, message.serial, is_there, reason[:1000]
        )
        self._answer(node, told)

    def _write(self, key: Key, part: FilePart, data: bytes) -> bool:
        """Write a part; False if it is to be sent again.

        Raises:
            OSError: It cannot be written.
            ValueError: It is not to be.
        """
        if key in self._arrived:
            return True
        if len(data) != min(limits.FILE_PART, max(0, part.size - part.offset)):
            return False  # there was no memory for it
        arriving = self._arriving.get(key)
        if arriving is None:
            if part.offset:
                raise ValueError("its beginning was given up here")
            if config.MaxFileSize and part.size > config.MaxFileSize:
                raise ValueError(
                    f"it has {part.size} bytes, and dispy.config.MaxFileSize is {config.MaxFileSize}"
                )
            if len(self._arriving) >= OPEN_MAX:
                return False
            if len(self._arrived) >= limits.ARRIVED_MAX:
                raise ValueError(
                    f"jobs that have not ended have sent {limits.ARRIVED_MAX} files; put more into an archive"
                )
            arriving = self._arriving[key] = _Arriving(_root, check_path(part.path))
        arriving.write(part.offset, data)
        if part.offset + len(data) == part.size:
            arriving.finish(part)
            del self._arriving[key]
            self._arrived.add(key)
        return True

    def _tidy(self) -> None:
        self._drop([key for key in self._arriving if not self._is_open(key.computation, key.number)])
        self._arrived = {key for key in self._arrived if self._is_open(key.computation, key.number)}

    def _drop_all(self) -> None:
        self._drop(list(self._arriving))

    def _drop(self, keys: list[Key]) -> None:
        for key in keys:
            arriving = self._arriving.pop(key, None)
            if arriving is not None:
                arriving.close()


class _Arriving:
    """One file that is not whole yet.

    Args:
        root: Nothing is written outside this directory.
        names: Of directories below it, and of the file.

    Raises:
        OSError: It cannot be written there.
    """

    def __init__(self, root: str, names: tuple[str, ...]) -> None:
        self._name = names[-1]
        self._hidden = ""
        """Its name meanwhile, where the file system has no files without."""
        with ExitStack() as made:
            self._directory = _open_below(root, names[:-1])
            made.callback(os.close, self._directory)
            self._file = self._open()
            made.pop_all()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE"):
            # EISDIR is what kernels say that do not know the flag.
            with suppress(OSError):
                return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._directory)
        self._hidden = _new_name()
        return os.open(self._hidden, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)

    def write(self, offset: int, data: bytes) -> None:
        """Write a part."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view, offset)
            offset += count
            view = view[count:]

    def finish(self, part: FilePart) -> None:
        """It is whole: give it its name, in place of whatever has that."""
        os.fchmod(self._file, part.mode)
        os.utime(self._file, ns=(part.atime_ns, part.mtime_ns))
        if not self._hidden:
            source = f"/proc/self/fd/{self._file}"
            try:
                os.link(source, self._name, dst_dir_fd=self._directory)
            except FileExistsError:
                self._hidden = _new_name()
                os.link(source, self._hidden, dst_dir_fd=self._directory)
        if self._hidden:
            os.replace(self._hidden, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._hidden = ""
        self.close()

    def close(self) -> None:
        """Let go of it; what has no name of its own is gone."""
        if self._hidden:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._directory)
        os.close(self._file)
        os.close(self._directory)


def _new_name() -> str:
    return f"{RESERVED}{randomness.token_hex(8)}"


def _open_below(root: str, names: tuple[str, ...]) -> int:
    """Open a directory below another, making what is missing, and following no links."""
    if not root:
        raise OSError(errno.ENOENT, "the program's directory was gone when it made its first cluster")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    directory = os.open(root, flags)
    try:
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=directory)
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
    except OSError:
        os.close(directory)
        raise
    return directory
