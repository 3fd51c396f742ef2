"""Files that running jobs send to the program (``dispy_send_file``), written below its current directory.

Theory of operation. A file comes in parts over the node's link, one after another. A thread writes them to a file
without a name (``O_TMPFILE``), which gets its name when it is complete. So an incomplete file is never seen, and
nothing of it stays when this program is killed. Each part is acknowledged when it is written, or refused with a
reason. A part may come twice, after a broken link: ``_arrived`` remembers complete files, so that the acknowledgement
is sent again. A path from a job is untrusted: it is opened name by name below the root, and no symbolic link is
followed.
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
from dispy.client.engine.callback_thread import Caller
from dispy.protocol import limits
from dispy.protocol.files import RESERVED, check_path
from dispy.protocol.node import AcknowledgeProvisional, FilePart, Provisional
from dispy.protocol.views import NodeId
from dispy.system import current_directory
from dispy.system.escaping import line

if TYPE_CHECKING:
    pass

logger = logging.getLogger("dispy.client")

OPEN_MAX = 256
"""Files that are received at once; each takes two descriptors. The first part of one more is not taken: its
job waits, and sends the part again."""

_root = ""
"""Absolute path of the directory below which files are written. Empty before the first cluster, or if the directory
was gone then: received files are refused in that case."""


def note_root() -> None:
    """Have received files go below the current directory. Called for each new cluster; the first success counts.

    So a later ``os.chdir`` of the program does not scatter the files.
    """
    global _root
    if not _root:
        _root = str(current_directory.directory() or "")


class Key(NamedTuple):
    """Identity of a file that a job sends. Parts with the same key belong to one file.

    Attributes:
        computation: Number of the job's computation.
        number: Number of the job.
        attempt: Number of the job's attempt: a restarted job sends its files again.
        transfer: Number of the file among those that the attempt sends.
    """

    computation: int
    number: int
    attempt: int
    transfer: int


class Arrivals:
    """Receiver of the files that jobs send to the program. A thread of its own writes them, one part at a time.

    Args:
        answer: Called on that thread with a node and the acknowledgement for it, after each part.
        is_open: Called on that thread with the numbers of a computation and a job; True if the job is unfinished.
            Incomplete files of ended jobs are dropped.
    """

    def __init__(
        self,
        answer: Callable[[NodeId, AcknowledgeProvisional], object],
        is_open: Callable[[int, int], bool],
    ) -> None:
        self._answer = answer
        self._is_open = is_open
        self._caller = Caller("dispy files")
        """Thread that does all writing; the engine's loop only queues work for it."""
        self._arriving: dict[Key, _Arriving] = {}
        """Incomplete files, at most ``OPEN_MAX``. Only for the thread that writes; the loop only looks whether there
        are any."""
        self._arrived: set[Key] = set()
        """Keys of complete files of unfinished jobs, at most ``ARRIVED_MAX``; one more file is refused, an error for
        its job. If the acknowledgement of a last part was lost the part comes again: it is acknowledged, not written.
        """

    def take(self, name: str, message: Provisional, node: NodeId, *, is_plain: bool) -> None:
        """Queue a part of a file for the thread that writes, which answers the node then. On the engine's loop.

        Args:
            name: Name of the cluster, for warnings.
            message: Message with the bytes as its payload, and in ``file`` the path, size of the file and offset.
            node: Node that runs the job, and gets the answer.
            is_plain: True if the program takes no files, as nothing of nodes may run code there.
        """
        refusal = "the program takes no files from jobs, as they may be code (results='plain')"
        self._caller.call(self._take, [(name, message, node, refusal if is_plain else "")])

    def tidy(self) -> None:
        """Have incomplete files of ended jobs removed, and the keys of their complete files forgotten.

        Call it on the engine's loop, several times a second: descriptors of such files are not freed otherwise.
        """
        if self._arriving or self._arrived:
            self._caller.call(self._tidy, [()])

    def stop(self) -> None:
        """Drop all incomplete files and end the thread. Does not wait."""
        self._caller.call(self._drop_all, [()])
        self._caller.stop()

    # On the thread that writes.

    def _take(self, name: str, message: Provisional, node: NodeId, refusal: str = "") -> None:
        """Write a part, and acknowledge it to its node. A refused file is dropped, with a warning.

        The job that sent the part waits for the answer: it goes on, sends the part again, or is told the reason.

        Args:
            name: Name of the cluster, for the warning.
            message: Message with the part: its path, size and offset in ``file``, its bytes as the payload.
            node: Node that runs the job, and gets the answer.
            refusal: Why the program takes no file; empty if it does.
        """
        part = message.file
        assert part is not None
        key = Key(message.computation, message.number, message.attempt, part.transfer)
        reason = ""
        is_there = False
        try:
            if refusal:
                raise ValueError(refusal)
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
        """Write a part to its file, which is opened by its first part and gets its name with the last one.

        Returns:
            True if the part is written, or its file is complete already; False if the job is to send the part again
            later: its bytes were dropped on the way for lack of memory, or ``OPEN_MAX`` files are open.

        Raises:
            OSError: The part cannot be written.
            ValueError: The file is refused: it is too large, has a forbidden path, or its beginning is missing.
        """
        if key in self._arrived:
            return True
        if len(data) != min(limits.FILE_PART, max(0, part.size - part.offset)):
            return False  # on the way there was no memory for its payload
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
        """Close and remove incomplete files of jobs that have ended, and forget the complete ones of such jobs."""
        self._drop([key for key in self._arriving if not self._is_open(key.computation, key.number)])
        self._arrived = {key for key in self._arrived if self._is_open(key.computation, key.number)}

    def _drop_all(self) -> None:
        """Close and remove all incomplete files, for ``stop``."""
        self._drop(list(self._arriving))

    def _drop(self, keys: list[Key]) -> None:
        """Close incomplete files, which removes them from the disk. Keys without an incomplete file are skipped."""
        for key in keys:
            arriving = self._arriving.pop(key, None)
            if arriving is not None:
                arriving.close()


class _Arriving:
    """One incomplete file, open for writing. In the end call ``finish`` or ``close``: both close its two descriptors.

    Args:
        root: Absolute path of the directory outside of which nothing is written; empty: the file is refused.
        names: Names of directories below it, from the top, made if they are missing; the last one is the file's.

    Raises:
        OSError: The file cannot be written there.
    """

    def __init__(self, root: str, names: tuple[str, ...]) -> None:
        self._name = names[-1]
        """Name that the file gets in its directory when it is complete; replaces a file of that name."""
        self._hidden = ""
        """Temporary name of the file in its directory; empty while the file has no name (``O_TMPFILE``)."""
        with ExitStack() as made:
            self._directory = _open_below(root, names[:-1])
            """Descriptor of the file's directory: later changes of the path cannot lead the file elsewhere."""
            made.callback(os.close, self._directory)
            self._file = self._open()
            """Descriptor of the incomplete file, open for writing; closed by ``finish`` and ``close``."""
            made.pop_all()

    def _open(self) -> int:
        """Make the file, without a name or, where the file system has no such files, under a temporary name.

        Returns:
            Its descriptor, open for writing.
        """
        flags = os.O_WRONLY | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE"):
            # File systems without such files say EOPNOTSUPP, kernels that do not know the flag EISDIR.
            with suppress(OSError):
                return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._directory)
        self._hidden = _new_name()
        return os.open(self._hidden, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)

    def write(self, offset: int, data: bytes) -> None:
        """Write all bytes of a part, ``data``, at ``offset`` (bytes) in the file.

        Raises:
            OSError: The file cannot be written to, as when the disk is full.
        """
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view, offset)
            offset += count
            view = view[count:]

    def finish(self, part: FilePart) -> None:
        """Give the complete file the mode and times in its last part, give it its own name atomically, and close it.

        An older file of that name is replaced.

        Raises:
            OSError: The name is that of a directory, or cannot be made; ``close`` must be called then.
        """
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
        """Close the descriptors of the file and its directory. An incomplete file is removed by that."""
        if self._hidden:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._directory)
        os.close(self._file)
        os.close(self._directory)


def _new_name() -> str:
    """Returns a temporary file name that no job may use: the reserved prefix, then 16 random hexadecimal digits."""
    return f"{RESERVED}{randomness.token_hex(8)}"


def _open_below(root: str, names: tuple[str, ...]) -> int:
    """Open a directory below ``root``; make directories on the way that are missing.

    No symbolic link below ``root`` is followed: a job could have its file written elsewhere by one.

    Args:
        root: Absolute path; empty: there is none.
        names: Names of directories, from the top.

    Returns:
        The descriptor of the directory, which the caller closes; of ``root`` itself if there are no names.

    Raises:
        OSError: A name is a link or no directory, or cannot be made; or there is no root.
    """
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
