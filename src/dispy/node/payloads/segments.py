"""A node's own directories: on disk for computations, on a memory file system for large payloads."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.files.untrusted_directory import Tree
from dispy.node.machine.accounts import Account
from dispy.node.payloads.payload_files import Incoming, Outgoing
from dispy.protocol import worker as worker_protocol
from dispy.protocol.files import check_path
from dispy.protocol.node import PutObject
from dispy.system.directories import (
    FREE,
    GIVEN,
    GIVEN_BITS,
    cannot_be,
    disk_directory,
    private_directory,
    shared_memory,
    temporary_directory,
)
from dispy.system.escaping import counted
from dispy.system.free_space import Room, find, has_room, write_new
from dispy.system.memory import ADOPTED_MIN, free_file
from dispy.system.processes import kill_marked
from dispy.system.run_directory import Place, is_abandoned, remove_tree, sweep

logger = logging.getLogger("dispy.node")


def _ids(account: Account | None) -> tuple[int, int] | None:
    return (account.uid, account.gid) if account is not None else None


class _Destination:
    """A working directory under a name that clients have given."""

    __slots__ = ("is_kept", "lock", "note", "parts", "users")

    def __init__(self, parts: tuple[str, ...], note: Path, is_kept: bool) -> None:
        self.parts = parts
        self.note = note
        self.is_kept = is_kept
        self.users = 0
        self.lock = -1
        """Its descriptor, with a lock that says that it is in use."""

    def note_down(self) -> None:
        """Leave word for whoever finds that we have died: it is to be removed, or it is not."""
        if self.is_kept:
            self.note.unlink(missing_ok=True)
        else:
            self.note.write_text("/".join(self.parts))


class WorkSpace(Place):
    """Working directories, on disk.

    Those that clients have named lie elsewhere, where they can stay: below ``dispy-files-…``, by the address of the
    client. Whoever uses one holds a shared lock on it. One that is not to stay is noted in our own directory; so
    whoever finds that without its owner, after a crash, removes it, too, unless somebody else uses it.

    Args:
        prefix: Directory below which they go; the temporary directory if empty.
        incarnation: Name of this run of the node.
        account: Whose they are; None: ours.
    """

    def __init__(self, prefix: str, incarnation: str, account: Account | None = None) -> None:
        ending = f"{os.getuid()}" + (f"-{account.name}" if account else "")
        above = Path(prefix) if prefix else temporary_directory()
        self._kept = above / f"dispy-files-{ending}"
        self._destinations: dict[Path, _Destination] = {}
        self._next = 1
        self._ids = _ids(account)
        base = private_directory(above / f"dispy-node-{ending}", 0o700 if account is None else 0o711)
        for path in base.iterdir():
            if is_abandoned(path):
                self._sweep_noted(path)
        super().__init__(base, incarnation, self._ids)

    def open_named(self, address: str, name: str, *, is_kept: bool) -> Path:
        """A working directory that clients may share by its name, to be left by ``leave``.

        Args:
            address: Of the client.
            name: A relative path.
            is_kept: It stays when nobody uses it any more. Whoever opened it last decides: a program that has just
                closed its cluster may still be using it.

        Raises:
            OSError: It cannot be made.
            ValueError: The name leads elsewhere.
        """
        parts = (address.replace(":", "_") or "local", *check_path(name))
        path = self._kept.joinpath(*parts)
        known = self._destinations.get(path)
        if known is None:
            known = self._make(parts, is_kept=is_kept)
            self._destinations[path] = known
        known.users += 1
        known.is_kept = is_kept
        known.note_down()
        return path

    def _make(self, parts: tuple[str, ...], *, is_kept: bool) -> _Destination:
        private_directory(self._kept, 0o700 if self._ids is None else 0o711)
        note = self.root / f"{_NOTE}{self._next}"
        self._next += 1
        known = _Destination(parts, note, is_kept)
        # Before it is made: if we are killed in between there is nothing to remove.
        known.note_down()
        while True:
            with Tree(self._kept) as tree:
                address = tree.descend(parts[:1])
                if self._ids is not None:
                    os.fchmod(address, 0o711)
                with Tree(address, self._ids) as below:
                    known.lock = os.dup(below.descend(parts[1:]))
            fcntl.flock(known.lock, fcntl.LOCK_SH)
            if os.fstat(known.lock).st_nlink:
                return known
            # Somebody has just removed it.
            os.close(known.lock)

    def leave(self, path: Path) -> bool:
        """A computation does not use its named directory any more; False if it is none.

        The last one to leave removes it, unless it is to stay or another node uses it, and with it what was left
        since it lay around this one.
        """
        known = self._destinations.get(path)
        if known is None:
            # It is ours all the same once the node has ended: hosts are seen to be gone after that, too.
            return self._kept in path.parents
        known.users -= 1
        inner_first = sorted(self._destinations.items(), key=lambda item: len(item[0].parts), reverse=True)
        for place, other in inner_first:
            if other.users or any(place in used.parents for used in self._destinations):
                continue
            del self._destinations[place]
            if not other.is_kept:
                self._remove_named(other.parts, other.lock)
            os.close(other.lock)
            other.note.unlink(missing_ok=True)
        return True

    def _remove_named(self, parts: tuple[str, ...], lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # whoever has it removes it
        with suppress(OSError):
            with Tree(self._kept) as tree:
                tree.remove_directory("/".join(parts))
            self._kept.rmdir()

    def _sweep_noted(self, abandoned: Path) -> None:
        """Remove what a dead node had noted."""
        try:
            notes = list(abandoned.glob(f"{_NOTE}*"))
        except OSError:
            return  # another node that starts has removed it since we looked
        for note in notes:
            with suppress(OSError, ValueError):
                text = note.read_text()
                parts = tuple(check_path(text))
                with Tree(self._kept) as tree:
                    self._remove_named(parts, tree.descend(parts, make=False))

    def close(self) -> None:
        """Remove all that is not to stay."""
        for known in self._destinations.values():
            known.users = 0
        for path, known in list(self._destinations.items())[:1]:
            known.users = 1
            self.leave(path)
        super().close()


_NOTE = "remove-"
"""Files that name what is to be removed with us."""


class Segments(Place):
    """Files that carry large payloads between the node and its workers: in memory, or on disk where that has no room.

    Each computation has a directory of the same name on both. Clients of this machine see the one in memory only.

    Their directory is also what the node's processes carry as a mark: whoever has the mark of a
    node that is dead was left behind, and is killed by the next node.
    """

    def __init__(self, incarnation: str, account: Account | None = None) -> None:
        killed = kill_marked(lambda mark: is_abandoned(Path(mark)))
        if killed:
            logger.info(
                "killed %s that a dead node had left behind", counted(killed, "process", "processes")
            )
        self._account = account
        self.is_in_memory = False
        """Whether there is a memory file system."""
        self._disk: Path | None = None
        """The directory on disk beside one in memory."""
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
        self._arriving: list[Incoming] = []
        # Workers of another account cannot reach it, and must not. Files on disk are not written in place.
        self.free = ""
        if account is None and self.is_in_memory:
            self.free = str(private_directory(self.root / FREE))
            private_directory(self.root / GIVEN)

    def _begin(self, base: Path, incarnation: str) -> None:
        if self._account is not None:
            # Ours lets nobody pass.
            base = base.with_name(f"{base.name}-{self._account.name}")
        super().__init__(base, incarnation, _ids(self._account))

    def use_disk(self, workspace: WorkSpace) -> None:
        """Have what finds no room in memory where working directories are."""
        if self.is_in_memory:
            self._disk = private_directory(
                workspace.root / _LARGE, 0o700 if self._account is None else 0o711
            )
            if self._account is not None:
                self._disk.chmod(0o711)  # whatever the umask

    def open(self, name: str) -> Path:
        """The directories of a computation; returns the one in memory, if there is one."""
        directory = super().open(name)
        if self._disk is not None:
            other = private_directory(self._disk / name)
            if self._account is not None:
                os.chown(other, self._account.uid, self._account.gid)
        return directory

    def room(self, directory: Path) -> Room:
        """Where files of a computation may be.

        Args:
            directory: What ``open`` has returned.
        """
        if not self.is_in_memory:
            return Room("", str(directory))
        return Room(str(directory), "" if self._disk is None else f"{self._disk}/{directory.name}")

    def disk_path(self, directory: Path) -> str:
        """The directory of a computation on disk; empty if there is none."""
        return self.room(directory).disk

    def _own_room(self) -> Room:
        """Where files may be that are not known yet to be of a computation."""
        if not self.is_in_memory:
            return Room("", str(self.root))
        return Room(str(self.root), "" if self._disk is None else str(self._disk))

    def find(self, directory: Path, name: int | str) -> Path:
        """Where a file of a computation is."""
        return Path(find(self.room(directory), str(name)))

    def is_shared(self, directory: Path, name: int) -> bool:
        """Whether clients of this machine see a segment."""
        return self.is_in_memory and os.path.lexists(f"{directory}/{name}")

    def has_room(self, size: int) -> bool:
        """Whether a payload of so many bytes would find room now."""
        return has_room(self._own_room(), size)

    def adopt_given(self, directory: Path, given: int) -> int:
        """Make a file that a client of this machine has linked to us a segment of a computation.

        Raises:
            OSError: It is not there.
        """
        self._next += 1
        os.rename(f"{self.root}/{GIVEN}/{given}", f"{directory}/{self._next}")
        return self._next

    def sweep(self) -> None:
        """Have removed what programs have left that have been killed."""
        _apart(sweep, self.root.parent)

    def trim(self) -> None:
        """Give back the files that are kept to be used again."""
        if self.free:
            _apart(_empty, self.free)

    def remove_given(self, given: int) -> None:
        """Remove a file that a client has linked to us for nothing."""
        (self.root / GIVEN / str(given)).unlink(missing_ok=True)

    def drop_given(self, prefix: int) -> None:
        """Remove what a client has linked to us and not told: it has been killed, or lost its connection.

        Args:
            prefix: The upper bits of the names that it gives.
        """
        with suppress(OSError):
            for name in os.listdir(self.root / GIVEN):
                if name.isdecimal() and int(name) >> GIVEN_BITS == prefix:
                    (self.root / GIVEN / name).unlink(missing_ok=True)

    def collect(self, directory: Path, held: set[int]) -> None:
        """Remove what processes have begun to write, or kept, that have died.

        Args:
            directory: Of the computation that they were of.
            held: Segments with results.
        """
        for place in filter(None, self.room(directory)):
            with suppress(OSError):
                for name in os.listdir(place):
                    pid = worker_protocol.writer(name)
                    is_left = pid and not (name.isdecimal() and int(name) in held)
                    if is_left and not os.path.exists(f"/proc/{pid}"):
                        Path(place, name).unlink(missing_ok=True)

    def incoming(self, size: int) -> Incoming:
        """Room for a payload that arrives."""
        self._next += 1
        self._arriving = [other for other in self._arriving if other.expected]
        expected = sum(other.expected for other in self._arriving)
        made = Incoming(self._own_room(), f"in-{self._next}", size, self.free, expected)
        self._arriving.append(made)
        if made.directory != str(self.root) and self.free and os.listdir(self.free):
            self.trim()  # for the next one
        return made

    def adopt(self, directory: Path, incoming: Incoming) -> int:
        """Make a payload that has arrived a segment of a computation; returns its name there.

        Raises:
            OSError: There was no room for it.
        """
        path = incoming.finish()
        self._next += 1
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        os.rename(path, self._beside(path, directory) / str(self._next))
        return self._next

    def _beside(self, path: Path, directory: Path) -> Path:
        """The directory of a computation on the file system that a payload has arrived on."""
        return directory if path.parent == self.root else path.parent / directory.name

    def put_object(self, directory: Path, message: PutObject, incoming: Incoming | None) -> None:
        """Store an object under the name by which workers find it. They can read it, and not write to it.

        Raises:
            OSError: There was no room for it, or it is not there.
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
            # Theirs to read: a group of theirs, and no owner but us.
            os.chown(path, os.getuid(), self._account.gid)
            path.chmod(0o440)

    def drop_object(self, directory: Path, number: int) -> None:
        """Remove an object; those who have it mapped keep it until they let go."""
        self._remove(directory, worker_protocol.object_name(number))

    def put_code(self, directory: Path, code: bytes) -> Path:
        """Write what a host loads, and removes."""
        self._remove(directory, "code")
        return self._write(directory, "code", code)

    def _remove(self, directory: Path, name: str) -> None:
        for place in filter(None, self.room(directory)):
            with suppress(OSError):
                os.unlink(f"{place}/{name}")

    def _write(self, directory: Path, name: str, data: bytes | bytearray) -> Path:
        def fill(descriptor: int) -> None:
            if self._account is not None:
                os.fchown(descriptor, self._account.uid, self._account.gid)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

        return Path(write_new(self.room(directory), name, len(data), fill))

    def outgoing(self, directory: Path, name: int) -> Outgoing:
        """The content of a segment, for a client.

        Workers write them, so one may be a link to a file of ours, or a pipe nobody writes to. Where they run
        as we do that is their own affair; those of another account get what they wrote and nothing else.

        Raises:
            OSError: It is not there, or not a plain file of theirs.
        """
        path = find(self.room(directory), str(name))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        owner = os.getuid() if self._account is None else self._account.uid
        # A program of ours may have linked it to itself, and be dead before it said that it has it.
        is_single = status.st_nlink == 1 or self._account is None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or not is_single:
            os.close(descriptor)
            raise OSError(f"segment {name} is not what a worker writes")
        if self._account is not None and _has_holes(descriptor, status):
            os.close(descriptor)
            raise OSError(f"segment {name} has holes")
        return Outgoing(descriptor, status.st_size)

    def remove(self, directory: Path, name: int, *, was_shared: bool) -> None:
        """Let a segment be used again; one that is gone already is fine.

        Args:
            directory: Where it is.
            name: Its name there.
            was_shared: A client may have mapped it, if it is worth that, and then gives us another one.
        """
        path = find(self.room(directory), str(name))
        with suppress(OSError):
            status = os.lstat(path)
            # A file with another link is a client's, who may write to it again.
            is_ours = status.st_nlink == 1 and not (was_shared and status.st_size >= ADOPTED_MIN)
            is_ours &= os.path.dirname(path) == str(directory)  # and not on disk
            free = self.free if is_ours else ""
            if status.st_size > _STALL_MAX:
                _apart(free_file, free, path, status.st_size)
            else:
                free_file(free, path, status.st_size)

    def drop(self, directory: Path) -> None:
        """Remove the segments of a computation, or a working directory."""
        self._drop(directory)
        if self._disk is not None and directory.parent == self.root:
            self._drop(self._disk / directory.name)

    def _drop(self, directory: Path) -> None:
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


_LARGE = "large"
"""Where segments on disk are, beside the working directories."""


def _has_holes(descriptor: int, status: os.stat_result) -> bool:
    """Whether a file has fewer bytes than it pretends to. Some file systems count blocks late, or compress them."""
    if status.st_blocks * 512 >= status.st_size:
        return False
    return os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size


_STALL_MAX = 64 * 1024 * 1024
"""Bytes whose pages are given back at once: 20 ms here. More of them are given back by a thread."""


def _apart(remove: Callable[..., None], *arguments: object) -> None:
    try:
        threading.Thread(target=remove, args=arguments, name="dispy removes", daemon=True).start()
    except RuntimeError:  # no more of them are allowed
        remove(*arguments)


def _empty(directory: str) -> None:
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
