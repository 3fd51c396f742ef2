"""What a computer keeps of files, by content, over the deaths of its nodes: as ``files.store``, in memory.

What the real one does to find out whether a file is whole is left out: one that is damaged is not there.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.files import part, store
from dispy.files.part import BusyError

from .contents import by_digest
from .files import no_space

if TYPE_CHECKING:
    from dispy.protocol.files import FileEntry

    from .world import World


class Part(part.Part):
    """A file on its way into a store."""

    __slots__ = ("_data", "_kept", "is_apart", "is_open")

    def __init__(self, kept: Kept, digest: bytes, size: int, data: bytearray, *, is_apart: bool) -> None:
        if len(data) > size:
            data.clear()
        self._kept = kept
        self._data = data
        self.digest = digest
        self.size = size
        self.offset = len(data)
        self.is_apart = is_apart
        self.is_open = True

    def write(self, offset: int, data: bytes | memoryview, hasher: Executor | None = None) -> None:
        """As of the real one."""
        if not self.is_open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if offset != self.offset:
            raise OSError(errno.ESPIPE, "what comes before it was not written")
        if self._kept.is_full:
            written = bytes(data)[: len(data) // 2]
            self._data += written
            self.offset += len(written)
            raise no_space()
        self._data += data
        self.offset += len(data)

    def finish(self) -> bool:
        """As of the real one."""
        is_right = bytes(self._data) == by_digest[self.digest]
        if is_right:
            self._kept.put(self.digest)
        self.abandon()
        return is_right

    def abandon(self) -> None:
        """As of the real one."""
        self.close()
        if not self.is_apart:
            self._kept.parts.pop(self.digest, None)

    def close(self) -> None:
        """As of the real one."""
        if self.is_open:
            self.is_open = False
            if self._kept.holders.get(self.digest) is self:
                del self._kept.holders[self.digest]


class Other:
    """Another node of the machine, which receives a file, or has stopped to."""


class Kept(store.Store):
    """The store of a computer.

    Args:
        world: Where it is.
        size_max: As of the real one.
    """

    def __init__(self, world: World, size_max: int) -> None:
        super().__init__(Path("/nowhere"))
        self._world = world
        self._left_max = size_max
        self.is_full = False
        self.contents: dict[bytes, int] = {}
        """Sizes of what is there, that which was used last at the end."""
        self.parts: dict[bytes, bytearray] = {}
        self.holders: dict[bytes, Part | Other] = {}
        """Who receives a file."""

    def put(self, digest: bytes) -> None:
        """A file is whole."""
        self.contents.pop(digest, None)
        self.contents[digest] = len(by_digest[digest])

    # As of the real one.

    def has(self, digest: bytes, size: int) -> bool:
        """Whether a file is here."""
        if digest not in self.contents:
            return False
        self.put(digest)
        return True

    def find(self, digest: bytes, size: int) -> int | None:
        """Open a file for reading; on a disk that is full what is copied from it becomes too short."""
        if not self.has(digest, size):
            return None
        content = by_digest[digest]
        descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        os.write(descriptor, content[: len(content) // 2] if self.is_full else content)
        return descriptor

    def add(self, digest: bytes, data: bytes | memoryview) -> bool:
        """Store a small file."""
        if bytes(data) != by_digest[digest]:
            return False
        if self.is_full:
            raise no_space()
        self.put(digest)
        return True

    def begin(self, digest: bytes, size: int, *, apart: bool = False) -> Part:
        """Receive a file."""
        if self.is_full:
            raise no_space()
        if apart:
            return Part(self, digest, size, bytearray(), is_apart=True)
        if digest in self.holders:
            raise BusyError(len(self.parts[digest]))
        made = Part(self, digest, size, self.parts.setdefault(digest, bytearray()), is_apart=False)
        self.holders[digest] = made
        return made

    def linker(self, entry: FileEntry, descriptor: int) -> None:
        """Nothing is lent."""

    def is_unchanged(self, digest: bytes, descriptor: int) -> bool:
        """Nobody writes to it."""
        return True

    def of(self, client: bytes, owner: bytes, account: str = "") -> Kept:
        """As of ``Stores``: there is one owner."""
        return self

    def trim(self) -> None:
        """Remove what was used longest ago."""
        left = sum(self.contents.values())
        for digest, size in list(self.contents.items()):
            if left <= self._left_max:
                return
            del self.contents[digest]
            left -= size

    # Fate.

    def close(self) -> None:
        """Its node is dead: what that was receiving anybody may go on with."""
        for digest, holder in list(self.holders.items()):
            if isinstance(holder, Part):
                del self.holders[digest]

    def lose(self) -> None:
        """The power fails, or a disk: what has been there for a while is damaged, and parts are anything."""
        chance = self._world.chance
        for digest in list(self.contents):
            if chance() < 0.3:
                del self.contents[digest]
        for digest, data in self.parts.items():
            if digest in self.holders:
                continue
            if chance() < 0.5:
                del data[int(chance() * len(data)) :]
            elif data:
                data[int(chance() * len(data))] ^= 1

    def cut(self) -> None:
        """Another node of the machine has removed some to make room."""
        for digest in list(self.contents):
            if self._world.chance() < 0.5:
                del self.contents[digest]

    def begin_other(self, digest: bytes) -> Other | None:
        """Another node of the machine receives a file from now on; None if it cannot."""
        if digest in self.holders or digest in self.contents:
            return None
        self.parts.setdefault(digest, bytearray())
        other = self.holders[digest] = Other()
        return other

    def go_on_other(self, digest: bytes, other: Other) -> None:
        """It has received some more."""
        if self.holders.get(digest) is other:
            content = by_digest[digest]
            data = self.parts[digest]
            data[:] = content[: len(data) + int(self._world.chance() * len(content))]

    def end_other(self, digest: bytes, other: Other, *, is_whole: bool) -> None:
        """It has received all, or receives no more."""
        if self.holders.get(digest) is other:
            del self.holders[digest]
            if is_whole:
                self.put(digest)
                del self.parts[digest]
