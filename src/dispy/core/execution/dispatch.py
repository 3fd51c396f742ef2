"""Free CPUs are put to work: which jobs go into a record, and what lies behind a running one.

A CPU is busy while a worker has a record. Whose turn it is say ``shares``. Only a computation that has
the node to itself gets a second record per busy worker, so that none of them waits for us between two
jobs; it is recalled as soon as another worker is idle or another computation waits.
"""

from __future__ import annotations

from dispy.core.execution.actions import Drained, ForkWorker, Offer, Outbox, Recall
from dispy.core.execution.fair_shares import admit_exclusive, may_start, occupy, turn
from dispy.core.execution.ids import Seconds, WorkerId
from dispy.core.execution.jobs import return_ready, return_staging
from dispy.core.execution.live_output import is_any_watched
from dispy.core.execution.state import RECORD_US, Computation, State, Status, Worker
from dispy.protocol.node import Job
from dispy.protocol.worker import RECORD_BYTES_MAX, RECORD_JOBS_MAX, Record

STILLBORN_MAX = 10
"""Workers in a row that end before they begin a job, and none finishes one: more would not help."""

_JOB_OVERHEAD = 32  # bytes of a job in a record beside its payload


def settle(state: State, out: Outbox, now: Seconds) -> None:
    """Put every free CPU to work."""
    if state.is_restricted:
        _hold_back(state, out, now)
    waiting = [
        c for c in state.computations.values() if c.ready and c.status is Status.READY and not c.is_held_off
    ]
    if len(waiting) > 1:
        # Those of dead clients have what is left.
        waiting = [c for c in waiting if not c.client.is_dead] or waiting
    if not waiting:
        if state.busy < state.cpus:
            _recall_for_idle(state, out)
        return
    if len(waiting) == 1:
        computation = waiting[0]
        while computation.ready and _has_room(state, computation):
            _offer(state, out, computation, _idle_worker(state, out, computation), now)
        if computation.ready and state.busy == computation.busy:
            _look_ahead(state, out, computation, now)
        elif computation.ready:
            _recall_others(state, out, computation)
        elif state.busy < state.cpus:
            _recall_for_idle(state, out)
        return
    _recall_others(state, out, None)
    while state.busy < state.cpus and waiting:
        computation = min(waiting, key=turn)
        if not computation.ready or not _has_room(state, computation):
            waiting.remove(computation)
        else:
            _offer(state, out, computation, _idle_worker(state, out, computation), now)


def _hold_back(state: State, out: Outbox, now: Seconds) -> None:
    """Give back what may not start here: its client has other nodes, perhaps."""
    if state.exclusive and not state.is_draining:
        admit_exclusive(state, out, now)
    for computation in state.computations.values():
        if not may_start(state, computation):
            _recall_of(state, out, computation, len(computation.workers))
            # Of a client that is away nobody can take them.
            if computation.ready and computation.client.is_connected:
                return_ready(out, computation)
            if computation.staging and computation.client.is_connected and state.is_draining:
                return_staging(out, computation)
    if state.is_draining and _is_drained(state):
        out.append(Drained())


def _is_drained(state: State) -> bool:
    """Whether nothing is left here that anybody living waits for. Results of dead clients go to disk."""
    return (
        not state.busy
        and not any(computation.open or computation.untold for computation in state.computations.values())
        and not any(client.batches and not client.is_dead for client in state.clients.values())
    )


def recall_ahead(state: State, out: Outbox) -> None:
    """Fewer CPUs are to be used: nothing starts behind what runs now."""
    _recall_others(state, out, None)


def workers_max(cpus: int) -> int:
    """Workers of one computation that may exist at once: one per CPU, and some that are on their way out."""
    return 2 * cpus + 8


def _has_room(state: State, computation: Computation) -> bool:
    """Whether one more of its jobs may run, and there is a worker for it or a place for one.

    Workers that retire keep their places to their end.
    """
    client = computation.client
    return (
        state.busy < state.cpus
        and client.busy < client.cpus_max
        and (bool(computation.idle) or _has_place(state, computation))
    )


def _has_place(state: State, computation: Computation) -> bool:
    return len(computation.workers) < workers_max(state.cpus) and computation.stillborn <= STILLBORN_MAX


def _idle_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    return computation.idle.popitem()[1] if computation.idle else _new_worker(state, out, computation)


def _new_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    worker = Worker(WorkerId(state.next_worker), computation)
    state.next_worker += 1
    state.workers[worker.id] = computation.workers[worker.id] = worker
    out.append(ForkWorker(computation.key, worker.id))
    return worker


def _offer(state: State, out: Outbox, computation: Computation, worker: Worker, now: Seconds) -> None:
    jobs = _next_jobs(state, computation)
    record = Record(state.next_record, jobs, is_any_watched(computation, jobs))
    state.next_record += 1
    if not worker.records:
        occupy(state, worker, now)
        computation.idle.pop(worker.id, None)
        computation.single[worker.id] = worker
    else:
        computation.single.pop(worker.id, None)
    worker.records.append(record)
    out.append(Offer(worker.id, record))


def _next_jobs(state: State, computation: Computation) -> list[Job]:
    """Take the next jobs off the queue: one, or as many known-short ones as fill a record."""
    ready = computation.ready
    count = _record_jobs(state, computation)
    if count == 1 or ready[0].number in computation.filed:
        return [ready.popleft()]
    jobs: list[Job] = []
    size = 0
    while ready and len(jobs) < count:
        size += len(ready[0].payload) + _JOB_OVERHEAD
        if jobs and (size > RECORD_BYTES_MAX or ready[0].number in computation.filed):
            break
        jobs.append(ready.popleft())
    return jobs


def _record_jobs(state: State, computation: Computation) -> int:
    share = len(computation.ready) // (2 * state.cpus)
    if share <= 1 or not computation.sampled:
        return 1
    count = RECORD_US // computation.runtimes.expected_us(RECORD_US)
    if count <= 1:
        return 1
    return max(1, min(count, share, computation.sampled, RECORD_JOBS_MAX))


def _look_ahead(state: State, out: Outbox, computation: Computation, now: Seconds) -> None:
    """Give each busy worker one more record, so that it does not wait for us between two."""
    client = computation.client
    is_above = state.busy > state.cpus or client.busy > client.cpus_max
    if is_above or client.is_dead or not computation.sampled:
        return
    if computation.filed:
        # Their files are there while they run, and not before.
        return
    single = computation.single
    for worker in list(single.values()):
        if not computation.ready:
            return
        if not worker.is_killed and not worker.interrupted and not worker.cut:
            _offer(state, out, computation, worker, now)


def _recall_for_idle(state: State, out: Outbox) -> None:
    """Somebody is idle and nothing is ready: what lies behind a running record is wanted back."""
    for computation in state.computations.values():
        client = computation.client
        _recall_of(state, out, computation, min(state.cpus - state.busy, client.cpus_max - client.busy))


def _recall_others(state: State, out: Outbox, except_for: Computation | None) -> None:
    """Somebody else waits: nobody else keeps a second record."""
    for computation in state.computations.values():
        if computation is not except_for:
            _recall_of(state, out, computation, len(computation.workers))


def _recall_of(state: State, out: Outbox, computation: Computation, most: int) -> None:
    if computation.busy == len(computation.single):
        return
    for worker in computation.workers.values():
        if most > 0 and len(worker.records) > 1 and worker.kept != worker.records[1].record:
            out.append(Recall(worker.id))
            most -= 1
