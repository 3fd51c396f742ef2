"""Parts of files that arrive, as threads open and write them; the core says which and when.

A *part* is the file in a store that receives the content until it is whole. Another node that holds a part is
followed: what it has received is copied early to where jobs of this node need it (``copy_in_progress``).
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from pathlib import Path

from dispy.core.staging import (
    Event,
    Open,
    Outcome,
    PartBusy,
    PartFailed,
    PartFinished,
    PartId,
    PartNeedless,
    PartOpened,
    Piece,
    Write,
    Written,
    Wrote,
)
from dispy.files.fetching.thread_pools import Then, ThreadPools
from dispy.files.fetching.wanted_files import Landed, Seams, Stage, close_begun
from dispy.files.part import BusyError, Part
from dispy.files.store import Store

logger = logging.getLogger("dispy.node")

NO_ROOM = "there is no room for it in the store: {}"
"""Reason told to a client whose file cannot be written."""


class _Receipt:
    """A large file that is received: where to, and its part once a thread has opened it."""

    __slots__ = ("digest", "part", "size", "store")

    def __init__(self, store: Store, digest: bytes, size: int) -> None:
        self.store = store
        self.digest = digest
        self.size = size
        self.part: Part | None = None
        """The open part. Set by the thread that opens it, before the core hears of it."""

    def close(self) -> None:
        """Close the part, if it is open. Safe to repeat."""
        if self.part is not None:
            self.part.close()


class Parts:
    """Parts that one node has open, by the number that the core gives them.

    Methods are called on the event loop unless they say otherwise.

    Args:
        seams: Opens working directories.
        threads: Threads that open and write parts.
        then: Takes the events of threads, on the event loop.
    """

    def __init__(self, seams: Seams, threads: ThreadPools, then: Then) -> None:
        self._seams = seams
        self._threads = threads
        self._then = then
        self._receipts: dict[PartId, _Receipt] = {}
        """Files whose parts are open, or are being opened. Others are small, or have been closed."""

    # Opening.

    def open(self, action: Open, store: Store, stage: Stage | None) -> None:
        """Open a part on a placer's thread.

        Args:
            action: Which part.
            store: The store that the file is to be in.
            stage: A stage with a directory, which gets an early copy if another node holds the part; None: none.
        """
        receipt = self._receipts[action.part] = _Receipt(store, action.digest, action.size)
        self._threads.run(
            self._threads.placers,
            partial(self._open, action, receipt, stage),
            self._on_opened,
            partial(self._fail, action.part, receipt),
        )

    def _open(self, action: Open, receipt: _Receipt, stage: Stage | None) -> Event:
        """Open a part, on a placer's thread. If another node holds it, bytes that have come there are copied."""
        store = receipt.store
        try:
            part = store.begin(action.digest, action.size, apart=action.is_apart)
            if part.offset == 0 and store.has(action.digest, action.size):
                # Another node was faster.
                part.abandon()
                return PartNeedless(action.part)
        except BusyError as error:
            if stage is not None and stage.work is not None:
                self._follow(stage, stage.work, action.digest)
            return PartBusy(action.part, error.size)
        except OSError as error:
            return PartFailed(action.part, NO_ROOM.format(error))
        receipt.part = part
        return PartOpened(action.part, part.offset)

    def _on_opened(self, event: Event) -> None:
        """Forget a part that could not be opened, and tell the core what came of it."""
        if isinstance(event, (PartBusy, PartNeedless, PartFailed)):
            self._receipts.pop(event.part, None)
        self._then(event)

    def _fail(self, number: PartId, receipt: _Receipt, reason: str) -> Event:
        """Returns the event for a part that could not be opened or finished by a fault; the part is closed."""
        self._receipts.pop(number, None)
        receipt.close()
        return PartFailed(number, reason)

    def _follow(self, stage: Stage, work: Path, digest: bytes) -> None:
        """Add bytes that another node has received of a file to a stage's early copy (``Stage.begun``), on a thread.

        After an error there is no early copy: the file is copied once it is complete.
        """
        begun = stage.begun.get(digest)
        if begun is None and digest not in stage.begun:
            entry = next(entry for entry in stage.entries if entry.digest == digest)
            begun = stage.begun[digest] = stage.store.follow(
                entry, partial(self._seams.open_directory, work)
            )
        if begun is None:
            return
        try:
            begun.advance(lambda: not stage.is_dropped)
        except OSError:
            # The error is reported when the whole file is put there.
            stage.begun[digest] = None
            begun.close()
        if stage.is_dropped:
            close_begun(stage)

    def finish(self, number: PartId) -> None:
        """Check a part that was whole when opened, and give it its name in the store, on a placer's thread."""
        receipt = self._receipts.pop(number)
        self._threads.run(
            self._threads.placers,
            partial(_finish, number, receipt),
            self._then,
            partial(self._fail, number, receipt),
        )

    # Pieces.

    def write(self, action: Write, stores: list[Store]) -> None:
        """Write pieces on their writer's thread.

        Args:
            action: The pieces.
            stores: The store of each.
        """
        left = deque(
            (piece, self._receipts.get(piece.part), store)
            for piece, store in zip(action.pieces, stores, strict=True)
        )
        self._threads.run(
            self._threads.writers[action.writer],
            partial(self._write, action, left),
            self._on_written,
            partial(_fail_write, action, left),
        )

    def _write(self, action: Write, left: deque[tuple[Piece, _Receipt | None, Store]]) -> Event:
        """Write pieces, on a writer's thread; takes each out of ``left`` with which it is done."""
        results = []
        while left:
            piece, receipt, store = left[0]
            results.append(self._write_piece(piece, receipt, store))
            left.popleft()
        return Written(action.write, results)

    def _write_piece(self, piece: Piece, receipt: _Receipt | None, store: Store) -> Wrote:
        """Write one piece, and let go of its data, on a writer's thread."""
        try:
            data = piece.data if isinstance(piece.data, bytes) else _landed(piece.data).view()
            outcome = self._put_away(piece, receipt, store, data)
            reason = ""
        except (OSError, ValueError) as error:
            outcome, reason = Outcome.FAILED, NO_ROOM.format(error)
        data = b""  # before its memory goes
        if not isinstance(piece.data, bytes):
            _landed(piece.data).let_go()
        return Wrote(piece.part, piece.size, outcome, reason)

    def _put_away(
        self, piece: Piece, receipt: _Receipt | None, store: Store, data: bytes | memoryview
    ) -> Outcome:
        """Write one piece into its part, or a small file into the store, on a writer's thread.

        Raises:
            OSError: There is no room, or the part is closed.
        """
        if len(data) != piece.size:
            return Outcome.WRONG
        if piece.file_size <= self._seams.small_max:
            return Outcome.WHOLE if store.add(piece.digest, data) else Outcome.WRONG
        if receipt is None or receipt.part is None:
            raise OSError("its part is closed")
        part = receipt.part
        part.write(piece.offset, data, self._threads.hashers)
        if part.offset < piece.file_size:
            return Outcome.MORE
        return Outcome.WHOLE if part.finish() else Outcome.WRONG

    def _on_written(self, event: Event) -> None:
        """Forget parts that have become files, and tell the core what came of the pieces."""
        if isinstance(event, Written):
            for done in event.results:
                if done.outcome is Outcome.WHOLE:
                    self._receipts.pop(done.part, None)
        self._then(event)

    # The end.

    def close_part(self, number: PartId, writer: int) -> None:
        """Close a part on its writer's thread, after the pieces that were given to that thread."""
        receipt = self._receipts.pop(number, None)
        if receipt is not None:
            self._threads.do(self._threads.writers[writer], receipt.close)

    def close(self) -> None:
        """Close all parts. The threads must have ended."""
        for receipt in self._receipts.values():
            receipt.close()
        self._receipts.clear()


def _finish(number: PartId, receipt: _Receipt) -> Event:
    """Finish a part that was whole when opened, on a placer's thread."""
    assert receipt.part is not None
    try:
        return PartFinished(number, receipt.part.finish())
    except OSError as error:
        return PartFailed(number, NO_ROOM.format(error))


def _landed(data: object) -> Landed:
    """Returns the data of a piece that came as a stream."""
    return data  # type: ignore[return-value]  # ``Stager.on_data`` puts in nothing else


def _fail_write(action: Write, left: deque[tuple[Piece, _Receipt | None, Store]], reason: str) -> Event:
    """Returns the answer to a write that could not be done; data that is left is let go of."""
    discard([piece.data for piece, _, _ in left])
    left.clear()
    return Written(
        action.write, [Wrote(piece.part, piece.size, Outcome.FAILED, reason) for piece in action.pieces]
    )


def discard(data: list[object]) -> None:
    """Let go of the data of pieces that nobody writes."""
    for each in data:
        if not isinstance(each, bytes):
            _landed(each).discard()
