"""How jobs run and end: cancelled by the program, told of by nodes, given up here.

What nodes say comes on the engine's loop. Results that need the user's code to be rebuilt are loaded on a thread of
their own; callbacks have another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.arguments import describe
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
from dispy.client.session.submission import take_inbox
from dispy.core import scheduling as core
from dispy.errors import UsageError
from dispy.protocol.node import Ended, Provisional, Started

if TYPE_CHECKING:
    from dispy.client.nodes import DispyNode
    from dispy.client.session.state import ClusterState
    from dispy.scheduler.link import NodeInfo

JOBS_ARE = "jobs are what submit returns"

# Cancelled by the program.


def cancel_several(cluster: ClusterState, jobs: Iterable[DispyJob]) -> int:
    """Cancel several; on any thread.

    Returns:
        0 if all are (being) cancelled, -1 if some had ended or are not of this cluster.

    Raises:
        UsageError: Something else than jobs.
    """
    if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes)):
        raise UsageError(f"cancel takes a job, or several, not {describe(jobs)}", hint=JOBS_ARE)
    several = list(jobs)
    for job in several:
        if not isinstance(job, DispyJob):
            raise UsageError(f"cancel takes jobs, not {describe(job)}", hint=JOBS_ARE)
    is_open = cluster._jobs.get
    left = [job for job in several if is_open(job._number) is job]
    with cluster._status_guard:
        for job in left:
            if job._status < CANCELLED:
                job._status = CANCELLED
    cluster._cancels.extend([job._number for job in left])
    post_cancels(cluster)
    return 0 if len(left) == len(several) else -1


def post_cancels(cluster: ClusterState) -> None:
    """Have cancelled what has been noted; on any thread."""
    if not cluster._has_posted_cancels:
        cluster._has_posted_cancels = True
        cluster._engine.post(_take_cancels, cluster)


def _take_cancels(cluster: ClusterState) -> None:
    """Cancel what has been asked for since the last time: the path of a million jobs."""
    cluster._has_posted_cancels = False
    popleft = cluster._cancels.popleft
    cancel_open(cluster, [popleft() for _ in range(len(cluster._cancels))])


def cancel_open(cluster: ClusterState, numbers: Iterable[int]) -> None:
    """Cancel those of these jobs that have not ended; on the loop."""
    take_inbox(cluster)
    jobs, ended = cluster._jobs, cluster._ended
    left = [number for number in numbers if number in jobs and number not in ended]
    if left:
        cluster._engine.service.handle(core.CancelJobs(cluster._number, left))


def cancel_all(cluster: ClusterState) -> None:
    """Cancel all that have not ended; on the loop."""
    cancel_open(cluster, list(cluster._jobs))


# Told of by nodes.


def on_started(cluster: ClusterState, started: list[Started], info: NodeInfo) -> None:
    """Jobs are running."""
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
    """Jobs wait again."""
    for number in numbers:
        job = cluster._jobs.get(number)
        if job is not None:
            with cluster._status_guard:
                if job._status < CANCELLED:
                    job._status = CREATED
            job.ip_addr = job.start_time = None


def on_value(cluster: ClusterState, value: Provisional, info: NodeInfo) -> None:
    """A job sent a provisional result."""
    job = cluster._jobs.get(value.number)
    if value.file is not None:
        cluster._engine.take_part(cluster, value, info.node)
        return
    if job is None or type(job) is Chunk:
        return
    cluster._loading[value.number] = cluster._loading.get(value.number, 0) + 1
    cluster._engine.loader.call(_load_value, [(cluster, job, value.payload, info)])


def _load_value(cluster: ClusterState, job: DispyJob, data: bytes, info: NodeInfo) -> None:
    """A provisional value: a snapshot of the job goes to the callbacks. On the loader's thread."""
    result = payload.load(data)
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
    """Jobs have ended: fill them in, wake those who wait, queue callbacks. On the path of every job."""
    jobs = cluster._jobs
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
            if item.number in cluster._loading or not payload.is_plain(item.payload):
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


def _finish_chunks(cluster: ClusterState, chunks: list[tuple[Chunk, Ended]], info: NodeInfo) -> None:
    """Chunks of maps have ended. What they brought is unpickled by the thread that takes it."""
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
    """The end of a job whose result needs the user's code to be rebuilt. On the loader's thread."""
    value: Any = None
    if item.status == FINISHED:
        try:
            value = payload.load(item.payload)
        except BaseException as error:
            item.status = TERMINATED
            item.reason = f"the job's result cannot be rebuilt here: {type(error).__name__}: {error}"
            item.payload = b""
    # Who waits for all jobs, as ``close`` does, goes on when the callbacks have been given to their thread; who waits
    # for this one, when it has been counted. On the loop both come after the whole batch in any case.
    with cluster._idle, cluster._status_guard:
        cluster._ended.discard(item.number)
        if cluster._jobs.pop(item.number, None) is not job:
            return  # given up meanwhile
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
    job._error = item.payload
    if item.ran and item.reason != "cancelled":
        job._stdout = item.stdout
        job._stderr = item.stderr


def _count_failed(cluster: ClusterState, info: NodeInfo) -> None:
    shown = cluster._dispy_nodes.get(info.node)
    if shown is not None:
        shown.jobs_failed += 1


def _finish(cluster: ClusterState, done: list[DispyJob], seconds: float, info: NodeInfo) -> None:
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


# With no node.


def on_ended_here(cluster: ClusterState, numbers: Collection[int], status: int, reason: str) -> None:
    """Jobs have ended with no node: were cancelled, abandoned, given up."""
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
    """What has not ended is ended here; on the loop."""
    on_ended_here(cluster, list(cluster._jobs), ABANDONED, "the cluster was closed")


# What the program sees of it.


def _call_back(cluster: ClusterState, done: list[DispyJob], shown: DispyNode | None) -> None:
    """Have the user's callbacks called for jobs that have ended."""
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
    """Calls have ended, and took so long together. Returns the node of ``info`` as it is shown."""
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
