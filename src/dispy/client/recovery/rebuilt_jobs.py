"""Jobs of a dead program, rebuilt: with their results, or with what became of those that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dispy import payload
from dispy.client.job import CANCELLED, CREATED, FINISHED, TERMINATED, DispyJob
from dispy.client.recovery.dead_program import Dead, PastSession
from dispy.core.recovery import Judge, Result
from dispy.errors import NotPlainError
from dispy.protocol.node import Ended


class RunningJobs(Protocol):
    """Interface of a cluster that runs jobs of a dead program here and now (``resumed_jobs.Resumed``)."""

    dead: Dead
    """The journal that has the jobs."""
    resumed_jobs: list[DispyJob]
    """Jobs that the cluster runs, ended or not. ``make_jobs`` returns these objects and makes no new ones."""


Name = tuple[int, int]
"""Name of a job in one journal: number of its computation, and its own. In a full journal, which has one cluster, the
first is 0: a job keeps its number when it is resumed under another computation."""


def make_jobs(found: list[Dead], resumed: Sequence[RunningJobs], is_last_word: bool) -> list[DispyJob]:
    """Return all jobs of journals, with what became of them. On the loop of ``Net``.

    Those of a cluster come in the order of their numbers. Jobs of clusters with full journals come in the order in
    which they were submitted; those of other clusters, cluster by cluster, where their first known job has begun.

    Args:
        found: The journals.
        resumed: Clusters that run jobs of these journals now; their jobs are returned, not made anew.
        is_last_word: True if nodes that do not answer are not asked another time: a job that one of them may have
            started counts as lost (``Abandoned``), and one that still runs as ``Cancelled``.
    """
    jobs: list[tuple[float, DispyJob]] = []
    for one in found:
        running = {
            job.number: job for cluster in resumed if cluster.dead is one for job in cluster.resumed_jobs
        }
        results = _results(one)
        others: dict[Name, DispyJob] = {}
        """Jobs of this journal that have no result and are not run here; ``_judge`` says what became of them."""
        made: dict[Name, DispyJob] = {}
        known = [(0, number) for number in (*one.submitted, *running)]
        for name in sorted({*results, *known, *_mentioned(one)}):
            if name[1] in running:
                job = running[name[1]]
                if not job._is_final:  # pyright: ignore[reportPrivateUsage]
                    job._session = None  # pyright: ignore[reportPrivateUsage]  # nothing tells its end any more
            elif name in results:
                job = _ended_job(one, name[1], results[name])
            else:
                job = others[name] = _new_job(one, name[1], None)
            made[name] = job
        for session in one.sessions:
            of_session = {name: job for name, job in others.items() if one.session(name[1]) is session}
            _judge(one, session, of_session, is_last_word)
        one.jobs = made
        jobs += _timed(made)
    return [job for _, job in sorted(jobs, key=lambda each: each[0])]


def _timed(jobs: dict[Name, DispyJob]) -> list[tuple[float, DispyJob]]:
    """Return the jobs of one journal, each with the time by which it is sorted (seconds since the epoch).

    These times never fall within a cluster, so that its jobs stay in the order of their numbers.
    """
    begun: dict[int, float] = {}
    for (computation, _), job in jobs.items():
        if job.start_time is not None:
            begun[computation] = min(job.start_time, begun.get(computation, job.start_time))
    latest: dict[int, float] = {}
    timed = []
    for (computation, _), job in jobs.items():
        time = job.submit_time or begun.get(computation, 0.0)
        latest[computation] = max(time, latest.get(computation, 0.0))
        timed.append((latest[computation], job))
    return timed


def _name(one: Dead, computation: int, number: int) -> Name:
    """Return the name of a job, as ``Name`` says."""
    return (0, number) if one.journal.is_full else (computation, number)


def _results(one: Dead) -> dict[Name, Result]:
    """Return the end of each job of a journal that has ended, and the IP address of its node, by name of the job.

    If both the journal and a node have the end of a job, the journal's counts: the dead program was told that.
    """
    results = {
        _name(one, computation, number): result
        for session in one.sessions
        for (computation, number), result in session.recovery.final_results().items()
    }
    return results | {(0, number): result for number, result in one.told.items()}


def by_address(one: Dead, jobs: list[DispyJob], *, is_whole: bool) -> dict[str, list[Ended]]:
    """Return the ends of jobs that their journal does not have yet, for ``Journal.ended``.

    Once they are noted, a later recovery has them also if nodes have forgotten them.

    Args:
        one: The journal. A short one has no ends of jobs: the result is empty.
        jobs: Rebuilt jobs of this journal and of others; jobs that have not ended are left out.
        is_whole: True if no node is asked any more. Then the ends of jobs without a result (``Abandoned``, say) are
            final, and returned as well.

    Returns:
        Lists of ends, by IP address of the node; the address is empty for jobs that did not end on a node.
    """
    found: dict[str, list[Ended]] = {}
    if not one.journal.is_full:
        return found
    results = _results(one)
    own = {id(job) for job in one.jobs.values()}
    for job in jobs:
        if id(job) not in own or job.number in one.told or not job._is_final:  # pyright: ignore[reportPrivateUsage]
            continue
        # A result counts also if the job was submitted too late to be in the journal.
        result = results.get((0, job.number))
        if result is None:
            if not is_whole or job.number not in one.submitted:
                continue
            ended = Ended(job.number, 0, job.status, 0.0, 0.0, b"", reason=job.exception or "", ran=False)
            result = Result(ended, "")
        found.setdefault(result.ip_addr, []).append(result.ended)
    return found


def unstarted(one: Dead) -> list[DispyJob]:
    """Return new jobs, ``Created``, for the jobs of a journal that may be run: by session, then by number.

    These are jobs that were submitted and never started; if jobs are reentrant, also jobs that may have been started.
    """
    results = _results(one)
    left = [number for number in sorted(one.submitted) if (0, number) not in results]
    found = []
    for session in one.sessions:
        if not session.recovery.computations:
            continue  # its program was killed before it noted its computation: it had no jobs
        judge = _judge_of(one, session, is_last_word=False)
        computation = session.recovery.computations[0]
        for number in left:
            if one.session(number) is session and judge.fate((computation, number)).is_unstarted:
                found.append(_new_job(one, number, None))
    return found


def _mentioned(one: Dead) -> set[Name]:
    """Return the names of jobs that nodes have named without a result: open or lost ones.

    A short journal has no jobs, so these are found by the nodes' answers alone.
    """
    return {
        _name(one, *key)
        for session in one.sessions
        for keys in (session.recovery.open_jobs(), session.recovery.lost)
        for key in keys
    }


def _judge_of(one: Dead, session: PastSession, is_last_word: bool) -> Judge:
    """Return the ``core.recovery.Judge`` of a session: for each job without a result it says what became of it.

    It judges by the answers of nodes so far and by the session's mark; answers that come later need a new judge.
    ``is_last_word`` as in ``make_jobs``.
    """
    marked = session.marked
    return Judge(
        session.recovery,
        sent_max=None if marked is None else marked.sent_max,
        has_gaps=marked is not None and marked.is_broken,
        is_reentrant=one.is_reentrant,
        is_last_word=is_last_word,
    )


def _judge(one: Dead, session: PastSession, jobs: dict[Name, DispyJob], is_last_word: bool) -> None:
    """Set status and reason of new jobs (``Created``) that have no result, all of one session.

    Jobs that are open on a node become ``Running``, with start time and IP address, if the node has started them,
    else they stay ``Created``; with ``is_last_word`` all open jobs end as ``Cancelled``. Jobs that are lost for good
    end as ``Abandoned``. All others stay ``Created``; ``exception`` says why, if the judge has a reason.
    """
    recovery = session.recovery
    judge = _judge_of(one, session, is_last_word)
    open_jobs = {_name(one, *key): key for key in recovery.open_jobs()}
    for name, job in jobs.items():
        key = open_jobs.get(name)
        if key is not None:
            if key in recovery.started:
                started, ip_addr = recovery.started[key]
                job._begin(started.start, ip_addr)  # pyright: ignore[reportPrivateUsage]
            if is_last_word:
                _end(job, CANCELLED, "it was killed, and its node has not said how it ended")
        else:
            own = [name[0]] if name[0] else recovery.computations
            keys = [(computation, name[1]) for computation in own]
            key = next((key for key in keys if key in recovery.lost), keys[0])
            fate = judge.fate(key)
            job.exception = fate.reason or None
            if fate.status is not None:
                _end(job, fate.status, fate.reason)


def _ended_job(one: Dead, number: int, result: Result) -> DispyJob:
    """Return a new job that has ended, with its result or error, which stays pickled until the user reads it.

    A result that has to be plain data is read here.
    """
    ended = result.ended
    # A worker says which id a job was given; if it could not, the pickled call says it.
    job_id = number if ended.status == FINISHED else None
    if ended.job_id:
        job_id = _load_id(payload.PlainOnly(ended.job_id) if one.is_plain else ended.job_id, number)
    job = _new_job(one, number, job_id)
    is_plain = one.is_plain
    job._take_end(ended, result.ip_addr, is_program=one.is_program, is_plain=is_plain)  # pyright: ignore[reportPrivateUsage]
    if ended.status == FINISHED and is_plain:
        _fill_plain(job, ended)
    job._finish()  # pyright: ignore[reportPrivateUsage]
    return job


def _fill_plain(job: DispyJob, ended: Ended) -> None:
    """Set the result of a job whose nodes are not trusted with code; if it is not plain, the job has failed."""
    try:
        job.result = payload.load(payload.PlainOnly(ended.payload))
    except NotPlainError as error:
        reason = f"the job's result is not taken: {error}"
        job._end_here(TERMINATED, reason)  # pyright: ignore[reportPrivateUsage]


def _end(job: DispyJob, status: int, reason: str) -> None:
    """End a job that has no result, for good, with a status and a reason (a sentence for ``job.exception``)."""
    job._end_here(status, reason)  # pyright: ignore[reportPrivateUsage]
    job._finish()  # pyright: ignore[reportPrivateUsage]


def _new_job(one: Dead, number: int, job_id: Any) -> DispyJob:
    """Return a new job, ``Created``. Waiting for it raises an error until the caller gives it an end or a cluster.

    Args:
        one: The journal, which has the time of submission if it is a full one.
        number: Number of the job.
        job_id: Id of the job; None: that of the pickled call if it is here and can be loaded, else the number.
    """
    submitted = one.submitted.get(number)
    if submitted is not None and job_id is None:
        try:
            call = payload.load_call(one.arguments(number))
            job_id = call[2] if len(call) > 2 else None
        except payload.Apart as apart:
            job_id = apart.job_id
        except Exception:  # a class of the arguments cannot be imported here, say
            job_id = None
    job = DispyJob(number if job_id is None else job_id, number, None, 0.0, CREATED)
    if submitted is not None:
        job.submit_time = submitted.time
    return job


def _load_id(data: bytes | payload.PlainOnly, number: int) -> Any:
    """Return the id of a job, unpickled from ``data``; the number of the job if it cannot be loaded."""
    try:
        return payload.load(data)
    except Exception:
        return number


def load(job: DispyJob) -> bool:
    """Unpickle the result of a job, and store it in the job. False if that fails: the result stays pickled there."""
    try:
        job.result  # noqa: B018  # which loads it
    except Exception:
        return False
    return True


def why_not(job: DispyJob) -> str:
    """Return type and text of the error that unpickling a job's result raises, for a log line; empty if none."""
    try:
        job.result  # noqa: B018
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
