"""What nodes do and say: they come, break off, come back, are lost; they grant, run and return jobs."""

from __future__ import annotations

from dispy.core.scheduling.actions import (
    Outbox,
    Send,
    TellCredit,
    TellEnded,
    TellNode,
    TellPrinted,
    TellRequeued,
    TellStarted,
    TellValue,
)
from dispy.core.scheduling.computations import give_up_placement
from dispy.core.scheduling.events import AnswerValue, LimitNode, NodeLost, NodeSilent, NodeUp
from dispy.core.scheduling.files import give_up_files, send_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.objects import reconcile_objects, send_objects
from dispy.core.scheduling.placement import (
    end_here,
    end_if_hopeless,
    note_room,
    place,
    requeue,
    send_runs,
    send_watch,
)
from dispy.core.scheduling.state import Node, Placement, State, Status
from dispy.core.scheduling.withdrawal import CLOSED, leave_if_empty, send_off
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import ABANDONED, Attempt

__all__ = ["Node"]

DEATHS_MAX = 3
"""A job that may run again and whose process dies so often is at fault itself, most likely."""


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


def on_computation_ready(
    state: State, out: Outbox, known: Node, message: node.ComputationReady, now: Seconds
) -> None:
    """A computation is loaded; jobs go there as soon as there is credit."""
    placement = known.placements.get(message.computation)
    if placement is None or placement.status is Status.READY or _is_past(placement, message.life):
        return
    placement.status = Status.READY
    computation = placement.computation
    out.append(TellNode(computation.client, computation.number, known.id, True, message.warning))
    placement.progress = None
    send_objects(out, placement)
    send_files(out, placement)
    note_room(placement)


def on_computation_failed(
    state: State, out: Outbox, known: Node, message: node.ComputationFailed, now: Seconds
) -> None:
    """A node cannot run a computation: it is not used for it, and the reason is kept.

    What it has not started it gives back. The others have ended, and their results may still be on their way:
    a large one is overtaken by this message.
    """
    placement = known.placements.get(message.computation)
    if placement is None or _is_past(placement, message.life):
        return
    computation = placement.computation
    placement.status = Status.FAILED
    placement.reason = message.reason
    note_room(placement)
    give_up_files(out, placement, message.reason)
    pinned = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, computation, pinned, ABANDONED, message.reason)
    out.append(TellNode(computation.client, computation.number, known.id, False, message.reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def _is_past(placement: Placement, life: int) -> bool:
    """Whether what a node says of a computation is about a stay that is over, or ends anyway."""
    return placement.status in (Status.LEAVING, Status.LEFT) or life != placement.compute.life


def on_credit(state: State, out: Outbox, known: Node, message: node.Credit, now: Seconds) -> None:
    """A node grants more or less."""
    placement = known.placements.get(message.computation)
    # Before it is loaded there is none: this one is of its time there before that.
    if placement is None or placement.status is not Status.READY:
        return
    is_news = message.reason != placement.shortage
    placement.granted = (message.slots, message.backlog)
    placement.shortage = message.reason
    placement.apply_grant()
    if message.slots and placement.computation.objects:
        send_objects(out, placement)
    note_room(placement)
    computation = placement.computation
    if is_news:
        out.append(TellCredit(computation.client, computation.number, known.id))
    place(out, computation, now)


def on_jobs_started(
    state: State, out: Outbox, known: Node, message: node.JobsStarted, now: Seconds
) -> None:
    """Some jobs have been running for a moment."""
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    assigned = placement.assigned
    started = [
        s for s in message.started if s.number in assigned and assigned[s.number].attempt == s.attempt
    ]
    placement.started.update(s.number for s in started)
    computation = placement.computation
    if started:
        out.append(TellStarted(computation.client, computation.number, known.id, started))
    if placement.status is Status.LEAVING:
        send_off(out, placement)


def on_jobs_ended(state: State, out: Outbox, known: Node, message: node.JobsEnded, now: Seconds) -> None:
    """Jobs have ended: tell the client, once, and fill the room they leave.

    On the path of every job, so it does its bookkeeping a batch at a time.
    """
    out.append(Send(known.id, node.Acknowledge(message.batch)))
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    computation = placement.computation
    if computation.reentrant:
        _run_again(out, placement, message)
    assigned = placement.assigned
    ended = []
    for result in message.ended:
        job = assigned.get(result.number)
        if job is not None and job.attempt == result.attempt:
            del assigned[result.number]
            ended.append(result)
    if not ended:
        note_room(placement)
        leave_if_empty(out, placement, now)
        place(out, computation, now)
        return
    computation.open -= len(ended)
    if placement.started:
        placement.started.difference_update([result.number for result in ended])
    if placement.cancelling:
        placement.cancelling.difference_update([result.number for result in ended])
    if computation.pinned:
        for result in ended:
            computation.pinned.pop(result.number, None)
    if computation.watched:
        computation.watched.difference_update([result.number for result in ended])
    for result in ended if computation.deaths else ():
        computation.deaths.pop(result.number, None)
    for result in ended if computation.files else ():
        computation.files.pop(result.number, None)
    placement.asked_back = False
    out.append(TellEnded(computation.client, computation.number, known.id, ended))
    note_room(placement)
    if placement.status is Status.LEAVING:
        leave_if_empty(out, placement, now)
    place(out, computation, now)


def _run_again(out: Outbox, placement: Placement, message: node.JobsEnded) -> None:
    """Requeue what may be run again of the jobs whose processes have died, unless they die each time."""
    computation = placement.computation
    again = []
    for result in message.ended:
        job = placement.assigned.get(result.number)
        if job is None or job.attempt != result.attempt:
            continue
        if result.died:
            deaths = computation.deaths[job.number] = computation.deaths.get(job.number, 0) + 1
            if deaths == DEATHS_MAX:
                result.reason += f"; it was started {DEATHS_MAX} times and died each time"
            elif job.number not in placement.cancelling:
                again.append(job)
    _requeue(out, placement, again)


def _requeue(out: Outbox, placement: Placement, jobs: list[node.Job]) -> None:
    """Jobs that a node has are ours again."""
    computation = placement.computation
    for job in jobs:
        del placement.assigned[job.number]
        placement.started.discard(job.number)
    if jobs:
        requeue(computation, jobs)
        out.append(TellRequeued(computation.client, computation.number, [job.number for job in jobs]))


def on_jobs_returned(
    state: State, out: Outbox, known: Node, message: node.JobsReturned, now: Seconds
) -> None:
    """Jobs that a node had not started are ours again, at the head of the queue."""
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    # If it had none to give, it is asked again only after something has moved there, or been sent.
    if message.attempts:
        placement.asked_back = False
    placement.last_sent = now
    back = _take_assigned(placement, message.attempts)
    computation = placement.computation
    cancelled = [job.number for job in back if job.number in placement.cancelling]
    back = [job for job in back if job.number not in placement.cancelling]
    placement.cancelling.difference_update(cancelled)
    homeless: list[int] = []
    if computation.pinned and not placement.is_open():
        homeless = [job.number for job in back if job.number in computation.pinned]
        back = [job for job in back if job.number not in computation.pinned]
    requeue(computation, back)
    if placement.status is Status.FAILED:
        end_here(out, computation, homeless, ABANDONED, placement.reason)
    else:
        end_here(out, computation, homeless, node.CANCELLED, CLOSED)
    end_cancelled(out, placement, cancelled)
    if back:
        out.append(TellRequeued(computation.client, computation.number, [job.number for job in back]))
    note_room(placement)
    if back and known.id in computation.free:
        # They waited there, whoever has its CPUs: of the nodes with room it is the last to get them.
        computation.free = {known.id: computation.free.pop(known.id), **computation.free}
    if message.reason and placement.status is Status.READY:
        # It refused them.
        _load_again(out, placement)
        note_room(placement)
    if placement.status is Status.FAILED:
        end_if_hopeless(out, computation)
    leave_if_empty(out, placement, now)
    place(out, computation, now)


def _load_again(out: Outbox, placement: Placement) -> None:
    """A node does not have a computation any more: it is sent again; jobs follow its credit."""
    placement.granted = (0, 0)
    placement.apply_grant()
    placement.status = Status.LOADING
    placement.stored.clear()
    placement.storing.clear()
    placement.dropped.clear()
    out.append(Send(placement.node.id, placement.compute))


def end_cancelled(out: Outbox, placement: Placement, numbers: list[int]) -> None:
    """Jobs that were cancelled while on their way to a node and came back unstarted."""
    end_here(out, placement.computation, numbers, node.CANCELLED, "cancelled")


def _take_assigned(placement: Placement, attempts: list[Attempt]) -> list[node.Job]:
    assigned = placement.assigned
    taken = []
    for attempt in attempts:
        job = assigned.get(attempt.number)
        if job is not None and job.attempt == attempt.attempt:
            del assigned[attempt.number]
            placement.started.discard(attempt.number)
            taken.append(job)
    return taken


def on_provisional(state: State, out: Outbox, known: Node, message: node.Provisional, now: Seconds) -> None:
    """A running job sent a value: pass it on and let the job go on.

    With a part of a file it goes on when that has been written: see ``on_answer_value``.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    computation = placement.computation
    job = placement.assigned.get(message.number)
    if job is not None and job.attempt == message.attempt:
        out.append(TellValue(computation.client, computation.number, known.id, message))
        if message.file is not None:
            return
    told = node.AcknowledgeProvisional(message.computation, message.number, message.attempt, message.serial)
    if message.file is not None:
        told.delivered, told.reason = False, "its client waits for this run of the job no more"
    out.append(Send(known.id, told))


def on_answer_value(state: State, out: Outbox, event: AnswerValue, now: Seconds) -> None:
    """A part of a file was written, or refused."""
    known = state.nodes.get(event.node)
    if known is not None and known.is_connected:
        out.append(Send(known.id, event.message))


def on_printed(state: State, out: Outbox, known: Node, message: node.JobsPrinted, now: Seconds) -> None:
    """Running jobs have printed something: pass it on, and let more of it come."""
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    assigned = placement.assigned
    printed = [
        p for p in message.printed if p.number in assigned and assigned[p.number].attempt == p.attempt
    ]
    if printed:
        computation = placement.computation
        out.append(TellPrinted(computation.client, computation.number, printed))
    out.append(Send(known.id, node.AcknowledgePrinted(message.computation)))


def on_reconciled(state: State, out: Outbox, known: Node, message: node.Reconciled, now: Seconds) -> None:
    """After a reconnect: send again what never arrived, with the same attempt, in the same order."""
    known.is_comparing = False
    for number in message.computations:
        placement = known.placements.get(number)
        if placement is not None and placement.status not in (Status.LEAVING, Status.LEFT):
            _load_again(out, placement)
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
            _requeue(out, placement, again)
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
