"""Parts of files that arrive: opened before the first piece is asked for, written piece by piece, and checked.

A *part* is the file in a store that receives the content until it is whole. All nodes of a user share stores, so
another node may hold the part; then this one waits as long as that node makes progress, and copies early what has
come (``copy_in_progress``). Files of up to ``SMALL`` bytes have no part: their only piece is stored at once.

The life of a ``Fetch``, by its fields (all changes are made on the event loop):

===========================  ==========================  ===========================================================
state                        event                       next
===========================  ==========================  ===========================================================
no part                      first request is due        opening: a placer's thread opens the part
opening                      part is open                receiving, from where the part ends
opening                      part is whole               checking: a placer's thread gives the part its name
opening                      file is in the store        stored
opening                      another node holds it       opening, after ``LOOK_AGAIN_S``; after ``STUCK_S`` without
                                                         progress of that node in a part of our own
opening, receiving           the disk fails              failed, for all stages
receiving, or small          piece arrives               receiving; in order, pieces go to the file's writer
receiving, or small          all is written and right    stored
receiving, checking          content is wrong            pieces of several suppliers, or of an earlier time: no part,
                                                         all is asked for again; otherwise failed for the stages of
                                                         that supplier
===========================  ==========================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dispy.files.fetching.requests import Requests
from dispy.files.fetching.thread_pools import WRITERS, ThreadPools
from dispy.files.fetching.wanted_files import (
    Arrived,
    Fetch,
    FetchKey,
    Landed,
    Seams,
    Stage,
    SupplierId,
    close_begun,
)
from dispy.files.part import BusyError, Part
from dispy.protocol import node

LOOK_AGAIN_S = 0.01
"""Interval (seconds) at which the node looks whether another node has received a file, and copies bytes that have
come."""

STUCK_S = 1.0
"""Seconds without progress of another node that receives a file, after which this node waits no longer and receives
the whole file in a part of its own."""

MISSIZED = "the program gives it different sizes at once"
"""Reason told to a client that lists a file twice in one computation, with one digest and two sizes."""

CHANGED = "its content is not what it was said to be: it has changed meanwhile"
"""Reason told to a client whose file does not have the content of its digest; the stages that need it fail."""


class Outcomes(NamedTuple):
    """Functions of the stager that ``Parts`` calls on the event loop with what became of a file.

    Attributes:
        received: Called with a file and the number of its bytes that were written since the last call, or were found
            in its part when that was opened.
        stored: Called with a file that is in the store, after it was removed from the fetches.
        failed: Called with a file, the stages that cannot have it, and the reason. It ends these stages.
    """

    received: Callable[[Fetch, int], None]
    stored: Callable[[Fetch], None]
    failed: Callable[[Fetch, list[Stage], str], None]


class Parts:
    """Parts (incomplete files in the store) of all files that one node receives.

    Methods are called on the event loop unless they say otherwise.

    Args:
        seams: Functions of the node for messages and timers, and limits.
        threads: Threads that open and write parts.
        fetches: Files that are wanted and not stored. Shared with the stager: it adds files, and a file is
            removed here once it is stored or no stage waits for it.
        outcomes: Functions that are called with what became of a file.

    Attributes:
        requests: Requests to suppliers for pieces of these files.
    """

    def __init__(
        self,
        seams: Seams,
        threads: ThreadPools,
        fetches: dict[FetchKey, Fetch],
        outcomes: Outcomes,
    ) -> None:
        self._seams = seams
        self._threads = threads
        self._fetches = fetches
        self._outcomes = outcomes
        self.requests = Requests(seams, fetches, self._open, self._on_missized)

    # Opening.

    def _open(self, fetch: Fetch) -> None:
        """Have a placer's thread open the part of a file (``_begin``); the result goes to ``_on_open``.

        Called before the first piece is asked for. Nothing is done if the part is being opened already, or no stage
        waits for the file any more.
        """
        if fetch.opening is None and self._fetches.get(fetch.key) is fetch:
            stage = next((stage for stage in fetch.stages if stage.work is not None), None)
            fetch.opening = self._threads.run(
                self._threads.placer(),
                self._begin,
                (fetch, fetch.is_apart, stage),
                self._on_open,
                (fetch,),
                self._on_fault,
            )

    def _begin(self, fetch: Fetch, is_apart: bool, stage: Stage | None) -> Part | OSError | None:
        """Open the part of a file, on a placer's thread.

        Args:
            fetch: The fetch of the file, of which only what never changes is read here.
            is_apart: Open a part of this process alone (``Fetch.is_apart``).
            stage: A stage with a directory, which gets an early copy if another node holds the part; None: none.

        Returns:
            The part; None if the file is in the store by now; or the error, which is not raised. BusyError: another
            node holds the part, and the bytes that it has received were copied for ``stage`` (``_follow``).
        """
        try:
            part = fetch.store.begin(fetch.digest, fetch.size, apart=is_apart)
            if part.offset == 0 and fetch.store.has(fetch.digest, fetch.size):
                # Another node was faster.
                part.abandon()
                return None
        except BusyError as error:
            if stage is not None and stage.work is not None:
                self._follow(stage, stage.work, fetch.digest)
            return error
        except OSError as error:
            return error
        return part

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

    def _on_open(self, fetch: Fetch, result: Part | OSError | None) -> None:
        """Take the result of ``_begin``: ask for pieces, or report the file stored or failed.

        After BusyError the part is opened again ``LOOK_AGAIN_S`` later. The result is dropped, and a part closed, if
        no stage waits for the file any more.
        """
        fetch.opening = None
        if self._fetches.get(fetch.key) is not fetch:
            if isinstance(result, Part):
                result.close()
            return
        if result is None:
            self._on_stored(fetch)
        elif isinstance(result, BusyError):
            size, waited_s = fetch.seen
            fetch.seen = (result.size, waited_s + LOOK_AGAIN_S if result.size == size else 0.0)
            fetch.is_apart = fetch.seen[1] >= STUCK_S
            self._seams.later(LOOK_AGAIN_S, self._open, fetch)
        elif isinstance(result, OSError):
            self._fail_all(fetch, f"there is no room for it in the store: {result}")
        else:
            fetch.part = result
            self._outcomes.received(fetch, result.offset)
            fetch.handed = result.offset
            fetch.is_mixed = result.offset > 0
            if fetch.handed >= fetch.size:
                # The part was whole, and lacked only its name in the store.
                self._threads.run(
                    self._threads.placer(),
                    self._finish,
                    (result,),
                    self._on_finished,
                    (fetch,),
                    self._on_fault,
                )
                return
            self.requests.want_again(fetch)

    def _finish(self, part: Part) -> bool | OSError:
        """Finish a part that was whole when opened, on a placer's thread.

        Returns the result of ``Part.finish`` (True: the content is right), or the error, which is not raised.
        """
        try:
            return part.finish()
        except OSError as error:
            return error

    def _on_finished(self, fetch: Fetch, result: bool | OSError) -> None:
        """Take the result of ``_finish`` for a part that was whole when it was opened.

        With the right content the file is stored. With wrong content the part is gone, and the whole file is fetched.
        If the part cannot get its name, all stages that wait for the file fail with the reason.
        """
        if self._fetches.get(fetch.key) is not fetch:
            return
        fetch.part = None
        if isinstance(result, OSError):
            self._fail_all(fetch, f"there is no room for it in the store: {result}")
        elif result:
            self._on_stored(fetch)
        else:
            self._begin_anew(fetch)

    # Pieces that arrive.

    def on_data(
        self,
        supplier: SupplierId,
        computation: int,
        pieces: Iterable[tuple[node.FilePiece, Landed | None]],
    ) -> None:
        """Give pieces to the writers' threads; those of one file in the order of their offsets.

        A piece that was not asked for is dropped. A piece that has overtaken others waits for them in
        ``Fetch.early``.

        Args:
            supplier: The client that has sent the pieces.
            computation: Number of the computation in whose name it says that it was asked.
            pieces: Each piece with the stream that holds its data; None if the data is in the piece itself.
        """
        known = self.requests.suppliers.get(supplier)
        writing = self.requests.writing
        arrived: list[Arrived] = []
        for piece, landed in pieces:
            asked = (
                known.asked.pop((computation, piece.digest, piece.offset), None)
                if known is not None
                else None
            )
            if asked is None or known is None:
                if landed is not None:
                    landed.discard()
                continue
            fetch = asked.fetch
            item = Arrived(fetch, fetch.part, piece.offset, landed or piece.data, asked.size)
            fetch.early[piece.offset] = item
            while fetch.handed in fetch.early:
                item = fetch.early.pop(fetch.handed)
                fetch.handed += item.size
                known.size -= item.size
                writing[supplier] = writing.get(supplier, 0) + item.size
                fetch.is_mixed |= fetch.origin not in (None, supplier)
                fetch.origin = supplier
                arrived.append(item)
                if fetch.handed >= fetch.size:
                    break
        threads = self._threads
        for number in range(WRITERS):
            mine = [item for item in arrived if item.fetch.digest[0] % WRITERS == number]
            if mine:
                threads.run(
                    threads.writer(number),
                    self._write,
                    (mine,),
                    self._on_written,
                    (supplier, mine),
                    self._on_write_fault,
                )

    def _write(self, arrived: list[Arrived]) -> list[bool | str | None]:
        """Write pieces, on a writer's thread.

        Returns:
            For each piece: True if its file is whole now, False if more pieces are to come, None if the content is
            not what the digest says, or the reason why the piece cannot be stored.
        """
        results: list[bool | str | None] = []
        for fetch, part, offset, landed, size in arrived:
            try:
                data = landed if isinstance(landed, bytes) else landed.view()
                results.append(self._put_away(fetch, part, offset, data, size))
            except (OSError, ValueError) as error:
                results.append(f"there is no room for it in the store: {error}")
            data = b""
            if not isinstance(landed, bytes):
                landed.let_go()
        return results

    def _put_away(
        self, fetch: Fetch, part: Part | None, offset: int, data: bytes | memoryview, size: int
    ) -> bool | None:
        """Write one piece into its part, or a small file into the store, on a writer's thread.

        Returns True if its file is whole and right now, False if more pieces are to come, None if the content is
        wrong. Raises OSError if there is no room.
        """
        if len(data) != size:
            return None
        if part is None:
            return True if fetch.store.add(fetch.digest, data) else None
        part.write(offset, data, self._threads.hasher())
        if part.offset < fetch.size:
            return False
        return True if part.finish() else None

    def _on_written(
        self, supplier: SupplierId, arrived: list[Arrived], results: list[bool | str | None]
    ) -> None:
        """Take the results of ``_write``, one for each piece, and ask the supplier for more: there is room again.

        Progress and stored files are reported to the stager. A file with wrong content is fetched again or failed
        (``Fetch.is_mixed``), one without room failed. Pieces of files that were begun anew meanwhile do not count.
        """
        writing = self.requests.writing
        left = writing.pop(supplier, 0) - sum(item.size for item in arrived)
        if left:
            writing[supplier] = left
        for (fetch, part, _, _, size), result in zip(arrived, results, strict=True):
            if self._fetches.get(fetch.key) is not fetch or fetch.part is not part:
                continue
            if result is True:
                fetch.part = None
                self._outcomes.received(fetch, size)
                self._on_stored(fetch)
            elif result is False:
                self._outcomes.received(fetch, size)
            elif result is None:
                fetch.part = None
                if fetch.is_mixed:
                    self._begin_anew(fetch)
                else:
                    self._fail(fetch, supplier, CHANGED)
            else:
                self._fail_all(fetch, result)
        self.requests.ask(supplier)

    def _on_stored(self, fetch: Fetch) -> None:
        """Remove a file that is in the store from the fetches, and tell the stager."""
        del self._fetches[fetch.key]
        self._outcomes.stored(fetch)

    # Failures, and files that are not wanted any more.

    def on_unreadable(self, supplier: SupplierId, computation: int, digest: bytes, reason: str) -> None:
        """Fail the stages of a supplier that need a file: the supplier says that it cannot send the file, and why.

        If stages of other suppliers need the file, too, one of these is asked for it. Nothing is done if the supplier
        is not asked for any piece of the file in the name of this computation.
        """
        known = self.requests.suppliers.get(supplier)
        asked = known.asked if known is not None else {}
        for (number, wanted, _), item in asked.items():
            if number == computation and wanted == digest:
                self._fail(item.fetch, supplier, reason)
                return

    def _on_missized(self, fetch: Fetch, supplier: SupplierId) -> None:
        """Fail the stages of a supplier that need a file of which it says two sizes in one computation."""
        if self._fetches.get(fetch.key) is fetch and fetch.supplier == supplier:
            self._fail(fetch, supplier, MISSIZED)

    def _fail(self, fetch: Fetch, supplier: SupplierId, reason: str) -> None:
        """Fail the stages of one supplier that need a file: it cannot send the file, or has sent wrong content.

        If stages of other suppliers need the file, too, one of these is asked for it (``_begin_anew``).
        """
        stages = [stage for stage in fetch.stages if stage.supplier == supplier]
        self._outcomes.failed(fetch, stages, reason)
        if self._fetches.get(fetch.key) is fetch:
            self._begin_anew(fetch)

    def _on_fault(self, fetch: Fetch, reason: str) -> None:
        """Fail a file whose part cannot be opened or finished, by a fault of this program."""
        if self._fetches.get(fetch.key) is fetch:
            fetch.opening = None
            self._fail_all(fetch, reason)

    def _on_write_fault(self, supplier: SupplierId, arrived: list[Arrived], reason: str) -> None:
        """Fail the files of pieces that could not be written, by a fault of this program."""
        self._on_written(supplier, arrived, [reason] * len(arrived))

    def _fail_all(self, fetch: Fetch, reason: str) -> None:
        """Fail the stages of all suppliers that need a file: the node cannot write the file to the store."""
        self._outcomes.failed(fetch, list(fetch.stages), reason)

    def _begin_anew(self, fetch: Fetch) -> None:
        """Fetch a file again: drop the requests for it, close its part, and ask the supplier of its first stage.

        Called when its supplier has failed, or its content is wrong.

        If the part is still on disk, it is opened again before anything is asked for, and the bytes in it count.
        """
        self.requests.unask(fetch)
        if fetch.part is not None:
            self._close_part(fetch)
        fetch.handed = 0
        fetch.origin = None
        fetch.is_mixed = False
        self.requests.want_again(fetch)

    def forget(self, fetch: Fetch) -> None:
        """Remove a file that no stage waits for from the fetches, and close its part.

        Bytes that are in the part stay there for the next fetch of the file.
        """
        self._fetches.pop(fetch.key, None)
        if fetch.opening is not None:
            fetch.opening.cancel()
        if fetch.part is not None:
            self._close_part(fetch)

    def _close_part(self, fetch: Fetch) -> None:
        """Close a part on its writer's thread, after the pieces that were given to that thread."""
        if fetch.part is not None and not self._threads.is_closed:
            self._threads.do(self._threads.writer(fetch.digest[0] % WRITERS), fetch.part.close)
        fetch.part = None

    def close(self) -> None:
        """Close all parts, and forget all fetches. The threads must have ended."""
        for fetch in self._fetches.values():
            if fetch.part is not None:
                fetch.part.close()
        self._fetches.clear()
