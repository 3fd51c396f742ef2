"""Dispatch: which waiting job goes to which node, and work stealing between nodes.

Theory of operation. Each node grants *credit* per computation: *slots*, jobs that start at once, and a *backlog*,
jobs that wait on the node so that its CPUs are never idle between two jobs. ``place`` fills free slots of all nodes
first. Only when none is left are jobs sent ahead of need, within the backlog. When a CPU becomes idle and no job
waits here, ``steal`` asks nodes to give back jobs that wait behind running ones.

The cost of an event is that of the jobs it moves: placements with room are kept in two dictionaries (``free`` and
``backlogs`` of a computation), taken from the end, and those with jobs to steal in a third one (``waiting``). Except
for pinned jobs nothing looks at all nodes, and nothing at all jobs or computations. A function that changes what
``note_room`` reads must call it, and ``place`` after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import groupby

from dispy.core.scheduling.actions import Outbox, Send, TellEndedHere
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.state import Computation, Placement, State
from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX, INLINE_MAX
from dispy.protocol.message_sizes import cut
from dispy.protocol.node import CANCELLED, TERMINATED, Job, JobFiles, RunJobs, TakeBack, WatchJobs
from dispy.protocol.views import PlacementStatus as Status

STEAL_AFTER_S = 0.04
"""Time since jobs were last sent to a node, or asked back from it (seconds), after which those that it has not
reported as started count as waiting and may be stolen: two ticks of a node and the way back."""

ASK_AGAIN_S = 1.0
"""Pause (seconds) before a node that had no waiting job to give back is asked again, although nothing has moved
there: its jobs may have been on their way between its queue and its workers."""


def note_room(placement: Placement) -> None:
    """Put a placement into the indexes ``free`` (jobs would start at once), ``backlogs`` (jobs may be sent ahead) and
    ``waiting`` (jobs may be stolen) of its computation, or take it out, as its room and jobs are now.

    Call after any change of its status, credit, jobs or objects, or of its node's connection: otherwise ``place``
    would send too many jobs, or leave a free CPU idle.
    """
    computation = placement.computation
    node = placement.node.id
    known = placement.node
    usable = (
        placement.status is Status.READY
        and known.is_connected
        and not known.is_comparing
        and not placement.storing
    )
    if usable and placement.room() > 0:
        computation.free[node] = placement
    else:
        computation.free.pop(node, None)
    # A backlog is refilled by eighths: a message for each freed place would cost more than the jobs.
    if usable and placement.room_behind() > (placement.slots + placement.backlog) >> 3:
        computation.backlogs[node] = placement
    else:
        computation.backlogs.pop(node, None)
    if len(placement.assigned) > len(placement.started):
        computation.waiting[node] = placement
    else:
        computation.waiting.pop(node, None)
    # Both come and go with each job: ``steal`` takes it out again, not this.
    if computation.waiting and computation.free:
        computation.uneven[computation.key] = computation


def place(out: Outbox, computation: Computation, now: Seconds) -> None:
    """Send waiting jobs of a computation to nodes with room: pinned jobs first, then others into free slots, then
    into backlogs.

    Jobs are spread evenly: each node gets at most its share of the queue, but at least one job, and no more than it
    has room for.
    """
    if computation.pinned:
        for placement in computation.placements.values():
            if placement.pinned and placement.node.id in computation.free:
                _send(out, placement, _take(computation, placement.pinned, placement.room()), now)
    queue = computation.queue
    free = computation.free
    while queue and free:
        placement = free.popitem()[1]
        spread = -(-len(queue) // (len(free) + 1))
        _send(out, placement, _take(computation, queue, min(placement.room(), max(1, spread))), now)
    backlogs = computation.backlogs
    while queue and backlogs:
        placement = backlogs.popitem()[1]
        spread = -(-len(queue) // (len(backlogs) + 1))
        _send(out, placement, _take(computation, queue, min(placement.room_behind(), max(1, spread))), now)


def _take(computation: Computation, queue: deque[Job], count: int) -> list[Job]:
    """Take up to ``count`` jobs off the front of a queue; returns those of them that were not cancelled, in the order
    of the queue.

    The client was told the end of cancelled jobs before; their numbers are removed from ``Computation.cancelled``.
    """
    popleft = queue.popleft
    jobs = [popleft() for _ in range(min(count, len(queue)))]
    if computation.cancelled:
        cancelled = computation.cancelled
        dropped = [job.number for job in jobs if job.number in cancelled]
        if dropped:
            jobs = [job for job in jobs if job.number not in cancelled]
            cancelled.difference_update(dropped)
    return jobs


def _send(out: Outbox, placement: Placement, jobs: list[Job], now: Seconds) -> None:
    """Assign jobs, which the caller has taken off their queue, to a node, send them, and update the indexes of room.

    ``jobs`` may be empty: then only the indexes are updated (``note_room``).
    """
    if jobs:
        placement.assigned.update([(job.number, job) for job in jobs])
        placement.last_sent = now
        placement.asked_back = False
        send_runs(out, placement, jobs)
    note_room(placement)


def send_runs(out: Outbox, placement: Placement, jobs: list[Job]) -> None:
    """Send assigned jobs to their node, in as few messages as ``BATCH_MAX`` jobs and ``BATCH_SIZE_MAX`` bytes allow.

    Arguments that travel as streams, or lie in files, do not count towards the bytes, as they are not in these
    messages.
    """
    sizes = [len(job.payload) for job in jobs]
    if 0 < len(jobs) <= BATCH_MAX and sum(sizes) <= BATCH_SIZE_MAX:
        _send_run(out, placement, jobs)
        return
    sizes = [size if size < INLINE_MAX else 0 for size in sizes]
    for batch in cut(jobs, sizes):
        _send_run(out, placement, batch)


def _send_run(out: Outbox, placement: Placement, jobs: list[Job]) -> None:
    """Send one batch of assigned jobs (``RunJobs``), with the lists of files that they bring, and with the numbers of
    those whose output the client wants while they run.

    If some jobs bring files and the batch has more than one job, ``_send_apart`` cuts it into several messages.
    """
    computation = placement.computation
    if computation.files:
        filed = [job for job in jobs if job.number in computation.files]
        if filed and len(jobs) > 1:
            _send_apart(out, placement, jobs)
            return
    else:
        filed = []
    message = RunJobs(computation.wire, jobs)
    if filed:
        message.files = [JobFiles(job.number, computation.files[job.number]) for job in filed]
    if computation.watched:
        message.watched = [job.number for job in jobs if job.number in computation.watched]
    out.append(Send(placement.node.id, message))


def _send_apart(out: Outbox, placement: Placement, jobs: list[Job]) -> None:
    """Send each job that brings files in a message of its own, as its list of files may be long; the order stays."""
    files = placement.computation.files
    for has_files, group in groupby(jobs, lambda job: job.number in files):
        for batch in [[job] for job in group] if has_files else [list(group)]:
            _send_run(out, placement, batch)


def send_watch(out: Outbox, placement: Placement, numbers: Collection[int], is_wanted: bool = True) -> None:
    """Ask a node for the live output of those of the jobs (by number) that it has; ``is_wanted`` False: stop that.

    Does nothing while the connection is broken; ``on_reconciled`` asks again after that.
    """
    there = [number for number in numbers if number in placement.assigned]
    if placement.node.is_connected:
        for start in range(0, len(there), BATCH_MAX):
            message = WatchJobs(placement.computation.wire, there[start : start + BATCH_MAX], is_wanted)
            out.append(Send(placement.node.id, message))


def cancel_queued(out: Outbox, computation: Computation, numbers: list[int]) -> None:
    """End waiting jobs (by number) as ``CANCELLED``, and tell the client.

    The jobs stay in ``Computation.queue``, marked in ``cancelled``, until more than half of the queue is cancelled:
    to search the queue at each cancel would cost more. Pinned jobs are removed from ``Placement.pinned`` at once.
    """
    queued = numbers
    if computation.pinned:
        pinned = [number for number in numbers if number in computation.pinned]
        queued = [number for number in numbers if number not in computation.pinned]
        for number in pinned:
            placement = computation.placements[computation.pinned[number]]
            placement.pinned = deque(job for job in placement.pinned if job.number != number)
    cancelled = computation.cancelled
    cancelled.update(queued)
    end_here(out, computation, numbers, CANCELLED, "cancelled")
    if len(cancelled) == len(computation.queue):
        computation.queue.clear()
        cancelled.clear()
    elif 2 * len(cancelled) > len(computation.queue):
        computation.queue = deque(job for job in computation.queue if job.number not in cancelled)
        cancelled.clear()


def end_here(out: Outbox, computation: Computation, numbers: list[int], status: int, reason: str) -> None:
    """End jobs (by number) with a final status and a reason in words, as no node will tell their end.

    The client is told. The caller takes the jobs out of ``queue``, ``pinned`` or ``assigned``.
    """
    if not numbers:
        return
    computation.open -= len(numbers)
    for number in numbers if computation.pinned else ():
        computation.pinned.pop(number, None)
    if computation.watched:
        computation.watched.difference_update(numbers)
    for number in numbers if computation.deaths else ():
        computation.deaths.pop(number, None)
    for number in numbers if computation.files else ():
        computation.files.pop(number, None)
    # A million jobs may be cancelled at once: no object is made for each.
    out.append(TellEndedHere(computation.client, computation.number, numbers, status, reason))


def end_if_hopeless(out: Outbox, computation: Computation) -> None:
    """End the waiting jobs of a computation as ``TERMINATED`` if its placement on every one of its nodes is FAILED.

    The reason of the last one is told. While the computation has no node at all, its jobs wait for one.
    """
    placements = computation.placements
    if not computation.queue or not placements:
        return
    if all(placement.status is Status.FAILED for placement in placements.values()):
        reason = next(reversed(placements.values())).reason
        waiting = [job.number for job in computation.queue if job.number not in computation.cancelled]
        computation.queue.clear()
        computation.cancelled.clear()
        end_here(out, computation, waiting, TERMINATED, f"no node can run this computation: {reason}")


def steal(state: State, out: Outbox, now: Seconds) -> None:
    """Steal work: for each computation that has idle CPUs on a node and no job in its queue, ask other nodes to give
    back jobs that wait there behind running ones (``TakeBack``), at most as many as have room elsewhere.

    Nodes that seem to have room are asked, too: a job that waits there for long does so behind jobs of others.
    """
    for key, computation in list(state.uneven.items()):
        if not (computation.free and computation.waiting):
            del state.uneven[key]
        elif not computation.queue:
            _steal(out, computation, now)


def _steal(out: Outbox, computation: Computation, now: Seconds) -> None:
    """Ask nodes to give back jobs of a computation that wait there, as many as have room elsewhere."""
    room = _count_room(computation)
    for placement in computation.waiting.values():
        if room <= 0:
            return
        pause_s = ASK_AGAIN_S if placement.asked_back else STEAL_AFTER_S
        if now - placement.last_sent <= pause_s or not placement.node.is_connected:
            continue
        elsewhere = room - (placement.room() if placement.node.id in computation.free else 0)
        # A node gives back the jobs that it would start last; some may be pinned to it, so ask for as many more.
        bound = _count_bound(placement) if computation.pinned else 0
        count = min(len(placement.assigned) - len(placement.started) - bound, elsewhere)
        if count > 0:
            room -= count
            placement.asked_back = True
            placement.last_sent = now
            out.append(Send(placement.node.id, TakeBack(computation.wire, count + bound)))


def _count_room(computation: Computation) -> int:
    """Returns the number of jobs of a computation that would start at once, on all nodes together.

    More than all jobs that wait on nodes, and the room of these nodes themselves, are not counted: of ten thousand
    idle nodes a few are enough.
    """
    enough = 0
    for placement in computation.waiting.values():
        enough += len(placement.assigned) - len(placement.started) + max(0, placement.room())
    room = 0
    for placement in computation.free.values():
        room += placement.room()
        if room >= enough:
            break
    return room


def _count_bound(placement: Placement) -> int:
    """Returns the number of jobs on a node that are pinned to it and that it has not reported as started.

    If the node gave them back they could only go there again, so ``steal`` asks for as many jobs more.
    """
    pinned, started = placement.computation.pinned, placement.started
    return sum(number in pinned and number not in started for number in placement.assigned)
