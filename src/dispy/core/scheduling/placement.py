"""Dispatch: which waiting job goes to which node, and work stealing between nodes.

Theory of operation. Each node grants *credit*: *slots*, jobs that start at once, and a *backlog* per computation,
jobs that wait on the node so that its CPUs are never idle between two jobs. ``place`` fills free slots of all nodes
first. Only when none is left are jobs sent ahead of need, within the backlog. When a CPU becomes idle and no job
waits here, ``steal`` asks nodes to give back jobs that wait behind running ones. Where several computations wait for
a node, ``serve`` has them take turns (``lines.waiting``).

The cost of an event is that of the jobs it moves: placements with room are kept in two dictionaries (``free`` and
``backlogs`` of a computation), taken from the end, and those with jobs to steal in a third one (``waiting``). Except
for pinned jobs nothing looks at all nodes, and nothing at all jobs or computations. A function that changes what
``note_room`` reads must call it, and ``place`` after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import groupby, islice

from dispy.core.scheduling.actions import Outbox, Send, TellEndedHere
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines.accounts import has_room_ahead, note_room, room, room_behind, set_rates
from dispy.core.scheduling.lines.parties import ADVANCE_S, enter, note_ended, rise
from dispy.core.scheduling.lines.waiting import most_now, next_here, quantum, room_now
from dispy.core.scheduling.state import Computation, Node, Placement, Quota, State, Tenant
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


HELD_MAX = 16
"""Number of computations that a user's limit keeps waiting of which some are placed when a job of the user ends."""


def apply_credit(placement: Placement) -> None:
    """Bring a placement's slots and backlog up to date after its credit, or what bounds that, has changed. The caller
    must call ``place`` next."""
    placement.apply_grant()
    expected_us = placement.expected_us
    cost_s = min(expected_us * 1e-6, ADVANCE_S) if expected_us else ADVANCE_S
    set_rates(placement, max(1, placement.slots, placement.backlog), cost_s)
    note_room(placement)


def place(out: Outbox, computation: Computation, now: Seconds) -> None:
    """Send waiting jobs of a computation to nodes with room: pinned jobs first, then others into free slots, then
    into backlogs.

    Jobs are spread evenly: each node gets at most its share of the queue, but at least one job, and no more than it
    has room for. Where others wait for the node's room, ``serve`` has them take turns.
    """
    if computation.party is not None:
        _place_beside(out, computation, now)
        return
    if computation.pinned:
        for placement in computation.placements.values():
            if placement.pinned and placement.node.id in computation.free:
                _send(out, placement, _take(computation, placement.pinned, room(placement)), now)
    queue = computation.queue
    free = computation.free
    while queue and free:
        placement = free.popitem()[1]
        left = placement.slots - len(placement.assigned)
        spread = -(-len(queue) // (len(free) + 1))
        _send(out, placement, _take(computation, queue, min(left, spread)), now)
    backlogs = computation.backlogs
    while queue and backlogs:
        placement = backlogs.popitem()[1]
        left = placement.slots + placement.backlog - len(placement.assigned)
        spread = -(-len(queue) // (len(backlogs) + 1))
        _send(out, placement, _take(computation, queue, min(left, spread)), now)


def _place_beside(out: Outbox, computation: Computation, now: Seconds) -> None:
    """Do the same for a computation beside others: within the limit of its user, and while no exclusive one keeps it
    waiting. Nodes whose room others have taken leave its indexes. If jobs are left it stands in line."""
    most = most_now(computation)
    if computation.pinned and most:
        for placement in computation.placements.values():
            if placement.pinned and placement.node.id in computation.free:
                jobs = _take(computation, placement.pinned, min(most, room(placement)))
                most -= len(jobs)
                _send(out, placement, jobs, now)
    queue = computation.queue
    for index, room_of in ((computation.free, room), (computation.backlogs, room_behind)):
        while queue and most > 0 and index:
            placement = index.popitem()[1]
            spread = -(-len(queue) // (len(index) + 1))
            count = min(room_of(placement), spread, most)
            jobs = _take(computation, queue, count)
            most -= len(jobs)
            _send(out, placement, jobs, now)
    if queue and most_now(computation):
        enter(computation)


def serve(state: State, out: Outbox, now: Seconds) -> None:
    """Give room of nodes, for which placements are parked there, to those whose turn it is; and let those be placed
    that a limit, or exclusive use by others, has kept waiting. Call after each event."""
    due = state.lines.due
    while due:
        each = due.popitem()[1]
        if type(each) is Node:
            _serve_node(state, out, each, now)
        elif type(each) is Tenant:
            _free(out, each, now)
        elif type(each) is Quota:
            _free_held(out, each, now)
        else:
            for computation in list(state.computations.values()):
                if computation.queue or computation.pinned:
                    place(out, computation, now)


def _free(out: Outbox, tenant: Tenant, now: Seconds) -> None:
    """Place jobs of computations that a user's limit has kept waiting, the first that waits first. Of those that go
    on waiting it is the last the next time."""
    for key in list(islice(tenant.held, HELD_MAX)):
        if tenant.cpus_max is not None and tenant.assigned >= tenant.cpus_max:
            return
        computation = tenant.held.pop(key)
        place(out, computation, now)


def _free_held(out: Outbox, quota: Quota, now: Seconds) -> None:
    """Place jobs of computations that the limit of their client at a node has kept waiting, the first that waits
    first. Of those that go on waiting it is the last the next time."""
    for wire in list(islice(quota.held, HELD_MAX)):
        if quota.left() <= 0:
            return
        placement = quota.held.pop(wire)
        note_room(placement)
        place(out, placement.computation, now)


def _serve_node(state: State, out: Outbox, known: Node, now: Seconds) -> None:
    """Give the room of a node to those that wait for it, in their order: to pinned jobs first, then by quanta.

    Room that nobody takes is entered in the indexes of all placements that were parked for it.
    """
    while True:
        is_free, is_roomy = known.slots > known.assigned, has_room_ahead(known)
        if not (is_free and known.for_slot) and not (is_roomy and known.for_room):
            return
        if known.pinned and _serve_pinned(out, known, now):
            continue
        turn = next_here(state.lines, known.for_slot) if is_free else None
        if turn is None and is_roomy:
            turn = next_here(state.lines, known.for_room)
        if turn is None:
            break
        placement = turn.placement
        count = min(room_now(placement), quantum(turn))
        _send_parked(out, placement, placement.computation.queue, count, now)
    parked = {**(known.for_slot if is_free else {}), **(known.for_room if is_roomy else {})}
    if is_free:
        known.for_slot.clear()
    if is_roomy:
        known.for_room.clear()
    for placement in parked.values():
        note_room(placement)


def _serve_pinned(out: Outbox, known: Node, now: Seconds) -> bool:
    """Send jobs that may run on one node only, and wait for its room; returns whether any were sent."""
    for wire, placement in list(known.pinned.items()):
        if not placement.pinned:
            del known.pinned[wire]
        elif wire in known.for_slot:
            count = min(room_now(placement), most_now(placement.computation))
            if count > 0:
                _send_parked(out, placement, placement.pinned, count, now)
                return True
    return False


def _send_parked(out: Outbox, placement: Placement, queue: deque[Job], count: int, now: Seconds) -> None:
    """Send up to ``count`` jobs off the front of a queue to a node at which the placement is parked."""
    computation = placement.computation
    _send(out, placement, _take(computation, queue, count), now)
    if computation.queue and (computation.free or computation.backlogs):
        # Nobody else is parked here, so this one is not any more, and it has room: jobs were cancelled, or pinned.
        place(out, computation, now)


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
        if placement.computation.party is not None:
            rise(placement.computation.party)
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
    if computation.party is not None:
        note_ended(computation, len(numbers))
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
    left = _count_room(computation)
    for placement in computation.waiting.values():
        if left <= 0:
            return
        pause_s = ASK_AGAIN_S if placement.asked_back else STEAL_AFTER_S
        if now - placement.last_sent <= pause_s or not placement.node.is_connected:
            continue
        elsewhere = left - (room(placement) if placement.node.id in computation.free else 0)
        # A node gives back the jobs that it would start last; some may be pinned to it, so ask for as many more.
        bound = _count_bound(placement) if computation.pinned else 0
        count = min(len(placement.assigned) - len(placement.started) - bound, elsewhere)
        if count > 0:
            left -= count
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
        enough += len(placement.assigned) - len(placement.started) + max(0, room(placement))
    left = 0
    for placement in list(computation.free.values()):
        here = room(placement)
        if here <= 0:
            # Jobs of others have taken it.
            note_room(placement)
            continue
        left += here
        if left >= enough:
            break
    return left


def _count_bound(placement: Placement) -> int:
    """Returns the number of jobs on a node that are pinned to it and that it has not reported as started.

    If the node gave them back they could only go there again, so ``steal`` asks for as many jobs more.
    """
    pinned, started = placement.computation.pinned, placement.started
    return sum(number in pinned and number not in started for number in placement.assigned)
