"""How jobs start, run again and end for the program: reports of nodes, and ends that no node reports.

Theory of operation. Reports come on the engine's loop. Results that are plain values stay pickled until the program
asks for them. A result that needs the user's code to be rebuilt is loaded on the loader's thread, so that the loop
never runs that code; so is an end that comes behind a provisional result, to keep their order. Callbacks run on a
third thread. ``status_guard`` is held to set a status, as any thread may cancel at the same time.

Statuses are numbers; those below Cancelled are Created, Running and ProvisionalResult.

    status          | event                   | next status          | callbacks
    Created         | ``on_started``          | Running              | cluster_status
    below Cancelled | ``on_requeued``         | Created              | none
    below Cancelled | ``on_value``            | ProvisionalResult    | job_status, cluster_status
    below Cancelled | the program cancels     | Cancelled, not final | none
    any             | ``on_ended``            | as the node reports  | job_status unless Abandoned, cluster_status
    any             | ``on_ended_here``       | as given             | job_status unless Abandoned, cluster_status

A job that is Cancelled and not final keeps that status while reports come, until its end. ``on_ended`` and
``on_ended_here`` make a job final: it leaves ``session.jobs``, threads that wait for it are woken, then callbacks
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
    FINISHED,
    PROVISIONAL_RESULT,
    RUNNING,
    TERMINATED,
    DispyJob,
)
from dispy.client.map.chunk_job import Chunk
from dispy.errors import NotPlainError
from dispy.protocol.node import Ended, Provisional, Started

if TYPE_CHECKING:
    from dispy.client.nodes import DispyNode
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")

# Reports of nodes.


def on_started(session: Session, started: list[Started], info: NodeInfo) -> None:
    """Take a node's report that jobs are running: set address and start time, tell ``cluster_status``. On the loop.

    Jobs that are ``Created`` become ``Running``. Ended jobs are skipped; cancelled jobs keep their status.
    """
    shown = session.dispy_nodes.get(info.node)
    told = []
    for item in started:
        job = session.jobs.get(item.number)
        if job is None or type(job) is Chunk:
            continue
        with session.status_guard:
            is_news = job._begin(item.start, info.ip_addr)  # pyright: ignore[reportPrivateUsage]  # see module
        if is_news:
            told.append((RUNNING, shown, job))
    if session.cluster_status is not None and told:
        session.engine.callbacks.call(session.cluster_status, told)


def on_requeued(session: Session, numbers: list[int]) -> None:
    """Reset jobs, by number, that are in the scheduler's queue again: ``Created``, no address, no start time.

    That happens if their node is lost, if it gives them back before they start, or if their process dies and they may
    run again. On the loop. Cancelled jobs keep their status; no callback is called.
    """
    for number in numbers:
        job = session.jobs.get(number)
        if job is not None and type(job) is not Chunk:
            with session.status_guard:
                job._requeue()  # pyright: ignore[reportPrivateUsage]  # see module


def on_value(session: Session, value: Provisional, info: NodeInfo) -> None:
    """Take a provisional result, and have the loader's thread unpickle it. On the loop.

    Results of ended jobs are dropped.
    """
    job = session.jobs.get(value.number)
    if job is None or type(job) is Chunk:
        return
    session.loading[value.number] = session.loading.get(value.number, 0) + 1
    session.engine.loader.call(_load_value, [(session, job, value.payload, info)])


def _load_value(session: Session, job: DispyJob, data: bytes, info: NodeInfo) -> None:
    """Unpickle a provisional result, set it in the job, and queue the callbacks with a copy of the job as it is now.

    On the loader's thread. Callbacks get a copy, as the job may have another result before they run. If unpickling
    raises, or the result is not plain and has to be, that is logged, the job stays as it was, and no callback is
    called. Nor does anything happen if ``on_ended_here`` has ended the job meanwhile.
    """
    try:
        result = payload.load(payload.PlainOnly(data) if session.options.is_plain else data)
    except NotPlainError as error:
        logger.warning(
            "a provisional result of job %r of cluster %s is dropped: %s", job.id, session.name, error
        )
        return
    # Its callbacks are queued with the guard held: ``on_ended_here`` may end the job at the same time.
    with session.status_guard:
        if session.jobs.get(job.number) is not job:
            return
        job.ip_addr = info.ip_addr
        shot = job._provide(result)  # pyright: ignore[reportPrivateUsage]
        if session.job_status is not None:
            session.engine.callbacks.call(session.job_status, [(shot,)])
        session.tell(PROVISIONAL_RESULT, session.dispy_nodes.get(info.node), shot)


def on_ended(session: Session, ended: list[Ended], info: NodeInfo) -> None:
    """Take a node's report of ended jobs: set their attributes, wake waiting threads, queue callbacks. On the loop.

    Each job takes this path. Results that need the user's code, and jobs with provisional results, go to the loader
    instead (``_load_ended``), as do all jobs of a cluster that takes plain data only: whether a result is plain is
    known when it has been read. Unknown numbers are skipped; chunks go to ``_finish_chunks``.
    """
    jobs = session.jobs
    stays_pickled = _never if session.options.is_plain else payload.is_plain
    if session.watching.is_active:
        session.watching.on_ended(ended)
    ip_addr = info.ip_addr
    is_program = session.computation.is_program
    done = []
    chunks: list[tuple[Chunk, Ended]] = []
    seconds = 0.0
    with session.status_guard:
        for item in ended:
            job = jobs.get(item.number)
            if job is None:
                continue
            if type(job) is Chunk:
                chunks.append((job, item))
                continue
            if item.number in session.loading or not stays_pickled(item.payload):
                session.loading.pop(item.number, None)
                session.ended.add(item.number)
                session.engine.loader.call(_load_ended, [(session, job, item, info)])
                continue
            seconds += item.end - item.start
            if item.status == FINISHED:
                job._take_end(item, ip_addr, is_program=is_program)  # pyright: ignore[reportPrivateUsage]
            else:
                _fill(session, job, item, info)
            done.append(job)
    if chunks:
        _finish_chunks(session, chunks, info)
    if done or not chunks:
        _finish(session, done, seconds, info)


def _never(data: object) -> bool:
    """Stand in for ``payload.is_plain``: no result waits until the program asks for it."""
    return False


def _finish_chunks(session: Session, chunks: list[tuple[Chunk, Ended]], info: NodeInfo) -> None:
    """Give chunks of maps, each with its report, to their maps; count their calls in ``jobs_done``. On the loop.

    The thread that iterates over a map unpickles the results, so the loop runs no user code. A chunk that failed
    counts as one failed job.
    """
    calls = 0
    seconds = 0.0
    for chunk, item in chunks:
        del session.jobs[item.number]
        session.held.pop(item.number, None)
        if item.status == TERMINATED and item.ran and item.reason != "cancelled":
            session.tally.failed += 1
            session.tally.items += 1
            _count_failed(session, info)
        run = chunk.end(item)
        if item.status == FINISHED:
            session.tally.items += run
        calls += run
        seconds += item.end - item.start
    _count(session, calls, seconds, info)


def _load_ended(session: Session, job: DispyJob, item: Ended, info: NodeInfo) -> None:
    """Take the end of one job, and rebuild its result with the user's code. On the loader's thread.

    If rebuilding raises, the job is ``Terminated`` with the error as its reason. Does nothing if ``on_ended_here``
    has ended the job meanwhile, as its cluster was closed.
    """
    value: Any = None
    if item.status == FINISHED:
        try:
            value = payload.load(
                payload.PlainOnly(item.payload) if session.options.is_plain else item.payload
            )
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
    with session.idle, session.status_guard:
        session.ended.discard(item.number)
        if session.jobs.pop(item.number, None) is not job:
            return  # ended by ``on_ended_here`` meanwhile
        _fill(session, job, item, info)
        if item.status == FINISHED:
            job.result = value
        job._is_final = True  # pyright: ignore[reportPrivateUsage]  # woken below
        session.held.pop(item.number, None)
        session.tally.ended += 1
        shown = _count(session, 1, item.end - item.start, info)
        job._finish()  # pyright: ignore[reportPrivateUsage]  # done callbacks come before ``job_status``
        _call_back(session, [job], shown)


def _fill(session: Session, job: DispyJob, item: Ended, info: NodeInfo) -> None:
    """Set a job's attributes by the report of its end, except the result of a finished job, and count its failure.

    The caller sets the result. Failures are counted in ``Session.tally``, for the status table and the warning
    at the end of the program.

    The caller holds ``status_guard``, and makes the job final then. Address, times and output of a job that did not
    run stay as they are.
    """
    is_plain = session.options.is_plain
    is_program = session.computation.is_program
    is_cancelled = job._take_end(  # pyright: ignore[reportPrivateUsage]
        item, info.ip_addr, is_program=is_program, is_plain=is_plain
    )
    if item.status == FINISHED:
        return
    if is_cancelled:
        session.tally.cancelled += 1
    else:
        session.tally.add(item.status, item.reason, is_wanted=session.is_ending)
        _count_failed(session, info)


def _count_failed(session: Session, info: NodeInfo) -> None:
    """Count a failed job in ``jobs_failed`` of its ``DispyNode``, if the cluster uses the node."""
    shown = session.dispy_nodes.get(info.node)
    if shown is not None:
        shown.jobs_failed += 1


def _finish(session: Session, done: list[DispyJob], seconds: float, info: NodeInfo) -> None:
    """Make jobs final whose attributes are set: wake waiting threads, count the jobs, queue callbacks. On the loop.

    References to put objects, and holders of files, that were kept for these jobs are let go.

    Args:
        session: Cluster of the jobs.
        done: The jobs; all are in ``session.jobs``, and are removed there.
        seconds: Sum of their run times (seconds).
        info: Node that ran them.
    """
    jobs = session.jobs
    session.tally.ended += len(done)
    for job in done:
        del jobs[job.number]
        job._finish()  # pyright: ignore[reportPrivateUsage]
    if session.held:
        for job in done:
            session.held.pop(job.number, None)
    _call_back(session, done, _count(session, len(done), seconds, info))


# Ends without a node.


def on_ended_here(session: Session, numbers: Collection[int], status: int, reason: str) -> None:
    """End jobs without a report of a node, and make them final. On the loop.

    Such jobs were cancelled while they waited, lost with their node, or can run on no node; or their cluster closes.

    Args:
        session: Cluster of the jobs.
        numbers: Numbers of jobs and chunks of maps; ended and unknown ones are skipped.
        status: Final status of all of them.
        reason: Text for ``exception`` of all of them.
    """
    if session.watching.is_active:
        ends = [Ended(n, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for n in numbers]
        session.watching.on_ended(ends)
    held = session.held
    for number in numbers if held else ():
        held.pop(number, None)
    pop = session.jobs.pop
    done = []
    chunks: list[tuple[Chunk, Ended]] = []
    tally = session.tally
    is_wanted = session.is_ending or session.is_closed
    with session.status_guard:
        for number in numbers:
            job = pop(number, None)
            if job is None:
                continue
            session.loading.pop(number, None)
            if type(job) is Chunk:
                ended = Ended(number, 0, status, 0.0, 0.0, b"", reason=reason, ran=False)
                chunks.append((job, ended))
                continue
            if job._end_here(status, reason):  # pyright: ignore[reportPrivateUsage]
                tally.cancelled += 1
            else:
                tally.add(status, reason, is_wanted=is_wanted)
            done.append(job)
    for job in done:
        job._finish()  # pyright: ignore[reportPrivateUsage]
    tally.ended += len(done)
    calls = sum([chunk.end(ended) for chunk, ended in chunks])
    _count(session, calls + len(done), 0.0, None)
    _call_back(session, done, None)


def give_up_jobs(session: Session) -> None:
    """End all unfinished jobs as ``Abandoned``, as the cluster is closed and does not wait for nodes; on the loop."""
    on_ended_here(session, list(session.jobs), ABANDONED, "the cluster was closed")


# Callbacks and counts.


def _call_back(session: Session, done: list[DispyJob], shown: DispyNode | None) -> None:
    """Queue the user's callbacks for jobs that have ended: for each job ``job_status``, then ``cluster_status``.

    ``job_status`` is not called for abandoned jobs. ``shown`` is the node for ``cluster_status``; None: none.
    """
    if session.cluster_status is not None:
        calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        for job in done:
            if session.job_status is not None and job._status != ABANDONED:  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look
                calls.append((session.job_status, (job,)))
            calls.append((session.cluster_status, (job._status, shown, job)))  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look
        session.engine.callbacks.call_each(calls)
    elif session.job_status is not None:
        session.engine.callbacks.call(
            session.job_status,
            [(job,) for job in done if job._status != ABANDONED],  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look
        )


def _count(session: Session, calls: int, seconds: float, info: NodeInfo | None) -> DispyNode | None:
    """Count ended calls and their times for cluster and node; wake threads that wait for the end of jobs.

    The threads wait until no job of the cluster is unfinished, or until fewer than ``max_queued`` are.

    Args:
        session: Cluster of the jobs.
        calls: Number of calls of the user's function: one for a job, one for each item of a chunk that was run.
        seconds: Sum of their run times (seconds).
        info: Node that ran them; None: none did.

    Returns:
        The ``DispyNode`` of ``info``, for callbacks; None if ``info`` is None, or the node is not in use any more.
    """
    shown = session.dispy_nodes.get(info.node) if info is not None else None
    with session.idle:
        session.cpu_time += seconds
        session.ends += 1
        for look in list(session.late_nodes.values()) if session.late_nodes else ():
            session.engine.post(look)
        if shown is not None:
            shown.jobs_done += calls
            shown.cpu_time += seconds
            shown.touch()
        if not session.jobs:
            session.end_time = time.time()
            session.idle.notify_all()
        elif session.room_waiters and len(session.jobs) < session.options.queued_max:
            session.idle.notify_all()
    return shown
