"""Segments: files that carry large payloads between a node and its workers, in shared memory or on disk.

All files of a computation lie in a directory of its own. Where there is a memory file system there are two of these,
of the same name: one in memory and one on disk, for data that finds no room in memory. Large files are given back by
a thread, since the kernel needs 20 ms for 64 MiB of pages."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.node.machine.accounts import Account
from dispy.node.payloads.payload_files import Incoming, Outgoing
from dispy.node.staging.workspace import WorkSpace
from dispy.protocol import worker as worker_protocol
from dispy.protocol.node import PutObject
from dispy.system.directories import (
    FREE,
    GIVEN,
    GIVEN_BITS,
    cannot_be,
    disk_directory,
    own_directory_for,
    private_directory,
    shared_memory,
)
from dispy.system.free_space import Room, find, has_room, write_new
from dispy.system.processes import kill_marked
from dispy.system.run_directory import Place, is_abandoned, open_for, remove_tree, sweep
from dispy.system.shared_memory import ADOPTED_MIN, free_file
from dispy.system.wording import counted

logger = logging.getLogger("dispy.node")

_LARGE = "large"
"""Name of the directory for segments on disk, inside the node's own directory of working directories."""

_STALL_MAX = 64 * 1024 * 1024
"""Bytes of files whose pages are given back at once, on the event loop: 20 ms here. For more a thread is started."""


class Segments(Place):
    """Segments of one node. Clients on this machine can map those in memory; those on disk are sent to them.

    The path of their directory is also the mark that all processes of the node carry in their environment. Processes
    with the mark of a dead node were left behind; the next node kills them when it makes its segments.

    Args:
        incarnation: Name of this run of the node.
        account: Account of the workers; None: ours.

    Raises:
        StateDirectoryError: The directory is not safe to use.

    Attributes:
        is_in_memory: True if there is a memory file system, which is tried before the disk. False: all is on disk.
        free: Directory of free files in memory, whose pages a later payload takes; empty if there is none: if workers
            run as another account, which must not reach it, or if all is on disk.
    """

    def __init__(self, incarnation: str, account: Account | None = None) -> None:
        killed = kill_marked(lambda mark: is_abandoned(Path(mark)))
        if killed:
            logger.info(
                "killed %s that a dead node had left behind", counted(killed, "process", "processes")
            )
        self._account = account
        self.is_in_memory = False
        self._disk: Path | None = None
        """Directory for segments on disk that find no room in memory; None before ``use_disk``, and if nothing is in
        memory."""
        memory = shared_memory()
        if memory is not None:
            try:
                self._begin(memory, incarnation)
                self.is_in_memory = True
            except (OSError, StateDirectoryError) as error:
                if isinstance(error, StateDirectoryError) and not cannot_be(error):
                    raise
                logger.warning(
                    "large data goes to disk, since %s cannot be used: %s", memory, error.__cause__ or error
                )
        if not self.is_in_memory:
            self._begin(disk_directory(), incarnation)
        self._next = 1
        """Number that the last file was named by: the next file gets the number after it, so names never repeat."""
        self._arriving: list[Incoming] = []
        """Payloads that arrive and are going to take more of the memory file system. Another payload goes to disk if
        there is no room in memory for these and it together."""
        self.free = ""
        if account is None and self.is_in_memory:
            self.free = str(private_directory(self.root / FREE))
            private_directory(self.root / GIVEN)

    def _begin(self, base: Path, incarnation: str) -> None:
        """Make the node's directory below ``base``; for workers of another account below a directory beside ``base``.

        Raises:
            OSError, StateDirectoryError: The directory cannot be made, or is not safe to use.
        """
        if self._account is not None:
            # Our own directory lets no other account pass.
            base = own_directory_for(base, self._account.name)
        ids = (self._account.uid, self._account.gid) if self._account is not None else None
        super().__init__(base, incarnation, ids)

    def use_disk(self, workspace: WorkSpace) -> None:
        """Put data that finds no room in memory on disk, in ``workspace``'s directory. Called before ``open``."""
        if self.is_in_memory:
            self._disk = private_directory(
                workspace.root / _LARGE, 0o700 if self._account is None else 0o711
            )
            if self._account is not None:
                self._disk.chmod(0o711)  # whatever the umask

    def open(self, name: str) -> Path:
        """Make the directories for a computation's segments, called ``name`` (``place_name``).

        Returns:
            The directory in memory, or that on disk if nothing is in memory. Other methods take it as ``directory``.
        """
        directory = super().open(name)
        if self._disk is not None:
            open_for(self._owner, self._disk / name)
        return directory

    def room(self, directory: Path) -> Room:
        """Returns the two directories in which files of a computation may be, in memory and on disk.

        Of one that there is not the path is empty.

        Args:
            directory: Directory of the computation, as ``open`` has returned it.
        """
        if not self.is_in_memory:
            return Room("", str(directory))
        return Room(str(directory), "" if self._disk is None else f"{self._disk}/{directory.name}")

    def disk_path(self, directory: Path) -> str:
        """Returns the path of a computation's directory on disk, which its host is told; empty if there is none."""
        return self.room(directory).disk

    def _own_room(self) -> Room:
        """Returns the two directories for files that arrive before their computation is known, in memory and on disk.

        Of one that there is not the path is empty.
        """
        if not self.is_in_memory:
            return Room("", str(self.root))
        return Room(str(self.root), "" if self._disk is None else str(self._disk))

    def find(self, directory: Path, name: int | str) -> Path:
        """Returns the path of a computation's file: on disk if it is there and not in memory, otherwise in memory.

        The file need not exist. If nothing is in memory the path is always on disk.
        """
        return Path(find(self.room(directory), str(name)))

    def is_shared(self, directory: Path, name: int) -> bool:
        """True if clients of this machine can map a segment, since it is in memory. Otherwise it is sent to them."""
        return self.is_in_memory and os.path.lexists(f"{directory}/{name}")

    def has_room(self, size: int) -> bool:
        """True if a payload of ``size`` bytes would find room now, in memory or on disk."""
        return has_room(self._own_room(), size)

    def adopt_given(self, directory: Path, given: int) -> int:
        """Make a file that a client on this machine has put into the directory ``GIVEN`` a segment of a computation.

        Args:
            directory: Directory of the computation.
            given: Number by which the client has named the file.

        Returns:
            Number of the segment: its name, by which workers find it.

        Raises:
            OSError: The file is not there.
        """
        self._next += 1
        os.rename(f"{self.root}/{GIVEN}/{given}", f"{directory}/{self._next}")
        return self._next

    def sweep(self) -> None:
        """Remove directories that killed programs and nodes have left beside ours, on a thread.

        Called when the connection to a client that shares memory is lost: the client may have been killed.
        """
        _apart(sweep, self.root.parent)

    def trim(self) -> None:
        """Remove the free files (``free``), on a thread: their memory can then be used for other data.

        Called when a payload finds no room in memory, and when the node has had no computation for a while.
        """
        if self.free:
            _apart(_empty, self.free)

    def remove_given(self, given: int) -> None:
        """Remove a file that a client has put into the directory ``GIVEN`` for a computation that is not here.

        ``given`` is the number by which the client has named the file. A file that is gone is fine.
        """
        (self.root / GIVEN / str(given)).unlink(missing_ok=True)

    def drop_given(self, prefix: int) -> None:
        """Remove files that a client has put into the directory ``GIVEN`` and has not named in a message.

        Called when the connection to the client is lost: it may have been killed in between.

        Args:
            prefix: The upper bits, above the lowest ``GIVEN_BITS``, of the numbers by which the client names files.
        """
        with suppress(OSError):
            for name in os.listdir(self.root / GIVEN):
                if name.isdecimal() and int(name) >> GIVEN_BITS == prefix:
                    (self.root / GIVEN / name).unlink(missing_ok=True)

    def collect(self, directory: Path, held: set[int]) -> None:
        """Remove files that dead workers were writing or kept, by the pid in the name of each file.

        Called after a worker or its host has died.

        Args:
            directory: Directory of the computation that the workers ran for.
            held: Names of segments with results that the node holds for clients; they stay.
        """
        for place in filter(None, self.room(directory)):
            with suppress(OSError):
                for name in os.listdir(place):
                    pid = worker_protocol.writer(name)
                    is_left = pid and not (name.isdecimal() and int(name) in held)
                    if is_left and not os.path.exists(f"/proc/{pid}"):
                        Path(place, name).unlink(missing_ok=True)

    def incoming(self, size: int) -> Incoming:
        """Returns a file for a payload of ``size`` bytes that arrives; its ``finish`` raises if there is no room."""
        self._next += 1
        self._arriving = [other for other in self._arriving if other.expected]
        expected = sum(other.expected for other in self._arriving)
        made = Incoming(self._own_room(), f"in-{self._next}", size, self.free, expected)
        self._arriving.append(made)
        if made.directory != str(self.root) and self.free and os.listdir(self.free):
            self.trim()  # for the next one
        return made

    def adopt(self, directory: Path, incoming: Incoming) -> int:
        """Make a payload that has arrived a segment of a computation, owned by the account of the workers.

        Returns:
            Number of the segment: its name, by which workers find it.

        Raises:
            OSError: There was no room for the payload.
        """
        path = incoming.finish()
        self._next += 1
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        os.rename(path, self._beside(path, directory) / str(self._next))
        return self._next

    def _beside(self, path: Path, directory: Path) -> Path:
        """Returns the computation's directory on the file system of ``path``, to which a payload can be renamed."""
        return directory if path.parent == self.root else path.parent / directory.name

    def put_object(self, directory: Path, message: PutObject, incoming: Incoming | None) -> None:
        """Store an object under the name by which workers find it. Workers of another account cannot write to it.

        Args:
            directory: Directory of the computation.
            message: Number of the object, and its content, or the number of the file with it in the directory
                ``GIVEN``; neither if there is ``incoming``.
            incoming: The content, if it arrived as a stream; None otherwise.

        Raises:
            OSError: There was no room for the object, or the file is not there.
        """
        name = worker_protocol.object_name(message.number)
        if incoming is not None:
            arrived = incoming.finish()
            path = self._beside(arrived, directory) / name
            os.rename(arrived, path)
        elif message.given:
            os.rename(self.root / GIVEN / str(message.given), directory / name)
            return
        else:
            self._remove(directory, name)
            path = self._write(directory, name, message.payload)
        if self._account is not None:
            # The account of the workers may read it by its group. We stay the owner, so it cannot change the mode.
            os.chown(path, os.getuid(), self._account.gid)
            path.chmod(0o440)

    def drop_object(self, directory: Path, number: int) -> None:
        """Remove an object. Workers that have it mapped keep its memory until they unmap it."""
        self._remove(directory, worker_protocol.object_name(number))

    def put_code(self, directory: Path, code: bytes) -> Path:
        """Write the code of a computation to a file, which its host loads and removes; returns the path.

        Raises:
            OSError: There was no room for the code.
        """
        self._remove(directory, "code")
        return self._write(directory, "code", code)

    def _remove(self, directory: Path, name: str) -> None:
        """Remove a file of a computation, in memory and on disk. A file that is gone is fine."""
        for place in filter(None, self.room(directory)):
            with suppress(OSError):
                os.unlink(f"{place}/{name}")

    def _write(self, directory: Path, name: str, data: bytes | bytearray) -> Path:
        """Write a new file of a computation, owned by the workers' account, in memory or else on disk.

        Returns:
            Path of the file.

        Raises:
            OSError: There was no room for the data, or the name exists.
        """

        def fill(descriptor: int) -> None:
            if self._account is not None:
                os.fchown(descriptor, self._account.uid, self._account.gid)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

        return Path(write_new(self.room(directory), name, len(data), fill))

    def outgoing(self, directory: Path, name: int) -> Outgoing:
        """Open a segment, to send its content to a client.

        Workers write segments, so a segment may be a link to a file of ours, or a pipe without a writer. Where
        workers run under our account they could read our files anyway. Workers of another account get sent what they
        wrote and nothing else: a plain file of their own, with one name and without holes.

        Raises:
            OSError: The segment is not there, or not such a file.
        """
        path = find(self.room(directory), str(name))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        owner = os.getuid() if self._account is None else self._account.uid
        # A program of ours may have linked the segment to itself, and have died before it said so.
        is_single = status.st_nlink == 1 or self._account is None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or not is_single:
            os.close(descriptor)
            raise OSError(f"segment {name} is not what a worker writes")
        if self._account is not None and _has_holes(descriptor, status):
            os.close(descriptor)
            raise OSError(f"segment {name} has holes")
        return Outgoing(descriptor, status.st_size)

    def remove(self, directory: Path, name: int, *, was_shared: bool) -> None:
        """Remove a segment: its file becomes a free file for a later payload, or is deleted if that is not possible.

        A segment that is gone already is fine.

        Args:
            directory: Directory of the computation.
            name: Name of the segment.
            was_shared: True if a client may have mapped the segment. Then a file of ``ADOPTED_MIN`` bytes or more is
                deleted, not used again: the client maps such segments, and gives us another file for them.
        """
        path = find(self.room(directory), str(name))
        with suppress(OSError):
            status = os.lstat(path)
            # A file with another link is a client's, which may write to it again.
            is_ours = status.st_nlink == 1 and not (was_shared and status.st_size >= ADOPTED_MIN)
            is_ours &= os.path.dirname(path) == str(directory)  # and not on disk
            free = self.free if is_ours else ""
            if status.st_size > _STALL_MAX:
                _apart(free_file, free, path, status.st_size)
            else:
                free_file(free, path, status.st_size)

    def drop(self, directory: Path) -> None:
        """Remove the directories with a computation's segments, or a working directory.

        Directories with more than ``_STALL_MAX`` bytes are removed by a thread.
        """
        self._drop(directory)
        if self._disk is not None and directory.parent == self.root:
            self._drop(self._disk / directory.name)

    def _drop(self, directory: Path) -> None:
        """Remove one directory with all in it. If the files directly in it have more than ``_STALL_MAX`` bytes, it
        gets another name at once, so that its own is free, and is removed by a thread."""
        with suppress(OSError):
            with os.scandir(directory) as entries:
                size = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
            if size > _STALL_MAX:
                gone = directory.with_name(f".{directory.name}-{self._next}")
                self._next += 1
                os.rename(directory, gone)
                _apart(remove_tree, gone)
                return
        remove_tree(directory)


def _has_holes(descriptor: int, status: os.stat_result) -> bool:
    """True if a file has a hole. Fewer blocks alone are no proof: some file systems count them late, or compress."""
    if status.st_blocks * 512 >= status.st_size:
        return False
    return os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size


def _apart(remove: Callable[..., None], *arguments: object) -> None:
    """Call a function on a thread of its own, so that the event loop goes on; at once if none can be started."""
    try:
        threading.Thread(target=remove, args=arguments, name="dispy removes", daemon=True).start()
    except RuntimeError:
        remove(*arguments)


def _empty(directory: str) -> None:
    """Remove all files in a directory. The directory stays."""
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
