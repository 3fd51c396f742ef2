"""How jobs start, run again and end for the program: reports of nodes, and ends that no node reports.

Theory of operation. Reports come on the engine's loop. Results that are plain values stay pickled until the program
asks for them. A result that needs the user's code to be rebuilt is loaded on the loader's thread, so that the loop
never runs that code; so is an end that comes behind a provisional result, to keep their order. Callbacks run on a
third thread. ``_status_guard`` is held to set a status, as any thread may cancel at the same time.

Statuses are numbers; those below Cancelled are Created, Running and ProvisionalResult.

    status          | event                   | next status          | callbacks
    Created         | ``on_started``          | Running              | cluster_status
    below Cancelled | ``on_requeued``         | Created              | none
    below Cancelled | ``on_value``            | ProvisionalResult    | job_status, cluster_status
    below Cancelled | the program cancels     | Cancelled, not final | none
    any             | ``on_ended``            | as the node reports  | job_status unless Abandoned, cluster_status
    any             | ``on_ended_here``       | as given             | job_status unless Abandoned, cluster_status

A job that is Cancelled and not final keeps that status while reports come, until its end. ``on_ended`` and
``on_ended_here`` make a job final: it leaves ``cluster._jobs``, threads that wait for it are woken, then callbacks
are queued. A chunk of a map goes the same way, but gives its end to the map instead and has no callbacks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.job import (
    ABANDONED,
    CANCELLED,
    CREATED,
    FINISHED,
    PROVISIONAL_RESULT,
    RUNNING,
    TERMINATED,
    DispyJob,
)
from dispy.client.map.chunk_job import Chunk
from dispy.errors import NotPlainError
from dispy.protocol.node import AcknowledgeProvisional, Ended, Provisional, Started

if TYPE_CHECKING:
    from dispy.client.nodes import DispyNode
    from dispy.client.session.state import ClusterState
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")

# Reports of nodes.


def on_started(cluster: ClusterState, started: list[Started], info: NodeInfo) -> None:
    """Take a node's report that jobs are running: set address and start time, tell ``cluster_status``. On the loop.

    Jobs that are ``Created`` become ``Running``. Ended jobs are skipped; cancelled jobs keep their status.
    """
    shown = cluster._dispy_nodes.get(info.node)
    told = []
    for item in started:
        job = cluster._jobs.get(item.number)
        if job is None:
            continue
        job.ip_addr = info.ip_addr
        job.start_time = item.start
        with cluster._status_guard:
            is_news = job._status == CREATED
            if is_news:
                job._status = RUNNING
        if is_news and type(job) is not Chunk:
            told.append((RUNNING, shown, job))
    if cluster.cluster_status is not None and told:
        cluster._engine.callbacks.call(cluster.cluster_status, told)


def on_requeued(cluster: ClusterState, numbers: list[int]) -> None:
    """Reset jobs, by number, that are in the scheduler's queue again: ``Created``, no address, no start time.

    That happens if their node is lost, if it gives them back before they start, or if their process dies and they may
    run again. On the loop. Cancelled jobs keep their status; no callback is called.
    """
    for number in numbers:
        job = cluster._jobs.get(number)
        if job is not None:
            with cluster._status_guard:
                if job._status < CANCELLED:
                    job._status = CREATED
            job.ip_addr = job.start_time = None


def on_value(cluster: ClusterState, value: Provisional, info: NodeInfo) -> None:
    """Take a provisional result, let its job go on, and have the loader's thread unpickle it. On the loop.

    A part of a file that a job sends comes this way, too, and goes to ``received_files``. Results of ended jobs are
    dropped.
    """
    job = cluster._jobs.get(value.number)
    if value.file is not None:
        cluster._engine.take_part(cluster, value, info.node)
        return
    told = AcknowledgeProvisional(value.computation, value.number, value.attempt, value.serial)
    cluster._engine.answer_value(info.node, told)
    if job is None or type(job) is Chunk:
        return
    cluster._loading[value.number] = cluster._loading.get(value.number, 0) + 1
    cluster._engine.loader.call(_load_value, [(cluster, job, value.payload, info)])


def _load_value(cluster: ClusterState, job: DispyJob, data: bytes, info: NodeInfo) -> None:
    """Unpickle a provisional result, set it in the job, and queue the callbacks with a copy of the job as it is now.

    On the loader's thread. Callbacks get a copy, as the job may have another result before they run. If unpickling
    raises, or the result is not plain and has to be, that is logged, the job stays as it was, and no callback is
    called.
    """
    try:
        result = payload.load(payload.PlainOnly(data) if cluster._is_plain else data)
    except NotPlainError as error:
        logger.warning(
            "a provisional result of job %r of cluster %s is dropped: %s", job.id, cluster.name, error
        )
        return
    job.ip_addr = info.ip_addr
    with cluster._status_guard:
        if job._status < CANCELLED:
            job._status = PROVISIONAL_RESULT
    job.result = result
    shot = job._snapshot()
    shot._status = PROVISIONAL_RESULT
    if cluster.job_status is not None:
        cluster._engine.callbacks.call(cluster.job_status, [(shot,)])
    cluster._tell(PROVISIONAL_RESULT, cluster._dispy_nodes.get(info.node), shot)


def on_ended(cluster: ClusterState, ended: list[Ended], info: NodeInfo) -> None:
    """Take a node's report of ended jobs: set their attributes, wake waiting threads, queue callbacks. On the loop.

    Each job takes this path. Results that need the user's code, and jobs with provisional results, go to the loader
    instead (``_load_ended``), as do all jobs of a cluster that takes plain data only: whether a result is plain is
    known when it has been read. Unknown numbers are skipped; chunks go to ``_finish_chunks``.
    """
    jobs = cluster._jobs
    stays_pickled = _never if cluster._is_plain else payload.is_plain
    if cluster._watching.is_active:
        cluster._watching.on_ended(jobs, ended)
    ip_addr = info.ip_addr
    done = []
    chunks: list[tuple[Chunk, Ended]] = []
    seconds = 0.0
    with cluster._status_guard:
        for item in ended:
            job = jobs.get(item.number)
            if job is None:
                continue
            if type(job) is Chunk:
                chunks.append((job, item))
                continue
            if item.number in cluster._loading or not stays_pickled(item.payload):
                cluster._loading.pop(item.number, None)
                cluster._ended.add(item.number)
                cluster._engine.loader.call(_load_ended, [(cluster, job, item, info)])
                continue
            seconds += item.end - item.start
            if item.status == FINISHED:
                job.ip_addr = ip_addr
                job.start_time = item.start
                job.end_time = item.end
                job._stdout = item.stdout
                job._stderr = item.stderr
                job._value = item.payload
                job._is_encoded = True
                job._status = FINISHED
            else:
                _fill(cluster, job, item, info)
            done.append(job)
    if chunks:
        _finish_chunks(cluster, chunks, info)
    if done or not chunks:
        _finish(cluster, done, seconds, info)


def _never(data: object) -> bool:
    """Stand in for ``payload.is_plain``: no result waits until the program asks for it."""
    return False


def _finish_chunks(cluster: ClusterState, chunks: list[tuple[Chunk, Ended]], info: NodeInfo) -> None:
    """Give chunks of maps, each with its report, to their maps; count their calls in ``jobs_done``. On the loop.

    The thread that iterates over a map unpickles the results, so the loop runs no user code. A chunk that failed
    counts as one failed job.
    """
    calls = 0
    seconds = 0.0
    for chunk, item in chunks:
        del cluster._jobs[item.number]
        cluster._held.pop(item.number, None)
        if item.status == TERMINATED and item.ran and item.reason != "cancelled":
            cluster._tally.failed += 1
            _count_failed(cluster, info)
        calls += chunk.end(item)
        seconds += item.end - item.start
    _count(cluster, calls, seconds, info)


def _load_ended(cluster: ClusterState, job: DispyJob, item: Ended, info: NodeInfo) -> None:
    """Take the end of one job, and rebuild its result with the user's code. On the loader's thread.

    If rebuilding raises, the job is ``Terminated`` with the error as its reason. Does nothing if ``on_ended_here``
    has ended the job meanwhile, as its cluster was closed.
    """
    value: Any = None
    if item.status == FINISHED:
        try:
            value = payload.load(payload.PlainOnly(item.payload) if cluster._is_plain else item.payload)
        except NotPlainError as error:
            item.status = TERMINATED
            item.reason = f"the job's result is not taken: {error}"
            item.payload = b""
        except BaseException as error:
            item.status = TERMINATED
            item.reason = f"the job's result cannot be rebuilt here: {type(error).__name__}: {error}"
            item.payload = b""
    # A thread that waits for all jobs, as in ``close``, must go on only when the callbacks have been queued, and one
    # that waits for this job only when it has been counted. On the loop both come after the whole batch in any case.
    with cluster._idle, cluster._status_guard:
        cluster._ended.discard(item.number)
        if cluster._jobs.pop(item.number, None) is not job:
            return  # ended by ``on_ended_here`` meanwhile
        _fill(cluster, job, item, info)
        if item.status == FINISHED:
            job.result = value
        job._is_final = True
        cluster._held.pop(item.number, None)
        cluster._tally.ended += 1
        _call_back(cluster, [job], _count(cluster, 1, item.end - item.start, info))
    if job._waiter is not None:
        job._wake()


def _fill(cluster: ClusterState, job: DispyJob, item: Ended, info: NodeInfo) -> None:
    """Set a job's attributes by the report of its end, except the result of a finished job, and count its failure.

    The caller sets the result. Failures are counted in ``ClusterState._tally``, for the status table and the warning
    at the end of the program.

    The caller holds ``_status_guard``, and makes the job final then. Address, times and output of a job that did not
    run stay as they are.
    """
    if item.ran:
        job.ip_addr = info.ip_addr
        job.start_time = item.start
        job.end_time = item.end
    was_cancelled = job._status == CANCELLED
    job._status = item.status
    if item.status == FINISHED:
        job._stdout = item.stdout
        job._stderr = item.stderr
        return
    if was_cancelled or item.status == CANCELLED or item.reason == "cancelled":
        cluster._tally.cancelled += 1
    else:
        cluster._tally.add(item.status, item.reason, is_wanted=cluster._is_ending)
        _count_failed(cluster, info)
    job.result = None
    job._exception = item.reason or None
    job._error = payload.PlainOnly(item.payload) if cluster._is_plain else item.payload
    if item.ran and item.reason != "cancelled":
        job._stdout = item.stdout
        job._stderr = item.stderr


def _count_failed(cluster: ClusterState, info: NodeInfo) -> None:
    """Count a failed job in ``jobs_failed`` of its ``DispyNode``, if the cluster uses the node."""
    shown = cluster._dispy_nodes.get(info.node)
    if shown is not None:
        shown.jobs_failed += 1


def _finish(cluster: ClusterState, done: list[DispyJob], seconds: float, info: NodeInfo) -> None:
    """Make jobs final whose attributes are set: wake waiting threads, count the jobs, queue callbacks. On the loop.

    References to put objects, and holders of files, that were kept for these jobs are let go.

    Args:
        cluster: Cluster of the jobs.
        done: The jobs; all are in ``cluster._jobs``, and are removed there.
        seconds: Sum of their run times (seconds).
        info: Node that ran them.
    """
    jobs = cluster._jobs
    cluster._tally.ended += len(done)
    for job in done:
        del jobs[job._number]
        job._is_final = True
        if job._waiter is not None:
            job._wake()
    if cluster._held:
        for job in done:
            cluster._held.pop(job._number, None)
    _call_back(cluster, done, _count(cluster, len(done), seconds, info))


# Ends without a node.


def on_ended_here(cluster: ClusterState, numbers: Collection[int], status: int, reason: str) -> None:
    """End jobs without a report of a node, and make them final. On the loop.

    Such jobs were cancelled while they waited, lost with their node, or can run on no node; or their cluster closes.

    Args:
        cluster: Cluster of the jobs.
        numbers: Numbers of jobs and chunks of maps; ended and unknown ones are skipped.
        status: Final status of all of them.
        reason: Text for ``exception`` of all of them.
    """
    if cluster._watching.is_active:
        ends = [Ended(n, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for n in numbers]
        cluster._watching.on_ended(cluster._jobs, ends)
    held = cluster._held
    for number in numbers if held else ():
        held.pop(number, None)
    pop = cluster._jobs.pop
    done = []
    chunks: list[tuple[Chunk, Ended]] = []
    waited_for = []
    tally = cluster._tally
    is_wanted = cluster._is_ending or cluster._is_closed
    with cluster._status_guard:
        for number in numbers:
            job = pop(number, None)
            if job is None:
                continue
            if type(job) is Chunk:
                ended = Ended(number, 0, status, 0.0, 0.0, b"", reason=reason, ran=False)
                chunks.append((job, ended))
                continue
            if CANCELLED in (status, job._status):
                tally.cancelled += 1
            else:
                tally.add(status, reason, is_wanted=is_wanted)
            job._status = status
            job._value = None
            job._is_encoded = False
            job._exception = reason
            job._error = b""
            job._is_final = True
            if job._waiter is not None:
                waited_for.append(job)
            done.append(job)
    for job in waited_for:
        job._wake()
    tally.ended += len(done)
    calls = sum([chunk.end(ended) for chunk, ended in chunks])
    _count(cluster, calls + len(done), 0.0, None)
    _call_back(cluster, done, None)


def give_up_jobs(cluster: ClusterState) -> None:
    """End all unfinished jobs as ``Abandoned``, as the cluster is closed and does not wait for nodes; on the loop."""
    on_ended_here(cluster, list(cluster._jobs), ABANDONED, "the cluster was closed")


# Callbacks and counts.


def _call_back(cluster: ClusterState, done: list[DispyJob], shown: DispyNode | None) -> None:
    """Queue the user's callbacks for jobs that have ended: for each job ``job_status``, then ``cluster_status``.

    ``job_status`` is not called for abandoned jobs. ``shown`` is the node for ``cluster_status``; None: none.
    """
    if cluster.cluster_status is not None:
        calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        for job in done:
            if cluster.job_status is not None and job._status != ABANDONED:
                calls.append((cluster.job_status, (job,)))
            calls.append((cluster.cluster_status, (job._status, shown, job)))
        cluster._engine.callbacks.call_each(calls)
    elif cluster.job_status is not None:
        cluster._engine.callbacks.call(
            cluster.job_status, [(job,) for job in done if job._status != ABANDONED]
        )


def _count(cluster: ClusterState, calls: int, seconds: float, info: NodeInfo | None) -> DispyNode | None:
    """Count ended calls and their times for cluster and node; wake threads that wait for the end of jobs.

    The threads wait until no job of the cluster is unfinished, or until fewer than ``max_queued`` are.

    Args:
        cluster: Cluster of the jobs.
        calls: Number of calls of the user's function: one for a job, one for each item of a chunk that was run.
        seconds: Sum of their run times (seconds).
        info: Node that ran them; None: none did.

    Returns:
        The ``DispyNode`` of ``info``, for callbacks; None if ``info`` is None, or the node is not in use any more.
    """
    shown = cluster._dispy_nodes.get(info.node) if info is not None else None
    with cluster._idle:
        cluster.cpu_time += seconds
        cluster._ends += 1
        if shown is not None:
            shown.jobs_done += calls
            shown.cpu_time += seconds
            shown._touch()
        if not cluster._jobs:
            cluster.end_time = time.time()
            cluster._idle.notify_all()
        elif cluster._room_waiters and len(cluster._jobs) < cluster._queued_max:
            cluster._idle.notify_all()
    return shown
