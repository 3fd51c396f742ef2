"""Cancellation of jobs by the program: noted on any thread, handed over to the scheduler on the engine's loop.

The status is ``Cancelled`` at once. The job ends later, by ``completion``: a job in the queue when the scheduler has
taken it out, a job that was sent to a node when the node reports its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dispy.client.arguments import describe
from dispy.client.job import CANCELLED, DispyJob
from dispy.client.session.inbox import take_inbox
from dispy.core import scheduling as core
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

JOBS_ARE = "jobs are what submit returns"
"""Text of the hint in a ``UsageError`` about an argument that should be a job and is not."""


def cancel_several(cluster: ClusterState, jobs: Iterable[DispyJob]) -> int:
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
    """Have the loop cancel the jobs in ``cluster._cancels``. On any thread. Nothing more is posted while a call is
    on its way, as one call takes all of them."""
    if not cluster._has_posted_cancels:
        cluster._has_posted_cancels = True
        cluster._engine.post(_take_cancels, cluster)


def _take_cancels(cluster: ClusterState) -> None:
    """Empty ``cluster._cancels``, and cancel these jobs in one event for the scheduler. On the loop.

    One event for all of them, as there may be a million.
    """
    cluster._has_posted_cancels = False
    popleft = cluster._cancels.popleft
    cancel_open(cluster, [popleft() for _ in range(len(cluster._cancels))])


def cancel_open(cluster: ClusterState, numbers: Iterable[int]) -> None:
    """Have the scheduler cancel those of the jobs with these numbers that are unfinished. On the loop.

    Skipped are numbers of unknown and ended jobs, and of jobs whose end has come and whose result is being unpickled.
    """
    take_inbox(cluster)
    jobs, ended = cluster._jobs, cluster._ended
    left = [number for number in numbers if number in jobs and number not in ended]
    if left:
        cluster._engine.service.handle(core.CancelJobs(core.EMBEDDED, cluster._number, left))


def cancel_all(cluster: ClusterState) -> None:
    """Have the scheduler cancel all unfinished jobs and chunks of a cluster that is being closed. On the loop.

    Sets no status: each job gets one when its end comes.
    """
    cancel_open(cluster, list(cluster._jobs))
