"""Cancellation of jobs by the program: noted on any thread, handed over to the scheduler on the engine's loop.

The status is ``Cancelled`` at once. The job ends later, by ``completion``: a job in the queue when the scheduler has
taken it out, a job that was sent to a node when the node reports its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dispy.client.arguments import describe
from dispy.client.job import DispyJob
from dispy.client.session.inbox import take_inbox
from dispy.errors import UsageError
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import Session

JOBS_ARE = "jobs are what submit returns"
"""Text of the hint in a ``UsageError`` about an argument that should be a job and is not."""


def cancel(session: Session, job: DispyJob | Iterable[DispyJob]) -> int:
    """Cancel a job, or several: the work of ``JobCluster.cancel``. On any thread; does not wait for the end.

    Returns:
        0 if the job is (being) cancelled; -1 if it had ended or is of another cluster. For several jobs: 0 if all of
        them are cancelled.
    """
    if session.is_closed or session.pid != process_identity.pid:
        session.check_open()
    if not isinstance(job, DispyJob):
        return _cancel_several(session, job)
    own = unfinished(session, job)
    if own is None:
        return -1
    with session.status_guard:
        own._cancel()  # pyright: ignore[reportPrivateUsage]  # not for programs
    session.cancels.append(own.number)
    _post_cancels(session)
    return 0


def unfinished(session: Session, job: DispyJob) -> DispyJob | None:
    """Returns the unfinished job of a cluster that a job is, or is a copy of; None if there is none.

    Callbacks get a copy with each provisional result, and call ``cancel`` and ``why`` with it. On any thread.
    """
    own = session.jobs.get(job.number)
    if own is job:
        return job
    # A copy: of this cluster, and not of another one that has a job of the same number.
    is_ours = job._session is session  # pyright: ignore[reportPrivateUsage]
    return own if type(own) is DispyJob and is_ours else None


def _cancel_several(session: Session, jobs: Iterable[DispyJob]) -> int:
    """Set several jobs to ``Cancelled``, and have the loop cancel them. On any thread; does not wait for their ends.

    Returns:
        0 if all are (being) cancelled; -1 if some had ended or are of another cluster: the others are cancelled.

    Raises:
        UsageError: ``jobs`` is not an iterable of jobs; then none is cancelled.
    """
    if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes)):
        raise UsageError(f"cancel takes a job, or several, not {describe(jobs)}", hint=JOBS_ARE)
    several = list(jobs)
    for job in several:
        if not isinstance(job, DispyJob):
            raise UsageError(f"cancel takes jobs, not {describe(job)}", hint=JOBS_ARE)
    left = [own for job in several if (own := unfinished(session, job)) is not None]
    with session.status_guard:
        for job in left:
            job._cancel()  # pyright: ignore[reportPrivateUsage]  # not for programs
    session.cancels.extend([job.number for job in left])
    _post_cancels(session)
    return 0 if len(left) == len(several) else -1


def _post_cancels(session: Session) -> None:
    """Have the loop cancel the jobs in ``session.cancels``. On any thread. Nothing more is posted while a call is
    on its way, as one call takes all of them."""
    if not session.has_posted_cancels:
        session.has_posted_cancels = True
        session.engine.post(_take_cancels, session)


def _take_cancels(session: Session) -> None:
    """Empty ``session.cancels``, and cancel these jobs in one event for the scheduler. On the loop.

    One event for all of them, as there may be a million.
    """
    session.has_posted_cancels = False
    popleft = session.cancels.popleft
    cancel_open(session, [popleft() for _ in range(len(session.cancels))])


def cancel_open(session: Session, numbers: Iterable[int]) -> None:
    """Have the scheduler cancel those of the jobs with these numbers that are unfinished. On the loop.

    Skipped are numbers of unknown and ended jobs, and of jobs whose end has come and whose result is being unpickled.
    """
    take_inbox(session)
    jobs, ended = session.jobs, session.ended
    left = [number for number in numbers if number in jobs and number not in ended]
    if left:
        session.backend.cancel(session.number, left)


def cancel_all(session: Session) -> None:
    """Have the scheduler cancel all unfinished jobs and chunks of a cluster that is being closed. On the loop.

    Sets no status: each job gets one when its end comes.
    """
    cancel_open(session, list(session.jobs))
