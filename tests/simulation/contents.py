"""Files that are sent: what is in them, by digest; and those that a program has, which may change under it."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from dispy.protocol.files import FileEntry
from dispy.protocol.limits import SMALL_FILE_MAX
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles

if TYPE_CHECKING:
    from .world import World

PIECE_MAX = 80 * 1024
"""Bytes of a piece in a world: it travels as a stream, and most large files have several."""

PIECES_MAX = 2 * PIECE_MAX
"""Bytes that are asked for at once."""

SIZES = [
    0,
    10,
    4000,
    SMALL_FILE_MAX,
    SMALL_FILE_MAX + 1,
    PIECE_MAX,
    PIECE_MAX + 1,
    3 * PIECE_MAX - 1,
    5 * PIECE_MAX,
]

MTIME_NS = 10**18
"""Of all files: before worlds begin."""

by_digest: dict[bytes, bytes] = {}
"""Of all contents that there ever were; a digest is made once."""


@functools.cache
def make(number: int, size: int) -> bytes:
    """The digest of a content of so many bytes, of which there are as many as there are numbers."""
    text = f"{number}:".encode()
    content = (text * (size // len(text) + 1))[:size]
    digest = hashlib.sha256(content).digest()
    by_digest[digest] = content
    return digest


def paths(entries: list[FileEntry]) -> list[str]:
    """Where they lie, for a trace."""
    return [f"{entry.path}={entry.digest[:3].hex()}/{entry.size}" for entry in entries]


class Catalogue:
    """What all programs of a world have in their files: some of it is the same.

    Args:
        random: Where chance is from.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._digests = [
            make(number, random.choice(SIZES)) for number in range(4 + int(random.random() * 8))
        ]

    def size(self) -> int:
        """Bytes of all of it."""
        return sum(len(by_digest[digest]) for digest in self._digests)

    def some(self, share: float) -> list[bytes]:
        """Some of it."""
        return [digest for digest in self._digests if self._random.random() < share]

    def entries(self, names: list[str], count: int) -> list[FileEntry]:
        """So many files, of some of these names."""
        random = self._random
        found = []
        for path in random.sample(names, min(count, len(names))):
            digest = random.choice(self._digests)
            mode = random.choice([0o644, 0o444, 0o755])
            found.append(FileEntry(path, digest, len(by_digest[digest]), mode, MTIME_NS))
        return found


class Shipped:
    """The files of one program, as ``client.session.files.Shipped``.

    Args:
        world: Where it is.
        name: Of the program.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self.held: Counter[bytes] = Counter()
        """How many want nodes to be able to ask for a file."""
        self.changed: set[bytes] = set()
        """Those that have changed and show it."""
        self.lies: set[bytes] = set()
        """Those that have changed and do not."""
        self.unreadable: set[bytes] = set()
        """Those that cannot be read now."""
        self.troubled: set[bytes] = set()
        """Those that were any of that at some time."""

    def hold(self, entries: list[FileEntry]) -> None:
        """Nodes may ask for these."""
        self.held.update(entry.digest for entry in entries)

    def let_go(self, entries: list[FileEntry]) -> None:
        """One holds these no more."""
        self.held.subtract(entry.digest for entry in entries)

    def choose(self) -> bytes | None:
        """Some file that nodes may ask for."""
        held = [digest for digest, count in self.held.items() if count > 0]
        return held[int(self._world.chance() * len(held))] if held else None

    def answer(self, message: NeedFiles) -> tuple[list[FilePiece], list[FileUnreadable]]:
        """Read what a node asks for."""
        pieces = []
        unreadable: dict[bytes, FileUnreadable] = {}
        for piece in message.pieces:
            digest = piece.digest
            if digest in unreadable:
                continue
            reason = self._fault(digest)
            if reason:
                unreadable[digest] = FileUnreadable(message.computation, digest, reason)
                continue
            data = by_digest[digest][piece.offset : piece.offset + piece.size]
            if digest in self.lies and data:
                data = data[:-1] + bytes((data[-1] ^ 1,))
            pieces.append(FilePiece(digest, piece.offset, data))
        return pieces, list(unreadable.values())

    def _fault(self, digest: bytes) -> str:
        if digest not in by_digest:
            self._world.fail(f"{self._name} is asked for a file that it never had")
        if self.held[digest] <= 0:
            return "the program has no such file any more"
        if digest in self.changed:
            return "file has changed since it was given to dispy, and cannot be sent any more"
        return "file cannot be read any more: Permission denied" if digest in self.unreadable else ""
