"""A computation leaves a node: because the node was closed for it, or to come back with other arguments.

First nothing new goes there, and what has not started is asked back. When the node has nothing of it left, so that
no result is on its way any more, the computation is closed there. One that comes back keeps its place with the jobs
that can run nowhere else, until the client has said what its next stay is like.

    LOADING, READY, FAILED --Vacate--> LEAVING --nothing left--> gone
                                          | returns
                                          +--nothing left--> LEFT --Allocate--> LOADING
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, Send, TellNode, TellVacated
from dispy.core.scheduling.events import Vacate
from dispy.core.scheduling.files import give_up_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.placement import end_here, end_if_hopeless, note_room, place
from dispy.core.scheduling.retries import retry_after_loss
from dispy.core.scheduling.state import Placement, State, Status
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import CANCELLED, Attempt

CLOSED = "the node was closed for this computation"


def on_vacate(state: State, out: Outbox, event: Vacate, now: Seconds) -> None:
    """Have a computation leave a node. Asked again, the last one says whether it comes back."""
    computation = state.computations.get(event.computation)
    placement = computation.placements.get(event.node) if computation is not None else None
    if computation is None or placement is None:
        return
    placement.returns = event.returns
    if placement.status is Status.LEFT:
        leave_if_empty(out, placement, now)
        return
    placement.status = Status.LEAVING
    placement.terminates |= event.terminate
    note_room(placement)
    give_up_files(out, placement, CLOSED)
    if not event.returns:
        cancel_pinned(out, placement)
    send_off(out, placement)
    leave_if_empty(out, placement, now)


def send_off(out: Outbox, placement: Placement) -> None:
    """Ask a node to give back what it has not started, and to end what it has, where that is wanted.

    What it has started without having told so yet is cancelled when it tells: what it has not started can still
    run elsewhere.
    """
    if not placement.node.is_connected or placement.node.is_comparing:
        return
    number = placement.computation.number
    waiting = len(placement.assigned) - len(placement.started)
    if waiting:
        out.append(Send(placement.node.id, node.TakeBack(number, waiting)))
    if placement.terminates:
        assigned = placement.assigned
        running = [assigned[n] for n in sorted(placement.started) if n not in placement.cancelling]
        for start in range(0, len(running), BATCH_MAX):
            attempts = [Attempt(job.number, job.attempt) for job in running[start : start + BATCH_MAX]]
            placement.cancelling.update(attempt.number for attempt in attempts)
            out.append(Send(placement.node.id, node.CancelJobs(number, attempts)))


def leave_if_empty(out: Outbox, placement: Placement, now: Seconds) -> None:
    """Close a computation on a node that it is leaving, once nothing of it is left there."""
    if placement.assigned or placement.status not in (Status.LEAVING, Status.LEFT):
        return
    computation = placement.computation
    if placement.status is Status.LEAVING and placement.node.is_connected:
        out.append(Send(placement.node.id, node.CloseComputation(computation.number)))
    if placement.returns:
        # Of one that has been asked for already nothing else is to be said.
        if placement.status is Status.LEAVING:
            placement.status = Status.LEFT
            out.append(TellVacated(computation.client, computation.number, placement.node.id))
        return
    remove(placement)
    cancel_pinned(out, placement)
    out.append(TellNode(computation.client, computation.number, placement.node.id, False))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def give_up_placement(out: Outbox, placement: Placement, reason: str, now: Seconds) -> None:
    """A computation leaves a node at once: ``retries`` decides about the jobs that it had there."""
    computation = placement.computation
    drop_placement(out, placement)
    give_up_files(out, placement, reason)
    retry_after_loss(out, placement, reason)
    if placement.status is not Status.FAILED:
        out.append(TellNode(computation.client, computation.number, placement.node.id, False, reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def drop_placement(out: Outbox, placement: Placement) -> None:
    """Take a node away from a computation."""
    remove(placement)
    if placement.node.is_connected and placement.status is not Status.LEFT:
        out.append(Send(placement.node.id, node.CloseComputation(placement.computation.number)))


def remove(placement: Placement) -> None:
    """A computation has no place on a node any more."""
    computation, known = placement.computation, placement.node
    known.placements.pop(computation.number, None)
    computation.placements.pop(known.id, None)
    computation.free.pop(known.id, None)
    computation.backlogs.pop(known.id, None)


def cancel_pinned(out: Outbox, placement: Placement) -> None:
    """End jobs that wait for a node that is not used for them any more: they never ran."""
    numbers = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, placement.computation, numbers, CANCELLED, CLOSED)
