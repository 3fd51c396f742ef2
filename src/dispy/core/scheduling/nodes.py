"""Nodes: they come, break off, come back and are lost; they offer CPUs, and a limit says how many are used."""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, Send
from dispy.core.scheduling.computations import load_again
from dispy.core.scheduling.events import LimitNode, NodeLost, NodeSilent, NodeUp
from dispy.core.scheduling.files import send_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.jobs import end_cancelled
from dispy.core.scheduling.objects import reconcile_objects
from dispy.core.scheduling.placement import note_room, place, send_runs, send_watch
from dispy.core.scheduling.retries import requeue_assigned
from dispy.core.scheduling.state import Node, State, Status
from dispy.core.scheduling.withdrawal import give_up_placement, leave_if_empty, send_off
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import Attempt


def on_node_up(state: State, out: Outbox, event: NodeUp, now: Seconds) -> None:
    """A node is there (again). If both sides know each other, they compare what they hold."""
    known = state.nodes.get(event.node)
    if known is not None and not event.known:
        # The node has forgotten us: whatever ran there is gone.
        on_node_lost(
            state, out, NodeLost(event.node, "the node gave our jobs up after a long silence"), now
        )
        known = None
    if known is None:
        known = state.nodes[event.node] = Node(event.node, event.name, event.cpus)
        known.cpus_max = state.limits.get(event.node)
        if event.known:
            # It was lost and is back: what it still holds for us is not wanted any more.
            if known.cpus_max is not None:
                out.append(Send(known.id, node.LimitCpus(known.cpus_max)))
            out.append(Send(known.id, node.Reconcile([], {})))
        return
    known.is_connected = known.is_comparing = True
    known.cpus = event.cpus
    if known.cpus_max is not None:
        # It knows, unless that was lost with the connection.
        out.append(Send(known.id, node.LimitCpus(known.cpus_max)))
    attempts = [
        Attempt(job.number, job.attempt)
        for placement in known.placements.values()
        for job in placement.assigned.values()
    ]
    lives = {
        number: placement.compute.life
        for number, placement in known.placements.items()
        if placement.status is not Status.LEFT
    }
    out.append(Send(known.id, node.Reconcile(attempts, lives)))


def on_node_silent(state: State, out: Outbox, event: NodeSilent, now: Seconds) -> None:
    """A connection broke: nothing more is sent there until it stands again or the node is lost."""
    known = state.nodes.get(event.node)
    if known is None:
        return
    known.is_connected = known.is_comparing = False
    for placement in known.placements.values():
        note_room(placement)


def on_node_lost(state: State, out: Outbox, event: NodeLost, now: Seconds) -> None:
    """Take a node away and decide about the jobs it had."""
    known = state.nodes.pop(event.node, None)
    if known is None:
        return
    known.is_connected = False
    for placement in list(known.placements.values()):
        give_up_placement(out, placement, event.reason, now)


def on_node_cpus(state: State, out: Outbox, known: Node, message: node.NodeCpus, now: Seconds) -> None:
    """A node offers another number of CPUs; credit says what that means for each computation."""
    known.cpus = message.cpus
    for placement in known.placements.values():
        placement.apply_grant()
        note_room(placement)
        place(out, placement.computation, now)


def on_limit_node(state: State, out: Outbox, event: LimitNode, now: Seconds) -> None:
    """Use fewer CPUs of a node, or more again; its credit says what that means for each computation."""
    state.limits[event.node] = event.cpus
    known = state.nodes.get(event.node)
    if known is None:
        return
    known.cpus_max = event.cpus
    if known.is_connected:
        out.append(Send(known.id, node.LimitCpus(event.cpus)))


def on_reconciled(state: State, out: Outbox, known: Node, message: node.Reconciled, now: Seconds) -> None:
    """After a reconnect: send again what never arrived, with the same attempt, in the same order."""
    known.is_comparing = False
    for number in message.computations:
        placement = known.placements.get(number)
        if placement is not None and placement.status not in (Status.LEAVING, Status.LEFT):
            load_again(out, placement)
    missing = {(attempt.number, attempt.attempt) for attempt in message.attempts}
    for placement in list(known.placements.values()):
        # What it gave back may have been lost with the connection.
        placement.asked_back = False
        again = [job for job in placement.assigned.values() if (job.number, job.attempt) in missing]
        cancelled = [job for job in again if job.number in placement.cancelling]
        for job in cancelled:
            del placement.assigned[job.number]
        end_cancelled(out, placement, [job.number for job in cancelled])
        placement.cancelling.difference_update([job.number for job in cancelled])
        again = [job for job in again if job.number in placement.assigned]
        if placement.status in (Status.LOADING, Status.LEAVING):
            # The computation has to come first, and the data that they read; or it will not come again.
            requeue_assigned(out, placement, again)
            again = []
        send_runs(out, placement, again)
        # Cancels that were on their way when the link broke.
        still = [placement.assigned[n] for n in placement.cancelling if n in placement.assigned]
        if still:
            for start in range(0, len(still), BATCH_MAX):
                attempts = [Attempt(job.number, job.attempt) for job in still[start : start + BATCH_MAX]]
                out.append(Send(known.id, node.CancelJobs(placement.computation.number, attempts)))
        reconcile_objects(out, placement)
        send_files(out, placement)
        # What was asked of it meanwhile, and what the broken link had swallowed.
        send_watch(out, placement, placement.computation.watched)
        note_room(placement)
        if placement.status is Status.LEAVING:
            send_off(out, placement)
            leave_if_empty(out, placement, now)
        place(out, placement.computation, now)
