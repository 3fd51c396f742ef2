"""Waiting for one cluster: for its unfinished jobs, and for the callbacks of those that have ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dispy.client.engine.callback_thread import Waited

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState


def wait_jobs(cluster: ClusterState, until: float | None) -> bool:
    """Wait until a cluster has no unfinished jobs. True then; False if it has some at ``until``.

    ``until`` is in monotonic seconds; None: never stop waiting.
    """
    with cluster._idle:
        return cluster._idle.wait_for(
            lambda: not cluster._jobs, None if until is None else until - time.monotonic()
        )


def wait_all(cluster: ClusterState, until: float | None) -> Waited:
    """Wait for a cluster's jobs and their callbacks, and for jobs that callbacks submit, until nothing is left.

    On the engine's own threads, as in a callback, wait for jobs only: the callbacks may be queued behind this call.

    Args:
        cluster: Cluster that is waited for.
        until: When to stop waiting (monotonic seconds); None: never.

    Returns:
        ``CALLED`` if all jobs have ended and all callbacks were called; ``LATE`` at ``until``; ``STUCK`` if a
        callback that stands at a lock was given up.
    """
    seen = -1
    while True:
        if not wait_jobs(cluster, until):
            return Waited.LATE
        if not has_callbacks(cluster) or cluster._engine.is_current():
            return Waited.CALLED
        # Counted on the loop: between a job's end and the queueing of its callbacks no thread must see "all ended".
        ends = _count_ends(cluster) if cluster._is_closed else cluster._engine.call(_count_ends, cluster)
        if ends is not None:
            if ends == seen:
                return Waited.CALLED
            waited = wait_called(cluster, until)
            if waited is not Waited.CALLED:
                return waited
            seen = ends


def _count_ends(cluster: ClusterState) -> int | None:
    """Returns ``_ends``, the number of events in which jobs of a cluster ended; None if jobs are unfinished.

    ``wait_all`` compares the numbers before and after a wait for callbacks. If they are equal no job has ended
    meanwhile, so that wait covered the callbacks of all ended jobs.
    """
    with cluster._idle:
        return None if cluster._jobs else cluster._ends


def wait_called(cluster: ClusterState, until: float | None) -> Waited:
    """Wait until the callbacks that are queued by now have been called.

    Does not wait on the engine's own threads, or if the program has given no callbacks.

    Args:
        cluster: Cluster that waits; callbacks of other clusters that are queued before its own are waited for, too.
        until: When to stop waiting (monotonic seconds); None: never.

    Returns:
        ``CALLED`` if all were called, or nothing was waited for; ``LATE`` at ``until``; ``STUCK`` if a callback that
        stands at a lock was given up.
    """
    if not has_callbacks(cluster) or cluster._engine.is_current():
        return Waited.CALLED
    return cluster._engine.callbacks.wait_called(until, f"cluster {cluster.name}")


def has_callbacks(cluster: ClusterState) -> bool:
    """True if the program has given a callback (``job_status``, ``cluster_status``, ``job_output``) to wait for."""
    return not (
        cluster.job_status is None and cluster.cluster_status is None and cluster._watching.callback is None
    )
