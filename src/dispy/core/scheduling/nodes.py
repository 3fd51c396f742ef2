"""Nodes: their connections stand, break, are made again or given up; they offer CPUs, and a limit bounds their use.

After a reconnect both sides compare what they hold. The scheduler sends ``Reconcile`` with all attempts and the
generations of all computations that it believes to be there. The node ends what is not in it, and answers
``Reconciled`` with what it does not have: that is sent again, with the same attempts. Until the answer the node gets
no new jobs.

| state of the node | event                        | next         | what is sent                                    |
|-------------------|------------------------------|--------------|-------------------------------------------------|
| none              | NodeUp, not ``known``        | connected    |                                                 |
| none              | NodeUp, ``known``: was lost  | connected    | LimitCpus, Reconcile of nothing: it ends all    |
| connected         | NodeSilent                   | disconnected |                                                 |
| disconnected      | NodeUp, ``known``            | comparing    | LimitCpus, Reconcile                            |
| disconnected      | NodeUp, not ``known``        | connected    | as after NodeLost, as a new node                |
| comparing         | Reconciled                   | connected    | RunJobs, CancelJobs, objects, files, WatchJobs  |
|                   |                              |              | that may be lost                                |
| any               | NodeLost                     | none         | TellNode for each computation; see ``retries``  |
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, Send
from dispy.core.scheduling.computations import load_again
from dispy.core.scheduling.events import LimitClient, LimitNode, NodeLost, NodeSilent, NodeUp
from dispy.core.scheduling.files import send_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.jobs import end_cancelled
from dispy.core.scheduling.lines.accounts import join_quota, limit_client, note_room, park_all
from dispy.core.scheduling.objects import reconcile_objects
from dispy.core.scheduling.placement import apply_credit, place, send_runs, send_watch
from dispy.core.scheduling.retries import requeue_assigned
from dispy.core.scheduling.state import Node, Quota, State
from dispy.core.scheduling.views import tell_placement
from dispy.core.scheduling.withdrawal import give_up_placement, leave_if_empty, send_off
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import Attempt, HeldJobs
from dispy.protocol.views import PlacementStatus as Status


def on_node_up(state: State, out: Outbox, event: NodeUp, now: Seconds) -> None:
    """A connection to a node stands. If both sides know each other from before, they compare the jobs that they have.

    The node gets no new jobs until the comparison ends (``on_reconciled``).
    """
    known = state.nodes.get(event.node)
    if known is not None and not event.known:
        # The node has forgotten this scheduler: all that ran there is gone.
        on_node_lost(
            state, out, NodeLost(event.node, "the node gave our jobs up after a long silence"), now
        )
        known = None
    if known is None:
        known = state.nodes[event.node] = Node(event.node, event.name, event.cpus, state.lines.due)
        known.cpus_max = state.limits.get(event.node)
        if known.cpus_max is not None:
            # One that has forgotten this scheduler has forgotten the limit, too.
            out.append(Send(known.id, node.LimitCpus(known.cpus_max)))
        if event.known:
            # The node was given up and is back: nothing that it still holds is wanted any more.
            out.append(Send(known.id, node.Reconcile([], {})))
        return
    known.is_connected = known.is_comparing = True
    known.cpus = event.cpus
    for placement in known.placements.values():
        tell_placement(out, placement)
    if known.cpus_max is not None:
        # The node knows its limit, unless the message was lost with the connection.
        out.append(Send(known.id, node.LimitCpus(known.cpus_max)))
    attempts = [
        HeldJobs(number, [Attempt(job.number, job.attempt) for job in placement.assigned.values()])
        for number, placement in known.placements.items()
        if placement.assigned
    ]
    lives = {
        number: placement.compute.life
        for number, placement in known.placements.items()
        if placement.status is not Status.LEFT
    }
    out.append(Send(known.id, node.Reconcile(attempts, lives)))


def on_node_silent(state: State, out: Outbox, event: NodeSilent, now: Seconds) -> None:
    """The connection to a node broke: send it nothing until the next ``NodeUp``, or forget it at ``NodeLost``.

    Jobs that the node has stay assigned to it, since they go on there.
    """
    known = state.nodes.get(event.node)
    if known is None:
        return
    known.is_connected = known.is_comparing = False
    for placement in known.placements.values():
        placement.printed.clear()
        note_room(placement)
        tell_placement(out, placement)


def on_node_lost(state: State, out: Outbox, event: NodeLost, now: Seconds) -> None:
    """Forget a node that is given up; ``retries`` decides whether the jobs that it had run again or end."""
    known = state.nodes.pop(event.node, None)
    if known is None:
        return
    known.is_connected = False
    for placement in list(known.placements.values()):
        give_up_placement(out, placement, event.reason, now)


def on_node_cpus(state: State, out: Outbox, known: Node, message: node.NodeCpus, now: Seconds) -> None:
    """Note that a node offers another number of CPUs. A computation that may use fewer than that gets no backlog.

    The node's next credits say how many jobs of each computation it takes.
    """
    known.cpus = message.cpus
    _apply_credits(out, known, now)


def on_node_credit(state: State, out: Outbox, known: Node, message: node.NodeCredit, now: Seconds) -> None:
    """A node grants another number of slots for all computations together: send it more jobs if it has room for them.

    If the slots are fewer, jobs above them stay on the node.
    """
    known.slots, known.waiting = message.slots, message.waiting
    known.shortage = message.reason
    for placement in known.placements.values():
        tell_placement(out, placement)
    _apply_credits(out, known, now)


def _apply_credits(out: Outbox, known: Node, now: Seconds) -> None:
    """Bring the slots and backlogs of all computations on a node up to date, as what bounds them has changed."""
    for placement in known.placements.values():
        apply_credit(placement)
    park_all(known)
    for placement in list(known.placements.values()):
        place(out, placement.computation, now)


def on_limit_node(state: State, out: Outbox, event: LimitNode, now: Seconds) -> None:
    """Tell a node how many jobs of this scheduler may run there at once; after a reconnect it is told again.

    The node's next credits say how many jobs of each computation it takes.
    """
    state.limits[event.node] = event.cpus
    known = state.nodes.get(event.node)
    if known is None:
        return
    known.cpus_max = event.cpus
    for placement in known.placements.values():
        tell_placement(out, placement)
    if known.is_connected:
        out.append(Send(known.id, node.LimitCpus(event.cpus)))


def on_limit_client(state: State, out: Outbox, event: LimitClient, now: Seconds) -> None:
    """Set how many jobs of one client may be on a node at once, those of all its computations together.

    The node is not told: it serves others, too. Jobs that wait there above the limit are asked back.
    """
    program, known = state.lines.programs.get(event.client), state.nodes.get(event.node)
    if program is None or known is None:
        return
    quota = program.quotas.get(known.id)
    if quota is None:
        quota = program.quotas[known.id] = Quota(event.client, known, event.cpus)
        for placement in known.placements.values():
            if placement.computation.client == event.client:
                join_quota(quota, placement)
    limit_client(quota, event.cpus)
    for placement in list(quota.placements.values()):
        apply_credit(placement)
        tell_placement(out, placement)
        waiting = len(placement.assigned) - len(placement.started)
        if quota.left() < 0 and waiting and known.is_connected:
            out.append(Send(known.id, node.TakeBack(placement.computation.wire, waiting)))
        place(out, placement.computation, now)


def on_reconciled(state: State, out: Outbox, known: Node, message: node.Reconciled, now: Seconds) -> None:
    """End the comparison after a reconnect: send again, as the same attempts, jobs that never arrived.

    Cancels, requests for files, objects and wishes for output, which may be lost with the connection, are repeated,
    and computations that the node has lost are loaded again. The node gets new jobs from now on.
    """
    known.is_comparing = False
    for number in message.computations:
        placement = known.placements.get(number)
        if placement is not None and placement.status not in (Status.LEAVING, Status.LEFT):
            load_again(out, placement)
    missing: dict[int, set[tuple[int, int]]] = {}
    for jobs in message.attempts:
        missing.setdefault(jobs.computation, set()).update([(a.number, a.attempt) for a in jobs.attempts])
    for placement in list(known.placements.values()):
        # Jobs that the node gave back may be lost with the connection, so that it is to be asked again.
        placement.asked_back = False
        lost = missing.get(placement.computation.wire, ())
        again = [job for job in placement.assigned.values() if (job.number, job.attempt) in lost]
        cancelled = [job for job in again if job.number in placement.cancelling]
        for job in cancelled:
            del placement.assigned[job.number]
        end_cancelled(out, placement, [job.number for job in cancelled])
        placement.cancelling.difference_update([job.number for job in cancelled])
        again = [job for job in again if job.number in placement.assigned]
        if placement.status in (Status.LOADING, Status.LEAVING):
            # LOADING: the computation and its objects have to arrive first. LEAVING: it is not sent again.
            requeue_assigned(out, placement, again)
            again = []
        send_runs(out, placement, again)
        # Cancels may have been on their way when the connection broke.
        still = [placement.assigned[n] for n in placement.cancelling if n in placement.assigned]
        if still:
            for start in range(0, len(still), BATCH_MAX):
                attempts = [Attempt(job.number, job.attempt) for job in still[start : start + BATCH_MAX]]
                out.append(Send(known.id, node.CancelJobs(placement.computation.wire, attempts)))
        reconcile_objects(out, placement)
        send_files(out, placement)
        # Wishes for output that came meanwhile, or were lost with the connection.
        send_watch(out, placement, placement.computation.watched)
        note_room(placement)
        if placement.status is Status.LEAVING:
            send_off(out, placement)
            leave_if_empty(out, placement, now)
        place(out, placement.computation, now)
