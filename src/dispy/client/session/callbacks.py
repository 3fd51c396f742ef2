"""Waiting for one cluster: for its unfinished jobs, and for the callbacks of those that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.client.engine.callback_thread import Waited
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import Session


def wait_jobs(session: Session, until: float | None) -> bool:
    """Wait until a cluster has no unfinished jobs. True then; False if it has some at ``until``.

    ``until`` is in monotonic seconds; None: never stop waiting.
    """
    with session.idle:
        return session.idle.wait_for(
            lambda: not session.jobs, None if until is None else until - session.engine.clock.monotonic()
        )


def wait_all(session: Session, until: float | None) -> Waited:
    """Wait for a cluster's jobs and their callbacks, and for jobs that callbacks submit, until nothing is left.

    On the engine's own threads, as in a callback, wait for jobs only: the callbacks may be queued behind this call.

    Args:
        session: Cluster that is waited for.
        until: When to stop waiting (monotonic seconds); None: never.

    Returns:
        ``CALLED`` if all jobs have ended and all callbacks were called; ``LATE`` at ``until``; ``STUCK`` if a
        callback that stands at a lock was given up.

    Raises:
        UsageError: The cluster was made in another process.
    """
    if session.pid != process_identity.pid:
        session.check_open()
    seen = -1
    while True:
        if not wait_jobs(session, until):
            return Waited.LATE
        if not has_callbacks(session) or session.engine.is_current():
            return Waited.CALLED
        # Counted on the loop: between a job's end and the queueing of its callbacks no thread must see "all ended".
        ends = _count_ends(session) if session.is_closed else session.engine.call(_count_ends, session)
        if ends is not None:
            if ends == seen:
                return Waited.CALLED
            waited = wait_called(session, until)
            if waited is not Waited.CALLED:
                return waited
            seen = ends


def _count_ends(session: Session) -> int | None:
    """Returns ``ends``, the number of events in which jobs of a cluster ended; None if jobs are unfinished.

    ``wait_all`` compares the numbers before and after a wait for callbacks. If they are equal no job has ended
    meanwhile, so that wait covered the callbacks of all ended jobs.
    """
    with session.idle:
        return None if session.jobs else session.ends


def wait_called(session: Session, until: float | None) -> Waited:
    """Wait until the callbacks that are queued by now have been called.

    Does not wait on the engine's own threads, or if the program has given no callbacks.

    Args:
        session: Cluster that waits; callbacks of other clusters that are queued before its own are waited for, too.
        until: When to stop waiting (monotonic seconds); None: never.

    Returns:
        ``CALLED`` if all were called, or nothing was waited for; ``LATE`` at ``until``; ``STUCK`` if a callback that
        stands at a lock was given up.
    """
    if not has_callbacks(session) or session.engine.is_current():
        return Waited.CALLED
    return session.engine.callbacks.wait_called(until, f"cluster {session.name}")


def has_callbacks(session: Session) -> bool:
    """True if the program has given a callback to wait for, of the cluster or by ``DispyJob.add_done_callback``."""
    return session.has_done_callbacks or not (
        session.job_status is None and session.cluster_status is None and session.watching.callback is None
    )
