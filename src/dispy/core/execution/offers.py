"""Which computation gets a free CPU, which of its jobs go into a record, and who waits behind whom.

A CPU is busy while a worker has a record. A free one goes to the waiting computation that has had
the least CPU time. Only a computation that has the node to itself gets a second record per busy
worker, so that none of them waits for us between two jobs; it is recalled as soon as another
worker is idle or another computation waits.
"""

from __future__ import annotations

from dispy.core.execution.printing import is_any_watched
from dispy.core.execution.state import (
    Computation,
    ForkWorker,
    Offer,
    Outbox,
    Recall,
    State,
    Status,
    Tell,
    Worker,
    WorkerId,
)
from dispy.protocol.node import Credit, Job
from dispy.protocol.worker import RECORD_BYTES_MAX, RECORD_JOBS_MAX, Record

RECORD_US = 4000
"""Known-short jobs put together into one record (microseconds): what one of them waits behind the
others, and forty times what a packet costs in all."""

BACKLOG_US = 50_000
"""Work that a node holds beyond its running jobs (microseconds): a scheduler that shares its
interpreter with a busy program comes to speak every 5 to 20 ms."""

BACKLOG_MAX = 4096
"""Most jobs held so: what 50 ms takes of the shortest."""

_JOB_OVERHEAD = 32  # bytes of a job in a record beside its payload


def settle(state: State, out: Outbox) -> None:
    """Put every free CPU to work."""
    waiting = [c for c in state.computations.values() if c.ready and c.status is Status.READY]
    if not waiting:
        if state.busy < state.cpus:
            _recall_for_idle(state, out)
        return
    if len(waiting) == 1:
        computation = waiting[0]
        while state.busy < state.cpus and computation.ready and _has_worker(state, computation):
            _offer(state, out, computation, _idle_worker(state, out, computation))
        if computation.ready and state.busy == len(computation.workers) - len(computation.idle):
            _look_ahead(state, out, computation)
        elif computation.ready:
            _recall_others(state, out, computation)
        elif state.busy < state.cpus:
            _recall_for_idle(state, out)
        return
    _recall_others(state, out, None)
    while state.busy < state.cpus and waiting:
        computation = min(waiting, key=_virtual_time)
        if not _has_worker(state, computation):
            waiting.remove(computation)
            continue
        _offer(state, out, computation, _idle_worker(state, out, computation))
        if not computation.ready:
            waiting.remove(computation)
        else:
            # Charged ahead so that CPUs freed together are shared; corrected by the results.
            computation.vtime += 1e-6


def workers_max(cpus: int) -> int:
    """Workers of one computation that may exist at once: one per CPU, and some that are on their way out."""
    return 2 * cpus + 8


def _has_worker(state: State, computation: Computation) -> bool:
    """Whether there is an idle worker, or a place for one: those that retire keep theirs to their end."""
    return bool(computation.idle) or len(computation.workers) < workers_max(state.cpus)


def _virtual_time(computation: Computation) -> float:
    return computation.vtime


def tell_credit(state: State, out: Outbox, computation: Computation) -> None:
    """Tell the scheduler how many jobs it may have here, if that has changed enough to matter."""
    if computation.status is not Status.READY:
        return
    runtimes = computation.runtimes
    if computation.sampled:
        backlog = max(state.cpus, state.cpus * BACKLOG_US // runtimes.expected_us(RECORD_US))
        backlog = min(backlog, BACKLOG_MAX, 4 * computation.sampled)
    else:
        backlog = 0
    slots, told = computation.credit
    if slots != state.cpus or backlog > told or backlog * 2 < told:
        # Grows at once, shrinks by halves: the quantile of a steady function wavers by a factor of two.
        computation.credit = (state.cpus, backlog)
        out.append(Tell(computation.client.id, Credit(computation.key[1], state.cpus, backlog)))


def _idle_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    return computation.idle.popitem()[1] if computation.idle else _new_worker(state, out, computation)


def _new_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    worker = Worker(WorkerId(state.next_worker), computation)
    state.next_worker += 1
    state.workers[worker.id] = computation.workers[worker.id] = worker
    out.append(ForkWorker(computation.key, worker.id))
    return worker


def _offer(state: State, out: Outbox, computation: Computation, worker: Worker) -> None:
    jobs = _next_jobs(state, computation)
    record = Record(state.next_record, jobs, is_any_watched(computation, jobs))
    state.next_record += 1
    if not worker.records:
        state.busy += 1
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
    if count == 1:
        return [ready.popleft()]
    jobs: list[Job] = []
    size = 0
    while ready and len(jobs) < count:
        size += len(ready[0].payload) + _JOB_OVERHEAD
        if size > RECORD_BYTES_MAX and jobs:
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


def _look_ahead(state: State, out: Outbox, computation: Computation) -> None:
    """Give each busy worker one more record, so that it does not wait for us between two."""
    if not computation.sampled or state.busy > state.cpus:
        return
    single = computation.single
    for worker in list(single.values()):
        if not computation.ready:
            return
        if not worker.is_killed and not worker.interrupted and not worker.cut:
            _offer(state, out, computation, worker)


def _recall_for_idle(state: State, out: Outbox) -> None:
    """Somebody is idle and nothing is ready: what lies behind a running record is wanted back."""
    for computation in state.computations.values():
        _recall_of(state, out, computation, state.cpus - state.busy)


def _recall_others(state: State, out: Outbox, except_for: Computation | None) -> None:
    """Somebody else waits: nobody else keeps a second record."""
    for computation in state.computations.values():
        if computation is not except_for:
            _recall_of(state, out, computation, state.cpus)


def _recall_of(state: State, out: Outbox, computation: Computation, most: int) -> None:
    busy = len(computation.workers) - len(computation.idle)
    if busy == len(computation.single):
        return
    for worker in computation.workers.values():
        if most > 0 and len(worker.records) > 1 and worker.kept != worker.records[1].record:
            out.append(Recall(worker.id))
            most -= 1
