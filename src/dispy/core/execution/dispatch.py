"""Dispatch: which jobs a free CPU gets, how many go into a record, and when a second record waits behind it.

A *record* is a batch of jobs for one worker; a CPU is busy while a worker has a record. ``fair_shares`` says which
computation a free CPU goes to. Only a computation that has the node to itself gets a second record for each busy
worker, so that no worker is idle between two records. Second records are recalled as soon as a CPU is free for their
jobs or another computation waits.

A worker stays when it has no jobs, so that the next ones find it. Beyond a number for the whole node those end that
have been idle for long: without that, a node with a hundred open clusters would have a hundred processes per CPU.
"""

from __future__ import annotations

from heapq import nsmallest
from itertools import islice

from dispy.core.execution.actions import Drained, EndWorker, ForkWorker, Offer, Outbox, Recall
from dispy.core.execution.fair_shares import (
    admit_exclusive,
    may_start,
    next_in_turn,
    occupy,
    some_waiting,
)
from dispy.core.execution.ids import Seconds, WorkerId
from dispy.core.execution.jobs import return_ready, return_staging
from dispy.core.execution.live_output import is_any_watched
from dispy.core.execution.state import RECORD_US, Computation, Line, State, Status, Worker
from dispy.protocol.node import Job
from dispy.protocol.worker import RECORD_BYTES_MAX, RECORD_JOBS_MAX, Record

STILLBORN_MAX = 10
"""Number of workers in a row that may end before they begin a job, while none finishes one. After more, no worker is
forked, and once none is busy the computation is given up: further ones would most likely end the same way."""

IDLE_LOOK_S = 1.0
"""Time from one look for workers that have been idle for too long to the next (seconds). A node without running jobs
ticks once a second, too."""

_JOB_OVERHEAD = 32
"""Bytes that a job takes in a record beside its payload (number, attempt, lengths), about. Counted towards
``RECORD_BYTES_MAX``, the limit of a record's size."""


def settle(state: State, out: Outbox, now: Seconds) -> None:
    """Put every free CPU to work. Called after each event, so that no ready job waits while a CPU is free for it."""
    if state.is_restricted:
        _hold_back(state, out, now)
    line, waiting = _waiting(state)
    if not waiting:
        if state.ahead and len(state.running) < state.cpus:
            _recall_for_idle(state, out)
    elif len(waiting) > 1:
        _recall_others(state, out, None)
        if len(state.running) < state.cpus:
            _serve(state, out, line, now)
    else:
        computation = waiting[0]
        while computation.ready and _has_room(state, computation):
            _offer(state, out, computation, _idle_worker(state, out, computation), now)
        if computation.ready and len(state.running) == computation.busy:
            _look_ahead(state, out, computation, now)
        elif computation.ready:
            _recall_others(state, out, computation)
        elif state.ahead and len(state.running) < state.cpus:
            _recall_for_idle(state, out)
    if state.orphans.computations and line is state.living and not state.exclusive:
        # What living clients may not use, for their limits, or do not need is for the jobs of dead ones.
        _serve(state, out, state.orphans, now)


def _waiting(state: State) -> tuple[Line, list[Computation]]:
    """Returns two of the computations that may start jobs now and have some ready, or the only one, or none; and the
    line in which they all are."""
    if state.exclusive and not state.is_draining:
        first = state.exclusive[0]
        is_waiting = state.has_node and first.ready and first.status is Status.READY
        return state.living, [first] if is_waiting else []
    if state.living.computations and not state.is_draining:
        waiting = some_waiting(state.living)
        if waiting:
            return state.living, waiting
    # Computations of dead clients get only the CPUs that no other wants.
    return state.orphans, some_waiting(state.orphans)


def _serve(state: State, out: Outbox, line: Line, now: Seconds) -> None:
    """Give each free CPU to the computation in a line whose turn it is then; those without room are passed over."""
    full = []
    crowded = []
    while len(state.running) < state.cpus:
        computation = next_in_turn(line)
        if computation is None:
            break
        client = computation.client
        if client.busy >= client.cpus_max:
            full.append(client)
            line.clients.discard(client)
        elif not computation.idle and not _has_place(state, computation):
            crowded.append(computation)
            client.turns.discard(computation)
        else:
            _offer(state, out, computation, _idle_worker(state, out, computation), now)
    for computation in crowded:
        computation.client.turns.add(computation)
        line.clients.add(computation.client)
    for client in full:
        line.clients.add(client)


def _hold_back(state: State, out: Outbox, now: Seconds) -> None:
    """Give back waiting jobs that may not start here: their clients may have other nodes, which run them sooner.

    Called at each event while some computation may not start jobs (``State.is_restricted``). Jobs of clients that are
    not connected stay. Also admits the next exclusive computation, and issues ``Drained`` when draining is done.
    """
    if state.exclusive and not state.is_draining:
        admit_exclusive(state, out, now)
    moved = state.returning if state.is_swept else state.computations
    for computation in moved.values():
        if not may_start(state, computation):
            _recall_of(state, out, computation, len(computation.double))
            # A client that is away cannot take them.
            if computation.ready and computation.client.is_connected:
                return_ready(out, computation)
            if computation.staging and computation.client.is_connected and state.is_draining:
                return_staging(out, computation)
    state.is_swept = True
    state.returning.clear()
    if state.is_draining and not state.running and _is_drained(state):
        out.append(Drained())


def _is_drained(state: State) -> bool:
    """True if no job is open, and no living client has results that it has not acknowledged. No job may be running.

    Results of dead clients go to disk, from where the next incarnation takes them.
    """
    return (
        not any(computation.open for computation in state.active.values())
        and not any(computation.untold for computation in state.unflushed.values())
        and not any(client.sent.kept and not client.is_dead for client in state.clients.values())
    )


def recall_ahead(state: State, out: Outbox) -> None:
    """Recall all second records: fewer CPUs are to be used, so no job starts behind those that run now.

    Called when the number of CPUs or a client's limit has changed, draining begins, or a client is dead. The jobs of
    these records return to ``ready``.
    """
    _recall_others(state, out, None)


def workers_max(cpus: int) -> int:
    """Returns how many workers of a computation may exist at once on a node of ``cpus`` CPUs.

    More than CPUs, as some workers are about to end. With that many, no worker is forked until one has ended. As many
    workers of all computations together may be idle for longer than ``State.idle_s`` (``end_idle``).
    """
    return 2 * cpus + 8


def end_idle(state: State, out: Outbox, now: Seconds) -> None:
    """End workers that have been idle for ``State.idle_s``, as long as more than ``workers_max`` workers are idle on
    the node. Call at the ticks from ``State.idle_at`` on.

    Those end first that have been idle for longest. The workers of computations that call ``setup`` in each of them
    are the last, since another one would have to call it again, which may take minutes; they end only where idle
    workers of other computations are too few to make up for them, however short these have been idle.
    """
    state.idle_at = now + IDLE_LOOK_S
    most = workers_max(state.cpus)
    if len(state.workers) - len(state.running) <= most:
        return
    cheap: list[Worker] = []
    costly: list[Worker] = []
    for computation in state.computations.values():
        (costly if computation.spec.setup_per_worker else cheap).extend(computation.idle.values())
    excess = len(cheap) + len(costly) - most
    for idle, count in ((cheap, excess), (costly, excess - len(cheap))):
        old = [worker for worker in idle if now - worker.since >= state.idle_s]
        for worker in nsmallest(count, old, key=lambda worker: worker.since):
            del worker.computation.idle[worker.id]
            worker.is_killed = True
            out.append(EndWorker(worker.id))


def _has_room(state: State, computation: Computation) -> bool:
    """True if one more job of a computation may run, and there is a worker for it: an idle one, or one to be forked.

    A job may run while a CPU is free and the client uses fewer CPUs than its limit (``Client.cpus_max``).
    """
    client = computation.client
    return (
        len(state.running) < state.cpus
        and client.busy < client.cpus_max
        and (bool(computation.idle) or _has_place(state, computation))
    )


def _has_place(state: State, computation: Computation) -> bool:
    """True if one more worker of a computation may be forked: it has fewer than ``workers_max``, those that are about
    to end included, and at most ``STILLBORN_MAX`` in a row ended before they began a job."""
    return len(computation.workers) < workers_max(state.cpus) and computation.stillborn <= STILLBORN_MAX


def _idle_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    """Returns an idle worker, taken out of ``Computation.idle``, or a new one. ``_has_room`` must hold."""
    return computation.idle.popitem()[1] if computation.idle else _new_worker(state, out, computation)


def _new_worker(state: State, out: Outbox, computation: Computation) -> Worker:
    """Have the host of a computation fork a worker; returns the new worker, which is neither idle nor busy yet."""
    worker = Worker(WorkerId(state.next_worker), computation)
    state.next_worker += 1
    state.workers[worker.id] = computation.workers[worker.id] = worker
    out.append(ForkWorker(computation.key, worker.id))
    return worker


def _offer(state: State, out: Outbox, computation: Computation, worker: Worker, now: Seconds) -> None:
    """Offer a worker a record with the next ready jobs of its computation, of which there must be at least one.

    A worker that had no record uses a CPU from now on, and moves from ``idle`` to ``single``; one that had a record
    leaves ``single``. The worker must have at most one record before.
    """
    jobs = _next_jobs(state, computation)
    record = Record(state.next_record, jobs, is_any_watched(computation, jobs))
    state.next_record += 1
    if not worker.records:
        occupy(state, worker, now)
        computation.idle.pop(worker.id, None)
        computation.single[worker.id] = worker
    else:
        computation.single.pop(worker.id, None)
        computation.double[worker.id] = worker
        state.ahead[computation.key] = computation
    worker.records.append(record)
    out.append(Offer(worker.id, record))


def _next_jobs(state: State, computation: Computation) -> list[Job]:
    """Take the jobs of the next record off the front of ``ready``, which must not be empty: one, or several if short.

    Returns these jobs in the order in which they are to run. A record has at most ``RECORD_BYTES_MAX`` bytes, unless
    its only job has more. A job that brings files is alone in its record.
    """
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
    """Returns the number of jobs for the next record, at least 1: about ``RECORD_US`` of work, but no more than half
    of each CPU's share of ``ready``, and no more than jobs whose run time was measured so far (``sampled``)."""
    share = len(computation.ready) // (2 * state.cpus)
    if share <= 1 or not computation.sampled:
        return 1
    count = RECORD_US // computation.runtimes.expected_us(RECORD_US)
    if count <= 1:
        return 1
    return max(1, min(count, share, computation.sampled, RECORD_JOBS_MAX))


def _look_ahead(state: State, out: Outbox, computation: Computation, now: Seconds) -> None:
    """Give each busy worker of a computation a second record (batch of jobs), so that it is not idle between two.

    Does nothing if more CPUs are busy than allowed, the client is dead, no run time of a job is known, or jobs bring
    files. Workers that are being killed, or whose record was cut, get none.
    """
    client = computation.client
    is_above = len(state.running) > state.cpus or client.busy > client.cpus_max
    if is_above or client.is_dead or not computation.sampled:
        return
    if computation.filed:
        # Files of a job are in place while it runs, and not before.
        return
    single = computation.single
    for worker in list(single.values()):
        if not computation.ready:
            return
        if not worker.is_killed and not worker.interrupted and not worker.cut:
            _offer(state, out, computation, worker, now)


def _recall_for_idle(state: State, out: Outbox) -> None:
    """Recall second records, so that idle CPUs run their jobs: these return to ``ready`` when ``Recalled`` comes.

    Recalls from each computation at most as many records as CPUs are idle, and as its client may use further CPUs.
    Called when a CPU is free and no job is ready for it.
    """
    for computation in list(state.ahead.values()):
        client = computation.client
        free = state.cpus - len(state.running)
        _recall_of(state, out, computation, min(free, client.cpus_max - client.busy))


def _recall_others(state: State, out: Outbox, except_for: Computation | None) -> None:
    """Recall the second records of all computations except ``except_for`` (None: of all), so that the next CPU that
    becomes free goes to a job of a computation that waits."""
    for computation in list(state.ahead.values()) if state.ahead else ():
        if computation is not except_for:
            _recall_of(state, out, computation, len(computation.double))


def _recall_of(state: State, out: Outbox, computation: Computation, most: int) -> None:
    """Recall up to ``most`` second records of a computation, so that their jobs return to ``ready`` (``Recalled``).

    The oldest are recalled, and of these the newest first, so that their jobs are in their order again. Records that
    an earlier recall has found taken by their worker are not recalled again (``Computation.double``).
    """
    if not computation.double:
        state.ahead.pop(computation.key, None)
    elif most > 0:
        oldest = list(islice(computation.double, most))
        out.extend(Recall(worker) for worker in reversed(oldest))
