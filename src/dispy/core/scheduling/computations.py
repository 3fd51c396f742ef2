"""What clients ask for: computations, jobs, cancels, and where they may run."""

from __future__ import annotations

from msgspec import structs

from dispy.core.scheduling.actions import Outbox, Send, TellNode
from dispy.core.scheduling.events import (
    AddComputation,
    Allocate,
    CancelJobs,
    CloseComputation,
    SubmitJobs,
    WatchJobs,
)
from dispy.core.scheduling.files import give_up_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.placement import (
    cancel_queued,
    end_here,
    end_if_hopeless,
    note_room,
    place,
    requeue,
    send_watch,
    take_cancelling,
)
from dispy.core.scheduling.state import Computation, Node, Placement, State, Status
from dispy.core.scheduling.withdrawal import CLOSED, cancel_pinned, remove
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import ABANDONED, CANCELLED, Attempt


def on_add_computation(state: State, out: Outbox, event: AddComputation, now: Seconds) -> None:
    """Know a computation; it runs nowhere until it is allocated nodes."""
    state.computations[event.compute.computation] = Computation(
        event.client, event.compute, event.reentrant
    )


def on_close_computation(state: State, out: Outbox, event: CloseComputation, now: Seconds) -> None:
    """Forget a computation here and on its nodes."""
    computation = state.computations.pop(event.computation, None)
    if computation is None:
        return
    for placement in list(computation.placements.values()):
        give_up_files(out, placement, "the cluster was closed")
        drop_placement(out, placement)


def drop_placement(out: Outbox, placement: Placement) -> None:
    """Take a node away from a computation."""
    remove(placement)
    if placement.node.is_connected and placement.status is not Status.LEFT:
        out.append(Send(placement.node.id, node.CloseComputation(placement.computation.number)))


def on_allocate(state: State, out: Outbox, event: Allocate, now: Seconds) -> None:
    """Let a computation use a node, change how much of it, or end that."""
    computation = state.computations.get(event.computation)
    known = state.nodes.get(event.node)
    if computation is None or known is None:
        return
    placement = computation.placements.get(known.id)
    if event.cpus <= 0 and not event.is_draining:
        if placement is not None:
            cancel_pinned(out, placement)
            give_up_placement(out, placement, CLOSED, now)
        return
    if placement is None and event.is_draining:
        return
    if placement is not None and placement.status is Status.LEAVING:
        return  # what it is like when it comes back is asked when it has left
    if placement is None or placement.status is Status.LEFT:
        if placement is None:
            placement = open_placement(computation, known, event.cpus)
        life = computation.stays.get(known.id, 0)
        computation.stays[known.id] = life + 1
        if event.code or event.files is not None or life:
            code = event.code or computation.compute.code
            files = computation.compute.files if event.files is None else event.files
            placement.begin(structs.replace(computation.compute, code=code, files=files, life=life))
        if known.is_connected:
            out.append(Send(known.id, placement.compute))
    placement.cpus_max = event.cpus
    placement.apply_grant()
    note_room(placement)
    if event.cpus <= 0:
        cancel_pinned(out, placement)
    waiting = len(placement.assigned) - len(placement.started)
    if event.is_draining and known.is_connected and waiting:
        out.append(Send(known.id, node.TakeBack(computation.number, waiting)))
    place(out, computation, now)


def open_placement(computation: Computation, known: Node, cpus: int) -> Placement:
    """A computation comes to a node."""
    placement = Placement(computation, known, cpus)
    computation.placements[known.id] = placement
    known.placements[computation.number] = placement
    return placement


def give_up_placement(out: Outbox, placement: Placement, reason: str, now: Seconds) -> None:
    """A computation leaves a node: jobs there that may run again do so elsewhere, the others end.

    Reentrant jobs go back to the head of their queue in the order they were sent; pinned ones and
    those that must not run twice end as ``ABANDONED``.
    """
    computation = placement.computation
    drop_placement(out, placement)
    give_up_files(out, placement, reason)
    end_here(out, computation, take_cancelling(placement), CANCELLED, "cancelled")
    jobs = list(placement.assigned.values())
    pinned = [job for job in jobs if job.number in computation.pinned] + list(placement.pinned)
    free = [job for job in jobs if job.number not in computation.pinned]
    abandoned = [job.number for job in pinned]
    if computation.reentrant:
        requeue(computation, free)
    else:
        abandoned = [job.number for job in free] + abandoned
    end_here(out, computation, abandoned, ABANDONED, reason)
    if placement.status is not Status.FAILED:
        out.append(TellNode(computation.client, computation.number, placement.node.id, False, reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def on_submit_jobs(state: State, out: Outbox, event: SubmitJobs, now: Seconds) -> None:
    """Queue jobs and start what can start."""
    computation = state.computations[event.computation]
    computation.open += len(event.jobs)
    if event.files:
        computation.files.update(event.files)
        most = max(map(len, event.files.values()))
        if most > computation.files_most:
            computation.files_most = most
            for each in computation.placements.values():
                each.apply_grant()
                note_room(each)
    if event.node is None:
        computation.queue.extend(event.jobs)
    else:
        placement = computation.placements.get(event.node)
        computation.pinned.update((job.number, event.node) for job in event.jobs)
        if placement is None or not placement.is_open():
            numbers = [job.number for job in event.jobs]
            reason = placement.reason if placement is not None else ""
            reason = reason or "the node that was asked for is not there any more"
            end_here(out, computation, numbers, ABANDONED, reason)
        else:
            placement.pinned.extend(event.jobs)
    if computation.free or computation.backlogs:
        place(out, computation, now)
    elif computation.queue:
        end_if_hopeless(out, computation)


def on_watch_jobs(state: State, out: Outbox, event: WatchJobs, now: Seconds) -> None:
    """Ask for the output of running jobs, or cease to; the nodes of those that wait are asked with the jobs."""
    computation = state.computations.get(event.computation)
    if computation is None:
        return
    if event.is_wanted:
        computation.watched.update(event.numbers)
    else:
        computation.watched.difference_update(event.numbers)
    for placement in computation.placements.values():
        send_watch(out, placement, event.numbers, event.is_wanted)


def on_cancel_jobs(state: State, out: Outbox, event: CancelJobs, now: Seconds) -> None:
    """Cancel jobs, wherever they are. Those on nodes end when the nodes say so."""
    computation = state.computations.get(event.computation)
    if computation is None:
        return
    left = dict.fromkeys(event.numbers)
    for placement in computation.placements.values():
        assigned = placement.assigned
        if len(left) < len(assigned):
            there = [assigned[number] for number in left if number in assigned]
        else:
            there = [job for number, job in assigned.items() if number in left]
        for job in there:
            del left[job.number]
        for start in range(0, len(there), BATCH_MAX):
            attempts = [Attempt(job.number, job.attempt) for job in there[start : start + BATCH_MAX]]
            if placement.node.is_connected:
                out.append(Send(placement.node.id, node.CancelJobs(computation.number, attempts)))
            placement.cancelling.update(attempt.number for attempt in attempts)
    numbers = [number for number in left if number not in computation.cancelled]
    if numbers:
        cancel_queued(out, computation, numbers)
