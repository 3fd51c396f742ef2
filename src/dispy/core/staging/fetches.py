"""Files that stages lack: who is asked for them, from the first stage that lacks one to the last that gives it up."""

from __future__ import annotations

from dispy.core.staging.actions import Close, Discard, Outbox
from dispy.core.staging.ids import PartId, Seconds
from dispy.core.staging.progress import credit
from dispy.core.staging.requests import free_name, queue_fetch, set_phase, set_supplier
from dispy.core.staging.state import Fetch, Phase, Stage, State
from dispy.core.staging.thread_turns import end_work, writer_of


def join(state: State, stage: Stage, digest: bytes, size: int) -> None:
    """Have a stage wait for a file, which is fetched from now on unless it is already.

    What has come of it counts for the stage, too. If the supplier of the file is also that of the stage, the file
    takes the better place of the two in the order.
    """
    key = (stage.store, digest, size)
    fetch = state.fetches.get(key)
    if fetch is None:
        phase = Phase.RECEIVING if size <= state.bounds.small_max else Phase.CLOSED
        fetch = Fetch(PartId(next(state.part_numbers)), key, phase)
        state.fetches[key] = state.parts[fetch.part] = fetch
    fetch.stages[stage.id] = stage
    stage.size += fetch.written
    if fetch.supplier is None:
        assign(state, fetch)
    elif fetch.supplier == stage.supplier:
        if fetch.blocked_by is not None or (fetch.ticket and stage.rank < fetch.rank):
            fetch.blocked_by = None  # it may be asked for in the name of this stage
            queue_fetch(state, fetch)


def assign(state: State, fetch: Fetch) -> None:
    """Have the first connected supplier of a file asked for all of it that is not given to be written.

    Nobody is asked for it when this is called. None is asked for it afterwards, either, if none is connected.
    """
    found = (stage.supplier for stage in fetch.stages.values() if stage.supplier in state.suppliers)
    set_supplier(state, fetch, next(found, None))
    fetch.asked = fetch.handed
    if fetch.supplier is None or fetch.phase not in (Phase.CLOSED, Phase.RECEIVING) or fetch.is_asked:
        return
    queue_fetch(state, fetch)


def unask(state: State, out: Outbox, fetch: Fetch) -> None:
    """Forget the requests for a file: nobody is asked for it, and pieces that still arrive are discarded.

    Called when its supplier fails or is lost, or the stage leaves in whose name it was asked; ``assign`` follows.
    """
    name = fetch.supplier
    if name is None:
        return
    if fetch.early:
        out.append(Discard([piece.data for piece in fetch.early.values()]))
    supplier = state.suppliers[name]
    supplier.size -= sum(piece.size for piece in fetch.early.values()) + sum(fetch.offsets.values())
    fetch.early.clear()
    fetch.ticket = 0
    fetch.blocked_by = None
    if fetch.offsets:
        fetch.offsets.clear()
        free_name(state, name, fetch)
    fetch.asked = fetch.handed
    set_supplier(state, fetch, None)
    state.ask_now[name] = None


def part_with(state: State, out: Outbox, fetch: Fetch, stage: Stage) -> None:
    """Have a stage wait for a file no longer.

    If no other stage lacks the file, it is given up. If it was asked for in the name of this stage, it is asked for
    anew: the supplier may not know that name any more.
    """
    del fetch.stages[stage.id]
    if not fetch.stages:
        forget(state, out, fetch)
        return
    if fetch.supplier != stage.supplier:
        return
    same = [other for other in fetch.stages.values() if other.supplier == stage.supplier]
    names = [other.computation for other in same]
    if not same or (fetch.offsets and fetch.computation not in names):
        unask(state, out, fetch)
        assign(state, fetch)
    elif fetch.blocked_by not in (None, *names) or (fetch.ticket and stage.rank <= fetch.rank):
        fetch.blocked_by = None
        queue_fetch(state, fetch)


def ask_in_another_name(state: State, out: Outbox, fetch: Fetch) -> None:
    """Ask the supplier of a file for it in the name of another computation; without one nothing is changed.

    Stages of the computation in whose name it was asked are the last whose name is used from now on.
    """
    name, number = fetch.supplier, fetch.computation
    last = {
        stage.id: stage
        for stage in fetch.stages.values()
        if stage.supplier == name and stage.computation == number
    }
    others = {stage.id: stage for stage in fetch.stages.values() if stage.id not in last}
    if any(stage.supplier == name for stage in others.values()):
        fetch.stages = others | last
        unask(state, out, fetch)
        assign(state, fetch)


def begin_anew(state: State, out: Outbox, fetch: Fetch, now: Seconds) -> None:
    """Fetch a file again: its supplier has failed, or its content is wrong.

    If a part is still on disk, it is opened again before anything is asked for, and the bytes in it count.
    """
    unask(state, out, fetch)
    close_part(state, out, fetch)
    credit(state, out, fetch, -fetch.written, now)
    del state.parts[fetch.part]
    fetch.part = PartId(next(state.part_numbers))
    state.parts[fetch.part] = fetch
    if fetch.size > state.bounds.small_max:
        set_phase(state, fetch, Phase.CLOSED)
    fetch.asked = fetch.handed = 0
    fetch.origin = None
    fetch.is_mixed = False
    assign(state, fetch)


def forget(state: State, out: Outbox, fetch: Fetch) -> None:
    """Give up a file that no stage lacks any more. Bytes in its part stay for the next who lacks it."""
    close_part(state, out, fetch)
    remove(state, out, fetch)


def remove(state: State, out: Outbox, fetch: Fetch) -> None:
    """Take a file out of the fetches: it is stored, or given up. Its part is closed."""
    unask(state, out, fetch)
    del state.fetches[fetch.key]
    del state.parts[fetch.part]


def close_part(state: State, out: Outbox, fetch: Fetch) -> None:
    """Close the part of a file, or have it closed as soon as the thread that opens it says so.

    A part that a thread finishes is closed by that thread: two must not close one.
    """
    work = state.part_work.get(fetch.part)
    if work is not None and not work.has_begun:
        end_work(state, work)
        del state.part_work[fetch.part]
        work = None
    is_open = fetch.phase in (Phase.RECEIVING, Phase.CHECKING) and fetch.size > state.bounds.small_max
    if is_open and work is None:
        out.append(Close(fetch.part, writer_of(fetch.digest)))
