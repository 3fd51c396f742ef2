"""Gets files from clients into stores, and from there into the directories where jobs find them.

The decisions are those of ``core.staging``: which files are asked of whom and when, what threads do next, who waits
for what. Here they are carried out: by messages, timers, and threads that look, copy, hash and write.

A *stage* is a set of files that something on the node waits for. Its files are put into a directory by hard link or
copy (``checkout``) once all are in the store of their owner; those that are missing are received into it first.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from dispy.core import staging as core
from dispy.core.staging import DirectoryName, Event, Limits, StageId, StoreName, SupplierId
from dispy.files.fetching import stage_work
from dispy.files.fetching.parts import Parts, discard
from dispy.files.fetching.thread_pools import ThreadPools
from dispy.files.fetching.wanted_files import Landed, Seams, Stage, close_begun
from dispy.files.installed_packages import Installed
from dispy.files.store import Store
from dispy.files.stores import Stores
from dispy.protocol import node

logger = logging.getLogger("dispy.node")


class Stager:
    """Stages of one node. Methods are called on the event loop unless they say otherwise.

    Args:
        stores: The stores of files by content, which other nodes of the user share; here only to be trimmed.
        seams: Functions of the node for messages, timers and threads, and limits.
        file_max: Bytes of the largest file that is taken; a stage with a larger one fails at once. 0: no limit.

    Attributes:
        machine: The decisions. Its state may be read.
    """

    def __init__(self, stores: Stores, seams: Seams, file_max: int = 0) -> None:
        self._stores = stores
        self._seams = seams
        self._installed = Installed()
        self.machine = core.Machine(Limits(file_max, seams.small_max, seams.piece_max, seams.pieces_max))
        self._numbers = itertools.count(1)
        """Numbers of stages, in the order in which they are wanted."""
        self._stages: dict[StageId, Stage] = {}
        """Stages that have neither ended nor been left by the thread that works for them."""
        self._store_by_name: WeakValueDictionary[StoreName, Store] = WeakValueDictionary()
        """Stores of stages that are here."""
        self._gone: list[Stage] = []
        """Stages that have gone while actions are carried out, of which some may still name their stores."""
        self._left: dict[DirectoryName, list[Callable[[], None]]] = {}
        """Functions given to ``leave``, to be called once no thread puts files into a directory any more."""
        self._threads = ThreadPools(seams, self.handle)
        self._parts = Parts(seams, self._threads, self.handle)
        self._outbox: deque[core.Action] = deque()
        """Actions that are still to be carried out."""
        self._is_performing = False
        """True while actions are carried out: those of events that come of them wait for their turn."""

    # Requests of the service.

    def stage(self, stage: Stage) -> Stage:
        """Begin to fetch the files of a stage, and to put them into its directory if it has one; returns the stage.

        ``stage.done`` is called later, never at once, unless the stage is dropped before.
        """
        stage.number = StageId(next(self._numbers))
        name = StoreName(stage.store.name)
        self._stages[stage.number] = stage
        self._store_by_name[name] = stage.store
        directory = _name_of(stage.work) if stage.work is not None else None
        self.handle(
            core.Want(stage.number, name, stage.supplier, stage.computation, stage.entries, directory)
        )
        return stage

    def drop(self, stage: Stage, then: Callable[[], None] | None = None) -> None:
        """Give up a stage: its ``done`` is not called any more, and files that only it needs are not fetched.

        Args:
            stage: The stage; one that has ended is fine.
            then: Called when no thread puts files into the stage's directory for it any more; perhaps at once.
        """
        if self._stages.get(stage.number) is not stage:
            if then is not None:
                then()
            return
        if then is not None:
            stage.after.append(then)
        if not stage.is_dropped:
            self._forsake(stage)
            self.handle(core.Drop(stage.number))

    def leave(self, work: Path, then: Callable[[], None]) -> None:
        """Call ``then`` when no thread puts files into the directory ``work`` any more, so that it can be removed.

        The call may come at once.
        """
        self._left.setdefault(_name_of(work), []).append(then)
        self.handle(core.Leave(_name_of(work)))

    def on_lost(self, supplier: SupplierId) -> None:
        """Forget the requests to a client: its connection is lost.

        Files that other clients have, too, are asked of these; stages with other files wait until the client is back.
        """
        self.handle(core.Lost(supplier))

    def on_connected(self, supplier: SupplierId) -> None:
        """Ask a client that has connected, perhaps again, for files of its stages that no other is asked for.

        No client is asked for anything before this.
        """
        self.handle(core.Connected(supplier))

    def on_data(
        self,
        supplier: SupplierId,
        computation: int,
        pieces: Iterable[tuple[node.FilePiece, Landed | None]],
    ) -> None:
        """Take pieces that a client has sent. Pieces that it was not asked for are dropped.

        Args:
            supplier: The client.
            computation: Number of the computation in whose name it says that it was asked.
            pieces: Each piece with the stream that holds its data; None if the data is in the piece itself.
        """
        sent = [
            core.Sent(piece.digest, piece.offset, piece.data if landed is None else landed)
            for piece, landed in pieces
        ]
        self.handle(core.Arrived(supplier, computation, sent))

    def on_unreadable(
        self, supplier: SupplierId, computation: int, digest: bytes, reason: str, is_passing: bool
    ) -> None:
        """Fail the stages of a client that need a file: the client says that it cannot send the file, and why.

        ``is_passing`` True: have it asked in the name of another computation instead.
        """
        self.handle(core.Unreadable(supplier, computation, digest, reason, is_passing))

    def statistics(self) -> dict[str, int]:
        """Returns numbers of stages, files and bytes that are being fetched now. On the loop."""
        state = self.machine.state
        return {
            "stages": len(state.stages),
            "files_missing": len(state.fetches),
            "bytes_missing": sum([fetch.size - fetch.written for fetch in state.fetches.values()]),
            "bytes_asked": sum([supplier.size for supplier in state.suppliers.values()]),
            "bytes_writing": sum([size for _, size in state.writes.values()]),
            "tasks": len(state.stage_work) + len(state.part_work) + (state.trim_work is not None),
        }

    def close(self) -> None:
        """End all threads, waiting for work that runs. No stage is told anything any more."""
        for stage in self._stages.values():
            stage.is_dropped = True
        self._threads.close()
        for stage in self._stages.values():
            close_begun(stage)
        self._parts.close()

    # Events and actions.

    def handle(self, event: Event, at: float = 0.0) -> None:
        """Have the core decide about an event, and carry out what it decides.

        An exception of one action is raised when the others are done: what waits for these must not wait for ever.

        Args:
            event: The event.
            at: Time (monotonic, seconds) that has come, even if the clock does not say so yet: a timer may be early.
        """
        if self._threads.is_closed:
            if isinstance(event, core.Arrived):
                discard([sent.data for sent in event.pieces])
            return
        self._outbox += self.machine.handle(event, max(at, self._seams.clock()))
        if self._is_performing:
            return
        self._is_performing = True
        fault: Exception | None = None
        try:
            while self._outbox:
                action = self._outbox.popleft()
                try:
                    self.perform_by_type[type(action)](self, action)
                except Exception as error:
                    fault = fault or error
        finally:
            self._is_performing = False
            self._gone.clear()
        if fault is not None:
            raise fault

    def _tell(self, action: core.Tell) -> None:
        """Send a message to a client."""
        self._seams.send(action.supplier, action.message)

    def _end(self, action: core.Ended) -> None:
        """Tell whoever waits for a stage how it has ended; if it was dropped meanwhile, only that it is left."""
        stage = self._stages.pop(action.stage)
        self._gone.append(stage)
        if stage.is_dropped:
            _call(stage.after)
        else:
            self._forsake(stage)
            stage.done(action.reason)

    def _forsake(self, stage: Stage) -> None:
        """Have threads stop that work for a stage, and let go of its early copies."""
        stage.is_dropped = True
        if stage.begun and not self._threads.is_closed:
            self._threads.do(self._threads.placers, close_begun, stage)

    def _on_dropped(self, action: core.Dropped) -> None:
        """Tell whoever waits for it that no thread works for a dropped stage any more."""
        stage = self._stages.pop(action.stage)
        self._gone.append(stage)
        _call(stage.after)

    def _on_left(self, action: core.Left) -> None:
        """Tell whoever waits for it that a directory can be removed."""
        _call(self._left.pop(action.directory))

    def _wake(self, action: core.Wake) -> None:
        """Have a tick come at the time that the core says."""
        delay_s = max(0.0, action.at - self._seams.clock())
        self._seams.later(delay_s, self.handle, core.Tick(), action.at)

    # What threads do.

    def _search(self, action: core.Search) -> None:
        """Have a thread find the files of a stage that are installed here."""
        self._run_for(
            self._stages[action.stage],
            partial(stage_work.find_missing, self._seams, self._installed),
        )

    def _look(self, action: core.Look | core.Place) -> None:
        """Have a thread put the files of a stage into its directory, or look whether they are in the store."""
        self._run_for(self._stages[action.stage], partial(stage_work.put, self._seams))

    def _run_for(self, stage: Stage, work: Callable[[Stage], Event]) -> None:
        """Call ``work(stage)`` on a thread, and tell the core the event that it returns.

        Stages without a directory have a thread of their own (``core.staging.thread_turns``).
        """
        pool = self._threads.lookers if stage.work is None else self._threads.placers
        then = partial(self._on_answer, stage)
        self._threads.run(pool, partial(work, stage), then, partial(core.StageFailed, stage.number))

    def _on_answer(self, stage: Stage, event: Event) -> None:
        """Take the files of a stage that are to be fetched, if a thread has found which, and tell the core."""
        if isinstance(event, core.Searched):
            count = len(stage.entries) - len(event.missing)
            if count:
                logger.debug(
                    "%d files of packages are not sent: they are installed here as in the program", count
                )
            stage.entries = event.missing
        self.handle(event)

    def _open(self, action: core.Open) -> None:
        """Have a thread open a part."""
        early = self._stages.get(action.stage) if action.stage is not None else None
        self._parts.open(action, self._store_by_name[action.store], early)

    def _write(self, action: core.Write) -> None:
        """Have a thread write pieces."""
        self._parts.write(action, [self._store_by_name[piece.store] for piece in action.pieces])

    def _trim(self, action: core.Trim) -> None:
        """Have a thread trim the stores."""
        work = partial(stage_work.trim, self._stores)
        self._threads.run(self._threads.placers, work, self.handle, lambda _: core.Trimmed())

    perform_by_type: ClassVar[dict[type[core.Action], Callable[[Stager, Any], None]]] = {
        core.Tell: _tell,
        core.Ended: _end,
        core.Dropped: _on_dropped,
        core.Left: _on_left,
        core.Search: _search,
        core.Look: _look,
        core.Place: _look,
        core.Open: _open,
        core.Finish: lambda self, action: self._parts.finish(action.part),
        core.Write: _write,
        core.Close: lambda self, action: self._parts.close_part(action.part, action.writer),
        core.Discard: lambda _, action: discard(action.data),
        core.Trim: _trim,
        core.Wake: _wake,
    }
    """Methods that carry out the actions of the core, by type."""


def _name_of(directory: Path) -> DirectoryName:
    """Returns the name of a directory in the core."""
    return DirectoryName(str(directory))


def _call(functions: list[Callable[[], None]]) -> None:
    """Call functions, each also if one before has raised an exception, the first of which is raised at the end."""
    fault: Exception | None = None
    for function in functions:
        try:
            function()
        except Exception as error:
            fault = fault or error
    if fault is not None:
        raise fault
