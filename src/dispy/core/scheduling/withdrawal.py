"""Withdrawal: a computation leaves a node, in order (``Vacate``) or at once (the node is lost or taken away).

Theory of operation. A computation leaves in order because the client closed the node for it, or to come back with
other arguments. First, no new jobs go there, and jobs that have not started are asked back. When the node has no job
of it left, so that no result is on its way any more, the computation is closed there. A computation that comes back
keeps its placement with the pinned jobs, until the client says with ``Allocate`` what its next stay is like.

    LOADING, READY, FAILED --Vacate--> LEAVING --no job left--> gone
                                          | returns
                                          +--no job left--> LEFT --Allocate--> LOADING

A job that the node has started without having reported it yet is cancelled when the report comes (``send_off`` is
called again): a job that was not started can still run elsewhere. After a reconnect ``send_off`` is called again,
too, since the first requests may be lost. The whole table of states is in ``computations``.
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, Send, TellNode, TellVacated
from dispy.core.scheduling.events import Vacate
from dispy.core.scheduling.files import give_up_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines.accounts import leave_account, note_room
from dispy.core.scheduling.placement import end_here, end_if_hopeless, place
from dispy.core.scheduling.retries import retry_after_loss
from dispy.core.scheduling.state import Placement, State
from dispy.core.scheduling.views import tell_placement
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import CANCELLED, Attempt
from dispy.protocol.views import PlacementStatus as Status

CLOSED = "the node was closed for this computation"
"""Reason that the user reads for jobs, and requests for files, that end because their node was closed."""


def on_vacate(state: State, out: Outbox, event: Vacate, now: Seconds) -> None:
    """Have a computation leave a node: no more jobs go there, and it is closed when the node has no job of it left.

    Unanswered requests to place files end. Of several ``Vacate`` the last one says whether the computation comes
    back, and running jobs are cancelled if any of them says ``terminate``.
    """
    computation = state.computations.get((event.client, event.computation))
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
    tell_placement(out, placement)
    give_up_files(out, placement, CLOSED)
    if not event.returns:
        cancel_pinned(out, placement)
    send_off(out, placement)
    leave_if_empty(out, placement, now)


def send_off(out: Outbox, placement: Placement) -> None:
    """Ask a node that a computation is leaving to give back the jobs that it has not started (``TakeBack``).

    Running jobs are cancelled if ``Placement.terminates``. Does nothing while the connection is broken or both sides
    compare what they have; ``nodes.on_reconciled`` calls it again after that.
    """
    if not placement.node.is_connected or placement.node.is_comparing:
        return
    number = placement.computation.wire
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
    """Close a computation on a node that it is leaving, if the node has no job of it left; else do nothing.

    The placement is LEFT then if the computation comes back, and forgotten otherwise; the client is told. Call after
    jobs have left ``Placement.assigned``.
    """
    if placement.assigned or placement.status not in (Status.LEAVING, Status.LEFT):
        return
    computation = placement.computation
    if placement.status is Status.LEAVING and placement.node.is_connected:
        out.append(Send(placement.node.id, node.CloseComputation(computation.wire)))
    if placement.returns:
        # If it has left already, the client has been asked.
        if placement.status is Status.LEAVING:
            placement.status = Status.LEFT
            tell_placement(out, placement)
            out.append(TellVacated(computation.client, computation.number, placement.node.id))
        return
    remove(placement)
    tell_placement(out, placement)
    cancel_pinned(out, placement)
    out.append(TellNode(computation.client, computation.number, placement.node.id, False))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def give_up_placement(out: Outbox, placement: Placement, reason: str, now: Seconds) -> None:
    """Take a node away from a computation at once: ``retries`` decides about the jobs that it had there.

    Requests for files end with ``reason`` (in words), and so do jobs that cannot run again. The client is told.
    """
    computation = placement.computation
    was_usable = placement.status is not Status.FAILED
    drop_placement(out, placement)
    tell_placement(out, placement, reason)
    give_up_files(out, placement, reason)
    retry_after_loss(out, placement, reason)
    if was_usable:
        out.append(TellNode(computation.client, computation.number, placement.node.id, False, reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def drop_placement(out: Outbox, placement: Placement) -> None:
    """Forget a placement, and close the computation on the node if that is connected.

    The caller decides about the jobs and the requests for files that the placement had.
    """
    is_there = placement.status is not Status.LEFT
    remove(placement)
    if placement.node.is_connected and is_there:
        out.append(Send(placement.node.id, node.CloseComputation(placement.computation.wire)))


def remove(placement: Placement) -> None:
    """Remove a placement from its computation, from its node, and from the indexes of its computation.

    Its status is GONE then. Tells nothing to the node or the client.
    """
    computation, known = placement.computation, placement.node
    leave_account(placement)
    placement.status = Status.GONE
    placement.returns = False
    known.placements.pop(computation.wire, None)
    computation.placements.pop(known.id, None)
    computation.free.pop(known.id, None)
    computation.backlogs.pop(known.id, None)
    computation.waiting.pop(known.id, None)


def cancel_pinned(out: Outbox, placement: Placement) -> None:
    """End the unsent jobs pinned to a node that is closed for the computation as ``CANCELLED``: they never ran."""
    numbers = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, placement.computation, numbers, CANCELLED, CLOSED)
