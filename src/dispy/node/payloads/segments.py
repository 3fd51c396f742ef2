"""Segments: files that carry large payloads between a node and its workers, in shared memory or on disk.

All files of a computation lie in directories of its own (``segment_directories``). Large files are given back by a
thread, since the kernel needs 20 ms for 64 MiB of pages."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from dispy.node.payloads.payload_files import Incoming, Outgoing
from dispy.node.payloads.segment_directories import SegmentDirectories
from dispy.node.processes.file_helpers import FileHelpers
from dispy.node.staging.job_directories import STALL_MAX, apart
from dispy.protocol import worker as worker_protocol
from dispy.protocol.node import PutObject
from dispy.system.directories import FREE, GIVEN, GIVEN_BITS, private_directory
from dispy.system.free_space import has_room, write_new
from dispy.system.processes import kill_marked
from dispy.system.run_directory import is_abandoned
from dispy.system.shared_memory import ADOPTED_MIN, free_file
from dispy.system.wording import counted

logger = logging.getLogger("dispy.node")


class Segments:
    """Segments of one node. Clients on this machine can map those in memory; those on disk are sent to them.

    Processes with the mark of a dead node (``SegmentDirectories.root``) were left behind; the next node kills them
    when it makes its segments.

    A new file is written in the node's own directory and moved into that of the computation when it is whole, by its
    descriptor and one name: jobs do as they like there.

    Args:
        incarnation: Name of this run of the node.
        helpers: Processes that work as the accounts of jobs; None: all jobs run as this user.

    Raises:
        StateDirectoryError: The directory is not safe to use.

    Attributes:
        directories: The directories that they are in.
        free: Directory of free files in memory, whose pages a later payload takes; empty if there is none: if workers
            run as other accounts, which must not reach it, or if all is on disk.
    """

    def __init__(self, incarnation: str, helpers: FileHelpers | None = None) -> None:
        killed = kill_marked(lambda mark: is_abandoned(Path(mark)))
        if killed:
            logger.info(
                "killed %s that a dead node had left behind", counted(killed, "process", "processes")
            )
        self.directories = SegmentDirectories(incarnation, helpers)
        if helpers is not None:
            helpers.mark = str(self.directories.root)
        self._next = 1
        """Number that the last file was named by: the next file gets the number after it, so names never repeat."""
        self._arriving: list[Incoming] = []
        """Payloads that arrive and are going to take more of the memory file system. Another payload goes to disk if
        there is no room in memory for these and it together."""
        self.free = ""
        if helpers is None and self.directories.is_in_memory:
            self.free = str(private_directory(self.directories.root / FREE))
            private_directory(self.directories.root / GIVEN)

    def is_shared(self, directory: Path, name: int) -> bool:
        """True if clients of this machine can map a segment, since it is in memory. Otherwise it is sent to them."""
        if not self.directories.is_in_memory:
            return False
        with suppress(OSError):
            place, _ = self.directories.find(directory, str(name))
            return place == self.directories.descriptors(directory)[0]
        return False

    def has_room(self, size: int) -> bool:
        """True if a payload of ``size`` bytes would find room now, in memory or on disk."""
        return has_room(self.directories.own_room(), size)

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
        os.rename(
            f"{self.directories.root}/{GIVEN}/{given}",
            str(self._next),
            dst_dir_fd=self.directories.descriptors(directory)[0],
        )
        return self._next

    def trim(self) -> None:
        """Remove the free files (``free``), on a thread: their memory can then be used for other data.

        Called when a payload finds no room in memory, and when the node has had no computation for a while.
        """
        if self.free:
            apart(_empty, self.free)

    def remove_given(self, given: int) -> None:
        """Remove a file that a client has put into the directory ``GIVEN`` for a computation that is not here.

        ``given`` is the number by which the client has named the file. A file that is gone is fine.
        """
        (self.directories.root / GIVEN / str(given)).unlink(missing_ok=True)

    def drop_given(self, prefix: int) -> None:
        """Remove files that a client has put into the directory ``GIVEN`` and has not named in a message.

        Called when the connection to the client is lost: it may have been killed in between.

        Args:
            prefix: The upper bits, above the lowest ``GIVEN_BITS``, of the numbers by which the client names files.
        """
        with suppress(OSError):
            for name in os.listdir(self.directories.root / GIVEN):
                if name.isdecimal() and int(name) >> GIVEN_BITS == prefix:
                    (self.directories.root / GIVEN / name).unlink(missing_ok=True)

    def collect(self, directory: Path, held: set[int]) -> None:
        """Remove files that dead workers were writing or kept, by the pid in the name of each file.

        Called after a worker or its host has died.

        Args:
            directory: Directory of the computation that the workers ran for.
            held: Names of segments with results that the node holds for clients; they stay.
        """
        with suppress(OSError):
            for place in self.directories.descriptors(directory):
                for name in os.listdir(place):
                    pid = worker_protocol.writer(name)
                    is_left = pid and not (name.isdecimal() and int(name) in held)
                    if is_left and not os.path.exists(f"/proc/{pid}"):
                        with suppress(OSError):
                            os.unlink(name, dir_fd=place)

    def statistics(self) -> dict[str, int]:
        """Returns numbers of files made so far, of payloads that arrive, and of free files. Reads a directory."""
        arriving = [other.expected for other in self._arriving if other.expected]
        return {
            "files_made": self._next - 1,
            "payloads_arriving": len(arriving),
            "bytes_arriving": sum(arriving),
            "files_free": len(os.listdir(self.free)) if self.free else 0,
        }

    def incoming(self, size: int) -> Incoming:
        """Returns a file for a payload of ``size`` bytes that arrives; its ``finish`` raises if there is no room."""
        self._next += 1
        self._arriving = [other for other in self._arriving if other.expected]
        expected = sum(other.expected for other in self._arriving)
        made = Incoming(self.directories.own_room(), f"in-{self._next}", size, self.free, expected)
        self._arriving.append(made)
        if made.directory != str(self.directories.root) and self.free and os.listdir(self.free):
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
        account = self.directories.account_at(directory)
        if account is not None:
            _give(path, account.uid, account.gid, 0o600)
        self._move_in(path, directory, str(self._next))
        return self._next

    def _move_in(self, path: Path, directory: Path, name: str) -> None:
        """Move a whole file from the node's own directory into a computation's, on the same file system.

        A file that has the name there is replaced.
        """
        places = self.directories.descriptors(directory)
        os.rename(path, name, dst_dir_fd=places[0] if path.parent == self.directories.root else places[-1])

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
        if incoming is None and message.given:
            os.rename(
                self.directories.root / GIVEN / str(message.given),
                name,
                dst_dir_fd=self.directories.descriptors(directory)[0],
            )
            return
        self._remove(directory, name)
        path = incoming.finish() if incoming is not None else self._write(message.payload)
        account = self.directories.account_at(directory)
        if account is not None:
            # The account of the workers may read it by its group. We stay the owner, so it cannot change the mode.
            _give(path, os.getuid(), account.gid, 0o440)
        self._move_in(path, directory, name)

    def drop_object(self, directory: Path, number: int) -> None:
        """Remove an object. Workers that have it mapped keep its memory until they unmap it."""
        self._remove(directory, worker_protocol.object_name(number))

    def put_code(self, directory: Path, code: bytes) -> Path:
        """Write the code of a computation to a file, which its host loads and removes; returns the path.

        Raises:
            OSError: There was no room for the code.
        """
        self._remove(directory, "code")
        path = self._write(code)
        account = self.directories.account_at(directory)
        if account is not None:
            _give(path, account.uid, account.gid, 0o600)
        self._move_in(path, directory, "code")
        return (
            directory if path.parent == self.directories.root else path.parent / directory.name
        ) / "code"

    def _remove(self, directory: Path, name: str) -> None:
        """Remove a file of a computation, in memory and on disk. A file that is gone is fine."""
        with suppress(OSError):
            for place in self.directories.descriptors(directory):
                with suppress(OSError):
                    os.unlink(name, dir_fd=place)

    def _write(self, data: bytes | bytearray) -> Path:
        """Write a new file in the node's own directory, in memory or else on disk; returns its path.

        Raises:
            OSError: There was no room for the data.
        """

        def fill(descriptor: int) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

        self._next += 1
        return Path(write_new(self.directories.own_room(), f"in-{self._next}", len(data), fill))

    def open_segment(self, directory: Path, name: int) -> int:
        """Open a segment to read it; returns the descriptor, which the caller closes. Any thread may call it.

        Workers write segments, so a segment may be a link to a file of ours, or a pipe without a writer. Where
        workers run under our account they could read our files anyway. Workers of another account get read what they
        wrote and nothing else: a plain file of their own, with one name and without holes.

        Raises:
            FileNotFoundError: The segment is not there, or not such a file.
            OSError: It cannot be opened.
        """
        descriptor, account = self.directories.open_file(directory, str(name))
        status = os.fstat(descriptor)
        owner = os.getuid() if account is None else account.uid
        # A program of ours may have linked the segment to itself, and have died before it said so.
        is_single = status.st_nlink == 1 or account is None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or not is_single:
            os.close(descriptor)
            raise FileNotFoundError(f"segment {name} is not what a worker writes")
        if account is not None and _has_holes(descriptor, status):
            os.close(descriptor)
            raise FileNotFoundError(f"segment {name} has holes")
        return descriptor

    def outgoing(self, directory: Path, name: int) -> Outgoing:
        """Open a segment, to send its content to a client (``open_segment``)."""
        descriptor = self.open_segment(directory, name)
        return Outgoing(descriptor, os.fstat(descriptor).st_size)

    def remove(self, directory: Path, name: int, *, was_shared: bool) -> None:
        """Remove a segment: its file becomes a free file for a later payload, or is deleted if that is not possible.

        A segment that is gone already is fine.

        Args:
            directory: Directory of the computation.
            name: Name of the segment.
            was_shared: True if a client may have mapped the segment. Then a file of ``ADOPTED_MIN`` bytes or more is
                deleted, not used again: the client maps such segments, and gives us another file for them.
        """
        with suppress(OSError):
            place, status = self.directories.find(directory, str(name))
            # A file with another link is a client's, which may write to it again.
            is_ours = status.st_nlink == 1 and not (was_shared and status.st_size >= ADOPTED_MIN)
            is_ours &= place == self.directories.descriptors(directory)[0]  # and not on disk
            if self.free and is_ours:
                path = f"{directory}/{name}"  # of this user, and of no account: ``free``
                if status.st_size > STALL_MAX:
                    apart(free_file, self.free, path, status.st_size)
                else:
                    free_file(self.free, path, status.st_size)
            elif status.st_size > STALL_MAX:
                apart(_unlink, str(name), os.dup(place))
            else:
                os.unlink(str(name), dir_fd=place)


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    """Give a file of the node's own directory to a user and a group, with a mode, before jobs can reach it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _unlink(name: str, directory: int) -> None:
    """Remove a file, and close the descriptor of its directory. Raises no OSError."""
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)
    os.close(directory)


def _has_holes(descriptor: int, status: os.stat_result) -> bool:
    """True if a file has a hole. Fewer blocks alone are no proof: some file systems count them late, or compress."""
    if status.st_blocks * 512 >= status.st_size:
        return False
    return os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size


def _empty(directory: str) -> None:
    """Remove all files in a directory. The directory stays."""
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
