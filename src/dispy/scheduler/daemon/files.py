"""Files of programs, kept by a shared scheduler: nodes get them although their program has died.

Theory of operation. As soon as a program names files (of a cluster, a job, a node), the scheduler asks it for their
content, as a node would, and writes that into a store of the program's own (``files.store``). A node that asks for a
file waits until the scheduler has it, and is served from the store.

    state      event                                              next
    none       named; beyond the bound: REFUSED                   FETCHING; of an installed package: LATER
    LATER      a node asks: it may have an installed copy         FETCHING
    FETCHING   all bytes are there, and have the right digest     STORED
    FETCHING   no room, or the program refuses it                 REFUSED
    any        the last cluster or job that needs it has ended    none: it is removed

Questions of nodes for a refused file are passed on to the program, as they were before there was a store.

Reading and writing happen on one thread; everything else on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dispy.files.part import Part
from dispy.files.store import Store
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import MIB, PIECES_SIZE_MAX
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles, Piece
from dispy.system.run_directory import remove_tree

logger = logging.getLogger("dispy.scheduler")

T = TypeVar("T")

PROGRAM_MAX = 4096 * MIB
"""Bytes of files that are kept of one program. Nodes get further ones from the program itself."""

ALL_MAX = 16384 * MIB
"""Bytes of files that are kept of all programs together."""

PIECE = MIB
"""Bytes that are asked for at once: other messages pass between two pieces."""

Holder = tuple[int, int]
"""Number of a cluster and of a job that needs a file; 0 as job: the cluster itself does."""


class Status(Enum):
    """Status of a file; the text of the module has the transitions."""

    LATER = "later"
    FETCHING = "fetching"
    STORED = "stored"
    REFUSED = "refused"


class File:
    """A file of a program.

    Args:
        digest: SHA-256 of its content.
        size: Bytes of it.
        status: Its status.
    """

    __slots__ = (
        "asked", "cluster", "digest", "early", "holders", "offset", "part", "size", "status", "under_way", "waiting",
    )  # fmt: skip

    def __init__(self, digest: bytes, size: int, status: Status) -> None:
        self.digest = digest
        self.size = size
        self.status = status
        self.holders: set[Holder] = set()
        self.cluster = 0
        """Cluster in whose name the program was asked for it."""
        self.asked = 0
        """Bytes that the program was asked for, from the beginning on."""
        self.under_way: dict[int, int] = {}
        """Sizes of the pieces that were asked for and have not come, by their place."""
        self.offset = 0
        """Bytes, from the beginning on, that have come and were given to the thread that writes."""
        self.early: dict[int, Any] = {}
        """Pieces that came before earlier ones, by their place."""
        self.part: Part | None = None
        """Where it is written; only for the thread."""
        self.waiting: list[tuple[int, bytes, Piece]] = []
        """Questions of nodes that wait for it: cluster, node, piece."""


class FileKeeper:
    """The stores of all programs.

    Args:
        root: Directory of the stores, the user's alone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.size = 0
        """Bytes that all programs have, or have been promised."""
        self._thread = ThreadPoolExecutor(1, "dispy files")

    def call(self, function: Callable[[], T], then: Callable[[T | None, OSError | None], None]) -> None:
        """Call a function on the thread, and ``then`` on the loop with its result, or its error."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            found: T | None = None
            fault = None
            try:
                found = function()
            except OSError as error:
                fault = error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(then, found, fault)

        with suppress(RuntimeError):  # after ``close``
            self._thread.submit(run)

    def close(self) -> None:
        """End the thread; what it has to do is not done any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class ProgramFiles:
    """Files of one program.

    Args:
        keeper: The stores of all programs; None: nothing is kept.
        name: Name of the program's store.
        ask: Asks the program for files: called with a cluster, the node (empty: we want them) and the question.
        send: Sends a node pieces of files: called with a cluster, the node and the pieces.
    """

    def __init__(
        self,
        keeper: FileKeeper | None,
        name: str,
        ask: Callable[[int, bytes, NeedFiles], None],
        send: Callable[[int, bytes, list[FilePiece]], None],
    ) -> None:
        self._keeper = keeper
        self._ask = ask
        self._send = send
        self._root = keeper.root / name if keeper is not None else Path()
        self._store = Store(self._root)
        self._files: dict[bytes, File] = {}
        self._by_holder: dict[Holder, list[bytes]] = {}
        self._has_files = False
        """True once there was one: there may be a directory."""
        self._size = 0
        self._under_way = 0
        """Bytes that the program was asked for and that have not come."""
        self._queue: deque[File] = deque()
        """Files of which more has to be asked for."""
        self._passed: dict[tuple[int, bytes, bytes, int], Piece] = {}
        """Pieces that nodes have asked the program for: by cluster, node, digest, place."""

    # What is needed.

    def want(self, cluster: int, entries: Iterable[FileEntry], job: int = 0) -> None:
        """Keep files for a cluster, or for one of its jobs."""
        if self._keeper is None:
            return
        holder = cluster, job
        held = self._by_holder.setdefault(holder, [])
        for entry in entries:
            file = self._files.get(entry.digest)
            if file is None:
                file = self._files[entry.digest] = self._new_file(self._keeper, entry)
            if holder not in file.holders:
                file.holders.add(holder)
                held.append(entry.digest)
        if not held:
            del self._by_holder[holder]
        self._ask_more()

    def _new_file(self, keeper: FileKeeper, entry: FileEntry) -> File:
        size = entry.size
        self._has_files = True
        if self._size + size > PROGRAM_MAX or keeper.size + size > ALL_MAX:
            if self._size <= PROGRAM_MAX:
                logger.warning(
                    "a file of %d MB is not kept: nodes get it from its program", size // 1_000_000
                )
            return File(entry.digest, size, Status.REFUSED)
        self._size += size
        keeper.size += size
        file = File(entry.digest, size, Status.LATER)
        if not entry.package:
            self._fetch(file)
        return file

    def _fetch(self, file: File) -> None:
        """Fetch a file from the program, or what is missing of it."""
        self._under_way -= sum(file.under_way.values())
        file.under_way.clear()
        file.early.clear()
        file.asked = file.offset
        file.status = Status.FETCHING
        if file not in self._queue:
            self._queue.append(file)

    def on_ended(self, cluster: int, numbers: list[int]) -> None:
        """Let go of the files of jobs that have ended."""
        if self._by_holder:
            for number in numbers:
                if (cluster, number) in self._by_holder:
                    self._let_go((cluster, number))

    def on_closed(self, cluster: int) -> None:
        """Let go of the files of a cluster that is closed, and of its jobs."""
        for holder in [holder for holder in self._by_holder if holder[0] == cluster]:
            self._let_go(holder)
        self._passed = {key: piece for key, piece in self._passed.items() if key[0] != cluster}

    def _let_go(self, holder: Holder) -> None:
        for digest in self._by_holder.pop(holder):
            file = self._files[digest]
            file.holders.discard(holder)
            if not file.holders:
                del self._files[digest]
                self._remove(file)
            elif file.status is Status.FETCHING and file.cluster == holder[0]:
                self._fetch(file)  # the program may have closed the cluster before it had answered
        self._ask_more()

    def _remove(self, file: File) -> None:
        """Keep a file no longer."""
        self._under_way -= sum(file.under_way.values())
        file.under_way.clear()
        file.early.clear()
        if file.status is not Status.REFUSED:
            self._give_back(file)
        file.status = Status.REFUSED
        if self._keeper is not None:
            self._keeper.call(partial(_remove, self._root, file), _ignore)

    def _give_back(self, file: File) -> None:
        self._size -= file.size
        if self._keeper is not None:
            self._keeper.size -= file.size

    # Fetching.

    def _ask_more(self) -> None:
        """Ask the program for as much as may be under way."""
        while self._queue and self._under_way < PIECES_SIZE_MAX:
            file = self._queue[0]
            pieces: list[Piece] = []
            while file.status is Status.FETCHING and self._under_way < PIECES_SIZE_MAX:
                size = min(PIECE, file.size - file.asked)
                pieces.append(Piece(file.digest, file.asked, size))
                file.under_way[file.asked] = size
                file.asked += size
                self._under_way += size
                if file.asked >= file.size:
                    break
            if file.status is not Status.FETCHING or file.asked >= file.size:
                self._queue.popleft()
            if pieces:
                file.cluster = min(file.holders)[0]
                self._ask(file.cluster, b"", NeedFiles(file.cluster, pieces))

    def on_pieces(self, pieces: Iterable[FilePiece]) -> None:
        """Take pieces that the program has sent to the scheduler itself. What was not asked for is dropped."""
        for piece in pieces:
            file = self._files.get(piece.digest)
            if file is None or self._keeper is None or piece.offset not in file.under_way:
                continue
            size = file.under_way.pop(piece.offset)
            self._under_way -= size
            if piece.data is None or len(piece.data) != size:  # there was no memory for it; or it is wrong
                self._refuse(file)
                continue
            file.early[piece.offset] = piece.data
            while file.offset in file.early:
                data = file.early.pop(file.offset)
                write = partial(_write, self._store, file, file.offset, data)
                self._keeper.call(write, partial(self._on_written, file))
                file.offset += len(data)
        self._ask_more()

    def _on_written(self, file: File, is_whole: bool | None, error: OSError | None) -> None:
        if self._files.get(file.digest) is not file or file.status is not Status.FETCHING:
            return
        if error is not None or is_whole is False:
            logger.warning("a file is not kept: %s", error or "its content is not what was announced")
            self._refuse(file)
        elif is_whole:
            file.status = Status.STORED
            waiting, file.waiting = file.waiting, []
            for cluster, node, piece in waiting:
                self._serve(cluster, node, [piece])
        self._ask_more()

    def on_unreadable(self, items: Iterable[FileUnreadable]) -> None:
        """Take refusals of the program: it cannot send files to the scheduler itself."""
        for item in items:
            file = self._files.get(item.digest)
            if file is not None and file.status is Status.FETCHING:
                self._refuse(file)
        self._ask_more()

    def _refuse(self, file: File) -> None:
        """Keep a file no longer; nodes that wait for it ask the program."""
        self._remove(file)
        waiting, file.waiting = file.waiting, []
        for cluster, node, piece in waiting:
            self._pass_on(cluster, node, [piece])

    # Nodes.

    def need(self, cluster: int, node: bytes, pieces: Iterable[Piece]) -> None:
        """Answer a node that asks for pieces of files: now, when they are here, or by the program."""
        stored: list[Piece] = []
        passed: list[Piece] = []
        for piece in pieces:
            file = self._files.get(piece.digest)
            if file is None or file.status is Status.REFUSED:
                passed.append(piece)
            elif file.status is Status.STORED:
                stored.append(piece)
            else:
                if file.status is Status.LATER:
                    self._fetch(file)
                file.waiting.append((cluster, node, piece))
        if stored:
            self._serve(cluster, node, stored)
        if passed:
            self._pass_on(cluster, node, passed)
        self._ask_more()

    def _pass_on(self, cluster: int, node: bytes, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._passed[cluster, node, piece.digest, piece.offset] = piece
        self._ask(cluster, node, NeedFiles(cluster, pieces))

    def on_answered(
        self, cluster: int, node: bytes, pieces: Iterable[Any], unreadable: Iterable[Any]
    ) -> None:
        """Note that the program has answered a node."""
        for piece in pieces:
            self._passed.pop((cluster, node, piece.digest, piece.offset), None)
        for item in unreadable:
            gone = [key for key in self._passed if key[:3] == (cluster, node, item.digest)]
            for key in gone:
                del self._passed[key]

    def on_node_gone(self, node: bytes) -> None:
        """Forget what a node has asked for: it is lost."""
        self._passed = {key: piece for key, piece in self._passed.items() if key[1] != node}
        for file in self._files.values():
            if file.waiting:
                file.waiting = [waiting for waiting in file.waiting if waiting[1] != node]

    def _serve(self, cluster: int, node: bytes, pieces: list[Piece]) -> None:
        """Send a node pieces of files that are in the store."""
        sizes = {piece.digest: self._files[piece.digest].size for piece in pieces}

        def send(found: list[FilePiece] | None, error: OSError | None) -> None:
            if found is not None:
                self._send(cluster, node, found)
                return
            logger.warning("a file that is kept cannot be read: %s", error)
            self._pass_on(cluster, node, pieces)

        if self._keeper is not None:
            self._keeper.call(partial(_read, self._store, sizes, pieces), send)

    # The program.

    def ask_again(self) -> None:
        """Ask for all again that was asked for and has not come: a recovery answers in place of the program."""
        for file in self._files.values():
            if file.status is Status.FETCHING and (file.offset < file.size or not file.size):
                self._fetch(file)
        self._ask_more()
        asked: dict[tuple[int, bytes], list[Piece]] = {}
        for (cluster, node, _, _), piece in self._passed.items():
            asked.setdefault((cluster, node), []).append(piece)
        for (cluster, node), pieces in asked.items():
            self._ask(cluster, node, NeedFiles(cluster, pieces))

    def count_missing(self) -> int:
        """Returns the number of files that jobs may need and that are not here yet."""
        return len([file for file in self._files.values() if file.status is Status.FETCHING]) + len(
            {key[2] for key in self._passed}
        )

    def close(self) -> None:
        """Remove all: the program is gone."""
        for file in self._files.values():
            if file.status is not Status.REFUSED:
                self._give_back(file)
        if self._keeper is not None and self._has_files:
            parts = list(self._files.values())
            self._keeper.call(partial(_remove_all, self._root, parts), _ignore)
        self._files.clear()
        self._by_holder.clear()


# On the thread.


def _write(store: Store, file: File, offset: int, data: Any) -> bool | None:
    """Write a piece; returns True if the file is whole now, False if it is wrong, None if more is to come."""
    if not file.size:
        return store.add(file.digest, b"")
    if file.part is None:
        file.part = store.begin(file.digest, file.size)
    part = file.part
    if part.descriptor < 0:
        return None  # it was refused meanwhile
    part.write(offset, data)
    return part.finish() if part.offset >= file.size else None


def _read(store: Store, sizes: dict[bytes, int], pieces: list[Piece]) -> list[FilePiece]:
    """Returns the bytes of pieces.

    Raises:
        OSError: A file is not there any more, or cannot be read.
    """
    found = []
    for piece in pieces:
        descriptor = store.find(piece.digest, sizes[piece.digest])
        if descriptor is None:
            raise FileNotFoundError("it is gone from the store of the scheduler")
        try:
            data = os.pread(descriptor, piece.size, piece.offset)
        finally:
            os.close(descriptor)
        if len(data) != piece.size:
            raise OSError("it is shorter than it was")
        found.append(FilePiece(piece.digest, piece.offset, data))
    return found


def _remove(root: Path, file: File) -> None:
    """Remove a file from its store, or its part."""
    if file.part is not None and file.part.descriptor >= 0:
        file.part.abandon()
    name = file.digest.hex()
    with suppress(OSError):
        os.unlink(root / name[:2] / name)


def _remove_all(root: Path, files: list[File]) -> None:
    """Remove a store."""
    for file in files:
        if file.part is not None:
            file.part.close()
    remove_tree(root)


def _ignore(found: None, error: OSError | None) -> None:
    """Take no notice of what came of removing files."""
