"""The files of a node, in memory: directories of large payloads and of computations, which may be full."""

from __future__ import annotations

import errno
import os
from pathlib import PurePosixPath

from dispy.protocol.node import PutObject
from dispy.protocol.streams import MemorySource
from dispy.protocol.worker import object_name

from .world import Party


def no_space() -> OSError:
    """What a full file system says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Incoming:
    """A payload on its way into a file."""

    __slots__ = ("_data", "_files", "error")

    def __init__(self, files: Files) -> None:
        self._files = files
        self._data = bytearray()
        self.error: OSError | None = no_space() if files.is_full else None
        files.arriving += 1

    def write(self, body: memoryview) -> None:
        """Take the next bytes."""
        if self._files.is_full:
            self.error = no_space()
        self._data += body

    def room(self, size: int) -> memoryview | None:
        """None: it grows."""
        return None

    def finish(self) -> bytes:
        """All of it.

        Raises:
            OSError: There was no room.
        """
        self._files.arriving -= 1
        if self.error is not None:
            raise self.error
        return bytes(self._data)

    read = finish

    def view(self) -> bytes:
        """All of it, until ``let_go``.

        Raises:
            OSError: There was no room.
        """
        if self.error is not None:
            raise self.error
        return bytes(self._data)

    def discard(self) -> None:
        """It is not wanted."""
        self._files.arriving -= 1

    let_go = discard


class Files:
    """What ``Segments`` and ``WorkSpace`` are to a node, both of them."""

    def __init__(self) -> None:
        self.root = PurePosixPath("/node")
        self.directories = self
        self.free = ""
        self.is_full = False
        self.arriving = 0
        """Payloads between their first byte and their end."""
        self.contents: dict[PurePosixPath, dict[str, bytes]] = {}
        self._writers: dict[int, Party] = {}
        self._next = 1

    def _new_name(self) -> int:
        self._next += 1
        return self._next

    def _check_room(self) -> None:
        if self.is_full:
            raise no_space()

    def _directory(self, directory: PurePosixPath) -> dict[str, bytes]:
        try:
            return self.contents[directory]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, str(directory)) from None

    # As of ``Place``.

    def open(self, name: str, account: None = None) -> PurePosixPath:
        """A subdirectory."""
        self._check_room()
        directory = self.root / name
        self.contents.setdefault(directory, {})
        return directory

    def drop(self, directory: PurePosixPath) -> None:
        """Remove a subdirectory."""
        self.contents.pop(directory, None)

    def leave(self, directory: PurePosixPath) -> None:
        """A working directory is not needed any more."""
        self.drop(directory)

    def account_at(self, directory: PurePosixPath) -> None:
        """All run as one."""

    def tree(self, directory: PurePosixPath) -> None:
        """No files are sent here."""

    def close(self) -> None:
        """Remove all."""
        self.contents.clear()

    # As of ``Segments``.

    def disk_path(self, directory: PurePosixPath) -> str:
        """There is nothing beside memory."""
        return ""

    def open_segment(self, directory: PurePosixPath, name: int) -> int:
        """The spool has its own way."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Nobody leaves anything in a world of its own."""

    def trim(self) -> None:
        """Nothing is kept to be used again."""

    def collect(self, directory: PurePosixPath, held: set[int]) -> None:
        """Remove what processes have written that have died, but for some names."""
        files = self.contents.get(directory, {})
        for name in list(files):
            writer = self._writers.get(int(name)) if name.isdecimal() else None
            if writer is not None and writer.is_dead and int(name) not in held:
                del files[name]

    def incoming(self, size: int) -> Incoming:
        """Room for a payload that arrives."""
        return Incoming(self)

    def adopt(self, directory: PurePosixPath, incoming: Incoming) -> int:
        """Make a payload that has arrived a segment."""
        data = incoming.finish()
        name = self._new_name()
        self._directory(directory)[str(name)] = data
        return name

    def adopt_given(self, directory: PurePosixPath, given: int) -> int:
        """Nobody shares memory here."""
        raise FileNotFoundError(given)

    def put_object(self, directory: PurePosixPath, message: PutObject, incoming: Incoming | None) -> None:
        """Store an object under the name by which workers find it."""
        data = incoming.finish() if incoming is not None else message.payload
        self._check_room()
        self._directory(directory)[object_name(message.number)] = data

    def drop_object(self, directory: PurePosixPath, number: int) -> None:
        """Remove an object."""
        self.contents.get(directory, {}).pop(object_name(number), None)

    def put_code(self, directory: PurePosixPath, code: bytes) -> PurePosixPath:
        """Write what a host loads."""
        self._check_room()
        self._directory(directory)["code"] = code
        return directory / "code"

    def outgoing(self, directory: PurePosixPath, name: int) -> MemorySource:
        """The content of a segment, for a client."""
        try:
            return MemorySource(self.contents[directory][str(name)])
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, f"segment {name}") from None

    def remove(self, directory: PurePosixPath, name: int, *, was_shared: bool = False) -> None:
        """Let a segment go; one that is gone already is fine."""
        self.contents.get(directory, {}).pop(str(name), None)

    # What hosts and workers do.

    def take(self, path: PurePosixPath) -> bytes:
        """Read a file.

        Raises:
            OSError: It is not there.
        """
        try:
            return self.contents[path.parent][path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, str(path)) from None

    def let_go(self, path: PurePosixPath) -> None:
        """Remove a file."""
        self.contents.get(path.parent, {}).pop(path.name, None)

    def put(self, directory: PurePosixPath, data: bytes, writer: Party) -> int:
        """Write a result; returns the name that finds it.

        Raises:
            OSError: There is no room, or the directory is gone.
        """
        self._check_room()
        name = (1 << 24) | self._new_name()
        self._directory(directory)[str(name)] = data
        self._writers[name] = writer
        return name
