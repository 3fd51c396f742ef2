"""Parts: files on their way into a store, opened before the first piece is asked for, written piece by piece.

All who share a store, such as the nodes of a user on one machine, share its parts. Another process may hold a part;
then we wait as long as it makes progress. Small files have no part: their only piece is stored at once.

=====================  =================================  ===========================================================
state (``Phase``)      event                              next, and what is sent
=====================  =================================  ===========================================================
CLOSED                 the file is the next to ask for    OPENING: Open
OPENING                PartOpened, with some bytes or     RECEIVING: NeedFiles for the rest
                       none
OPENING                PartOpened, with all bytes         CHECKING: Finish
OPENING                PartNeedless                       none: stored
OPENING                PartBusy                           HELD, for ``LOOK_AGAIN_S``
HELD                   Tick                               OPENING: Open; in a part of our own ``STUCK_S`` after the
                                                          last progress
OPENING, CHECKING      PartFailed: no room                none: Ended for all stages
CHECKING               PartFinished, right                none: stored
CHECKING               PartFinished, wrong                CLOSED: nothing is left of it
RECEIVING              Arrived                            RECEIVING: Write, in the order of the offsets
RECEIVING              Written: whole                     none: stored
RECEIVING              Written: wrong                     CLOSED, if pieces are of several suppliers or of an earlier
                                                          time; otherwise Ended for the stages of that supplier
RECEIVING              Written: failed                    none: Ended for all stages
RECEIVING              Unreadable                         Ended for the stages of that supplier; others are asked
=====================  =================================  ===========================================================

In each state the last stage may give the file up: what is open is closed, and what is queued is taken back.
"""

from __future__ import annotations

from typing import assert_never

from dispy.core.staging.actions import Close, Discard, Finish, Open, Outbox, Piece, Write
from dispy.core.staging.events import (
    Arrived,
    Outcome,
    PartBusy,
    PartFailed,
    PartFinished,
    PartNeedless,
    PartOpened,
    Unreadable,
    Written,
    Wrote,
)
from dispy.core.staging.fetches import ask_in_another_name, assign, begin_anew
from dispy.core.staging.ids import PartId, Seconds, SupplierId
from dispy.core.staging.progress import credit
from dispy.core.staging.requests import free_name, open_part, set_phase
from dispy.core.staging.stages import fail_stages, on_stored
from dispy.core.staging.state import Due, Fetch, Phase, Pool, State, Work
from dispy.core.staging.thread_turns import WRITERS, end_work, queue_work, writer_of
from dispy.core.staging.timers import add_timer

LOOK_AGAIN_S = 0.01
"""Interval (seconds) at which we look whether another process has received a file, and copy bytes that have come."""

LOOK_EACH_S = 0.0005
"""Seconds by which that interval is longer for each file that others receive: 2,000 looks a second are 4 % of a
CPU."""

STUCK_S = 1.0
"""Seconds without progress of another process that receives a file, after which we wait no longer, and receive the
whole file in a part of our own."""

CHANGED = "its content is not what it was said to be: it has changed meanwhile"
"""Reason told to a supplier whose file does not have the content of its digest; the stages that need it fail."""


# Opening.


def on_part_opened(state: State, out: Outbox, event: PartOpened, now: Seconds) -> None:
    """Ask for what a part lacks, or check one that is whole; one that is not wanted any more is closed."""
    work = state.part_work.get(event.part)
    fetch = _answered(state, event.part)
    if fetch is None:
        if work is not None and isinstance(work.task, Open):
            out.append(Close(event.part, writer_of(work.task.digest)))
        return
    credit(state, out, fetch, event.offset, now)
    fetch.handed = fetch.asked = event.offset
    fetch.is_mixed = event.offset > 0
    if fetch.handed >= fetch.size:
        # It lacks only its name in the store.
        set_phase(state, fetch, Phase.CHECKING)
        name = fetch.supplier or next(iter(fetch.stages.values())).supplier
        work = state.part_work[fetch.part] = Work(Pool.PLACERS, name, Finish(fetch.part))
        queue_work(state, work)
        return
    set_phase(state, fetch, Phase.RECEIVING)
    assign(state, fetch)


def on_part_busy(state: State, out: Outbox, event: PartBusy, now: Seconds) -> None:
    """Look again a little later: another process receives the file. If it stands still, we receive it, too."""
    fetch = _answered(state, event.part)
    if fetch is None:
        return
    if event.size != fetch.held_size:
        fetch.held_size, fetch.held_since = event.size, now
    fetch.is_apart = now - fetch.held_since >= STUCK_S
    set_phase(state, fetch, Phase.HELD)
    state.held += 1
    add_timer(state, now + LOOK_AGAIN_S + LOOK_EACH_S * state.held, Due.LOOK, fetch.part)


def on_look_due(state: State, part: PartId) -> None:
    """Open a part again that another process held, if the file is still wanted."""
    state.held -= 1
    fetch = state.parts.get(part)
    if fetch is not None:
        open_part(state, fetch)


def on_part_needless(state: State, out: Outbox, event: PartNeedless, now: Seconds) -> None:
    """Take a file off its stages that another process has stored."""
    fetch = _answered(state, event.part)
    if fetch is not None:
        on_stored(state, out, fetch, now)


def on_part_finished(state: State, out: Outbox, event: PartFinished, now: Seconds) -> None:
    """Take a file off its stages that was whole on disk; with wrong content the whole file is fetched."""
    fetch = _answered(state, event.part)
    if fetch is None:
        return
    if event.is_right:
        on_stored(state, out, fetch, now)
    else:
        set_phase(state, fetch, Phase.CLOSED)
        begin_anew(state, out, fetch, now)


def on_part_failed(state: State, out: Outbox, event: PartFailed, now: Seconds) -> None:
    """End all stages that wait for a file whose part cannot be opened or finished."""
    fetch = _answered(state, event.part)
    if fetch is not None:
        if fetch.phase in (Phase.OPENING, Phase.CHECKING):
            set_phase(state, fetch, Phase.CLOSED)  # nothing is open
        fail_stages(state, out, fetch, fetch.stages.values(), event.reason)


def _answered(state: State, part: PartId) -> Fetch | None:
    """Count the thread as free that worked for a part; returns the fetch, None if the part is not wanted any more."""
    work = state.part_work.pop(part, None)
    if work is not None:
        end_work(state, work)
    return state.parts.get(part)


# Pieces.


def on_arrived(state: State, out: Outbox, event: Arrived, now: Seconds) -> None:
    """Have pieces written, those of one file in the order of their offsets.

    A piece that was not asked for is discarded. One that has overtaken others waits for them in ``Fetch.early``.
    """
    name = event.supplier
    supplier = state.suppliers.get(name)
    unwanted: list[object] = []
    pieces: list[Piece] = []
    for sent in event.pieces:
        fetch = None if supplier is None else supplier.asked.get((event.computation, sent.digest))
        size = None if fetch is None else fetch.offsets.pop(sent.offset, None)
        if supplier is None or fetch is None or size is None:
            unwanted.append(sent.data)
            continue
        if not fetch.offsets:
            free_name(state, name, fetch)
        piece = Piece(fetch.part, fetch.store, fetch.digest, fetch.size, sent.offset, size, sent.data)
        fetch.early[sent.offset] = piece
        supplier.size -= _hand_over(fetch, name, pieces)
    for writer in range(WRITERS):
        theirs = [piece for piece in pieces if writer_of(piece.digest) == writer]
        if theirs:
            out.append(_write(state, name, writer, theirs))
    if supplier is not None:
        state.ask_now[name] = None
    if unwanted:
        out.append(Discard(unwanted))


def _write(state: State, supplier: SupplierId, writer: int, pieces: list[Piece]) -> Write:
    """Returns the action that has a thread write pieces, whose bytes count for their supplier until it is
    answered."""
    size = sum(piece.size for piece in pieces)
    write = Write(next(state.write_numbers), writer, pieces)
    state.writes[write.write] = (supplier, size)
    _count_writing(state, supplier, size)
    return write


def _count_writing(state: State, supplier: SupplierId, size: int) -> None:
    """Count bytes of a supplier that are given to be written, or fewer."""
    left = state.writing.pop(supplier, 0) + size
    if left:
        state.writing[supplier] = left


def _hand_over(fetch: Fetch, supplier: SupplierId, pieces: list[Piece]) -> int:
    """Append to ``pieces`` what can be written of a file without a gap; returns the bytes of it."""
    size = 0
    while fetch.handed in fetch.early:
        piece = fetch.early.pop(fetch.handed)
        fetch.handed += piece.size
        size += piece.size
        fetch.is_mixed |= fetch.origin not in (None, supplier)
        fetch.origin = supplier
        pieces.append(piece)
    return size


def on_written(state: State, out: Outbox, event: Written, now: Seconds) -> None:
    """Go on with files whose pieces are written, and ask their supplier for more: there is room again.

    Pieces of attempts that were given up meanwhile do not count. A second answer, after a fault of this program,
    frees nothing once more.
    """
    name, size = state.writes.pop(event.write, (None, 0))
    if name is not None:
        _count_writing(state, name, -size)
        state.ask_now[name] = None
    for done in event.results:
        fetch = state.parts.get(done.part)
        if fetch is not None:
            _on_wrote(state, out, fetch, done, now)


def _on_wrote(state: State, out: Outbox, fetch: Fetch, done: Wrote, now: Seconds) -> None:
    """Go on with a file of which a piece is written, or cannot be. Wrong content of one origin is its fault."""
    match done.outcome:
        case Outcome.MORE:
            credit(state, out, fetch, done.size, now)
        case Outcome.WHOLE:
            on_stored(state, out, fetch, now)
        case Outcome.FAILED:
            fail_stages(state, out, fetch, fetch.stages.values(), done.reason)
        case Outcome.WRONG:
            if fetch.is_mixed or fetch.origin is None:
                begin_anew(state, out, fetch, now)
            else:
                fail_supplier(state, out, fetch, fetch.origin, CHANGED, now)
        case _:
            assert_never(done.outcome)


def on_unreadable(state: State, out: Outbox, event: Unreadable, now: Seconds) -> None:
    """Fail the stages of a supplier that says that it cannot send a file. One that was not asked for it is
    ignored."""
    supplier = state.suppliers.get(event.supplier)
    fetch = supplier.asked.get((event.computation, event.digest)) if supplier is not None else None
    if fetch is not None and event.is_passing:
        ask_in_another_name(state, out, fetch)
    elif fetch is not None:
        fail_supplier(state, out, fetch, event.supplier, event.reason, now)


def fail_supplier(
    state: State, out: Outbox, fetch: Fetch, supplier: SupplierId, reason: str, now: Seconds
) -> None:
    """Fail the stages of one supplier that lack a file: it cannot send the file, or has sent wrong content.

    If stages of other suppliers lack the file, too, one of these is asked for it from the beginning of the part.
    """
    stages = [stage for stage in fetch.stages.values() if stage.supplier == supplier]
    fail_stages(state, out, fetch, stages, reason)
    if fetch.stages:
        begin_anew(state, out, fetch, now)
