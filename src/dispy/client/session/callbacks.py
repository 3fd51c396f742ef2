"""Callbacks of one cluster: waiting for its jobs, and for what the program is told of them."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from dispy.client.session.callback_thread import Waited
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState


def wait_jobs(cluster: ClusterState, until: float | None) -> bool:
    """Wait until a cluster has no jobs that have not ended; False if it has some at ``until``."""
    with cluster._idle:
        return cluster._idle.wait_for(
            lambda: not cluster._jobs, None if until is None else until - time.monotonic()
        )


def wait_all(cluster: ClusterState, until: float | None) -> Waited:
    """Wait for a cluster's jobs, and for the callbacks of those that have ended.

    Callbacks may submit jobs: these are waited for, and so on. A thread of ours waits for jobs only: all callbacks
    might be behind it.
    """
    seen = -1
    while True:
        if not wait_jobs(cluster, until):
            return Waited.LATE
        if not has_callbacks(cluster) or cluster._engine.is_current():
            return Waited.CALLED
        # On the loop: between a job's end and its callbacks being given nobody sees that all have ended.
        ends = _count_ends(cluster) if cluster._is_closed else cluster._engine.call(_count_ends, cluster)
        if ends is not None:
            if ends == seen:
                return Waited.CALLED
            waited = wait_called(cluster, until)
            if waited is not Waited.CALLED:
                return waited
            seen = ends


def _count_ends(cluster: ClusterState) -> int | None:
    """How often jobs of a cluster have ended, several at once counting as one; None if some have not."""
    with cluster._idle:
        return None if cluster._jobs else cluster._ends


def wait_called(cluster: ClusterState, until: float | None) -> Waited:
    """Wait for the callbacks that a cluster has been given by now; on a thread of ours for none."""
    if not has_callbacks(cluster) or cluster._engine.is_current():
        return Waited.CALLED
    return cluster._engine.callbacks.wait_called(until, f"cluster {cluster.name}")


def has_callbacks(cluster: ClusterState) -> bool:
    """Whether the program is told of what happens."""
    return not (
        cluster.job_status is None and cluster.cluster_status is None and cluster._watching.callback is None
    )


def check_callback(callback: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Check that something can be called with so many positional arguments.

    Raises:
        UsageError: It cannot.
    """
    if callback is None:
        return
    if not callable(callback):
        raise UsageError(
            f"{name} must be callable, not {callback!r:.100}", hint=f"{name}=function, without parentheses"
        )
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        wanted = ", ".join(parameters)
        raise UsageError(
            f"{name} cannot be called with ({wanted}): {error}", hint=f"def {name}({wanted}): ..."
        ) from error
