"""How clusters are closed, by the program or at its end: wait for jobs and callbacks, then release the nodes.

The order of ``close``: wait for jobs and callbacks (``callbacks.wait_all``); refuse further jobs; cancel the jobs
that are left, and after their grace period end them here; release the nodes and the journal; wait for the callbacks
that this has queued. At the end of the program ``close_all`` does so for all clusters, after Ctrl-C without waiting
for jobs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from dispy import config
from dispy.client.arguments import check_flag, deadline
from dispy.client.engine import callback_thread
from dispy.client.engine.callback_thread import Caller, Waited
from dispy.client.logger import notice
from dispy.client.map.chunk_job import Chunk
from dispy.client.nodes import DispyNode
from dispy.client.recovery import journaling
from dispy.client.session import callbacks, cancellation, completion, failures
from dispy.errors import UsageError
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster
    from dispy.client.engine.engine import Engine

CLOSE_S = 2.0
"""Seconds that cancelled jobs have to end beyond their grace period; then they are ended here as ``Abandoned``. After
Ctrl-C also the seconds for callbacks; those that are left are counted in a message."""

SAY_S = 1.0
"""Seconds of waiting for jobs at the end of a program after which a line says what it waits for. It waits on."""

SAID_MAX = 5
"""Clusters that the line about unfinished jobs names, at the end of a program; further ones are only counted."""


def close(
    cluster: JobCluster, timeout: float | None, terminate: bool, is_interrupted: bool = False
) -> bool | None:
    """Wait for a cluster's jobs and callbacks, then close it: the work of ``JobCluster.close``.

    A callback that stands at a lock for too long (``Patience``) is given up: the cluster is closed all the same, and
    the callback goes on when it can.

    Args:
        cluster: Cluster to close.
        timeout: Seconds to wait for jobs and callbacks; None: as long as they take.
        terminate: True: cancel the jobs that have not ended by then (at once if ``timeout`` is None), and close.
            False: leave the cluster open if some have not.
        is_interrupted: True after Ctrl-C: wait ``CLOSE_S`` seconds for callbacks, not as long as they take.

    Returns:
        True if this call has closed it; False if it stays open, as jobs or callbacks are left after ``timeout``; None
        if it was closed before, or by another thread or a callback meanwhile.
    """
    was_closed = cluster._is_closed
    if cluster._pid != process_identity.pid:
        if was_closed:
            return None
        cluster._check_open()
    until = deadline(timeout)
    check_flag("terminate", terminate)
    with cluster._idle:
        cluster._closers += 1
        cluster._idle.notify_all()
    try:
        waited = Waited.CALLED
        if not was_closed and not (terminate and timeout is None):
            waited = callbacks.wait_all(cluster, until)
            if waited is Waited.LATE and not terminate:
                return False
        # A callback or another thread may have closed it meanwhile.
        is_closed = None if cluster._is_closed else _finish(cluster)
        if waited is not Waited.STUCK:
            _wait_rest(cluster, None if terminate else until, is_interrupted)
        return is_closed
    finally:
        cluster._closers -= 1


def _finish(cluster: JobCluster) -> bool:
    """Cancel all unfinished jobs, wait for their ends, and release the nodes. Returns True, as ``close`` does then.

    Jobs that are left after ``config.CancelGrace`` + ``CLOSE_S`` seconds are ended here as ``Abandoned``. ``submit``
    raises from now on.
    """
    # A callback that submits each cancelled job again would never come to an end.
    cluster._submit = _refuse
    if cluster._jobs:
        cluster._is_ending = True
        cluster._engine.call(cancellation.cancel_all, cluster)
        if not callbacks.wait_jobs(cluster, deadline(float(config.CancelGrace) + CLOSE_S)):
            cluster._engine.call(completion.give_up_jobs, cluster)
    return _release(cluster)


def _refuse(cluster: JobCluster, *_job: object) -> NoReturn:
    """Refuse a job: replaces the function that submits jobs (``cluster._submit``) while a cluster is being closed.

    Raises:
        UsageError: Always.
    """
    cluster._check_open()
    raise UsageError(f"cluster {cluster.name} is being closed", hint="close it after the last submit")


def _release(cluster: JobCluster) -> bool:
    """Release the nodes of a cluster, call ``cluster_status`` for each, report failures, and close its journal.

    Jobs that another thread has submitted meanwhile end as ``Abandoned``. Running maps are woken. The journal's file
    is removed unless ``_keeps_journal``. Returns True, as ``close`` does then.
    """
    cluster._engine.call(cluster._refresh_nodes)
    cluster._is_closed = True
    if cluster._jobs:  # submitted by another thread meanwhile
        cluster._engine.call(completion.give_up_jobs, cluster)
    cluster.end_time = cluster.end_time or time.time()
    cluster._engine.call(cluster._engine.remove, cluster)
    _tell_closed(cluster)
    cluster._tell_maps()
    cluster._tally.name = cluster.name
    failures.leave(cluster._tally)
    if cluster._journal is not None:
        cluster._journal.close(remove=not cluster._keeps_journal)
        if cluster._keeps_journal:
            path = str(cluster._journal.path)
            notice(f"dispy.recover_jobs({path!r}) returns the jobs of cluster {cluster.name}")
    return True


def _tell_closed(cluster: JobCluster) -> None:
    """Queue a call of ``cluster_status`` with ``DispyNode.Closed`` for each node in use.

    The ``DispyNode`` objects keep their counts of jobs and times, for ``status`` of the closed cluster.
    """
    for node in list(cluster._dispy_nodes.values()):
        cluster._tell(DispyNode.Closed, node, None)


def _wait_rest(cluster: JobCluster, until: float | None, is_interrupted: bool) -> None:
    """Wait for the callbacks of a closed cluster that are queued by now.

    Args:
        cluster: The cluster.
        until: When to stop waiting (monotonic seconds); None: never.
        is_interrupted: True after Ctrl-C: wait ``CLOSE_S`` seconds, then say how many callbacks are left.
    """
    if not is_interrupted:
        callbacks.wait_called(cluster, until)
        return
    if callbacks.wait_called(cluster, time.monotonic() + CLOSE_S) is Waited.LATE:
        left = callback_thread.left(cluster._engine.callbacks.count_left())
        notice(f"interrupted: cluster {cluster.name} does not wait for callbacks, and {left}")


# At the end of the program.


def close_all(running: Engine) -> tuple[bool, bool]:
    """Close all clusters of an engine at the end of the program.

    After an uncaught exception jobs are waited for, and results that no code of the program will see are left with
    nodes and journals, for ``recover_jobs``. After Ctrl-C, also one during this wait, jobs are ended at once.

    Returns:
        Two flags: whether there was a Ctrl-C, so that callbacks are waited for only ``CLOSE_S`` seconds; and whether
        nodes and journals are to keep results, so that the engine must stop by ``Engine.leave``.
    """
    failed = getattr(sys, "last_type", None) if not hasattr(sys, "ps1") else None
    is_interrupted = failed is KeyboardInterrupt
    is_leaving = False
    try:
        if failed is not None and not is_interrupted:
            is_leaving = journaling.leave_results(running)
        if not is_interrupted:
            _say_waiting(list(running.clusters.values()))
        for cluster in list(running.clusters.values()):
            _close_at_exit(cluster, is_interrupted)
    except KeyboardInterrupt:
        is_interrupted = True
        is_leaving = False
        left = sum(len(cluster._jobs) for cluster in running.clusters.values())
        if left:
            notice(f"interrupted while the program waited for its jobs at its end: {left} are cancelled")
        with contextlib.suppress(KeyboardInterrupt):
            for cluster in list(running.clusters.values()):
                _close_at_exit(cluster, True)
    return is_interrupted, is_leaving


def _say_waiting(clusters: list[JobCluster]) -> None:
    """Wait ``SAY_S`` seconds for the jobs of all clusters; if some are left then, log a line that counts them.

    The caller goes on waiting after that.
    """
    until = time.monotonic() + SAY_S
    if all(callbacks.wait_jobs(cluster, until) for cluster in clusters):
        return
    left = [said for said in map(_left, clusters) if said]
    if left:
        more = f" and {len(left) - SAID_MAX} more clusters" if len(left) > SAID_MAX else ""
        notice(f"waiting for {', '.join(left[:SAID_MAX])}{more}; Ctrl-C cancels them")


def _left(cluster: JobCluster) -> str:
    """Returns the number of a cluster's unfinished jobs, in words, as "2 jobs of f"; empty if there are none.

    If only chunks of maps are unfinished: "a map of f".
    """
    open_jobs = list(cluster._jobs.values())
    count = sum([type(job) is not Chunk for job in open_jobs])
    if not count:
        return f"a map of {cluster.name}" if open_jobs else ""
    return f"{count} job of {cluster.name}" if count == 1 else f"{count} jobs of {cluster.name}"


def _close_at_exit(cluster: JobCluster, is_interrupted: bool) -> None:
    """Close a cluster at the end of the program, after its jobs and callbacks have ended.

    After Ctrl-C (``is_interrupted``) nothing is waited for: unfinished jobs end here as ``Abandoned``, and nodes drop
    them.
    """
    if is_interrupted:
        cluster._is_ending = True
        cluster._engine.call(completion.give_up_jobs, cluster)
        _release(cluster)
    else:
        close(cluster, None, terminate=False)


def finish_callbacks(callers: list[Caller], is_interrupted: bool) -> None:
    """Wait for the callbacks that are left at the end of the program, and log how many are not called after all.

    Args:
        callers: Threads that run callbacks, of this engine and of stopped ones.
        is_interrupted: True after Ctrl-C: wait at most ``CLOSE_S`` seconds for each thread. False: no limit.
    """
    with contextlib.suppress(KeyboardInterrupt):
        for caller in callers:
            if is_interrupted:
                caller.drain(CLOSE_S)
            else:
                caller.wait_called(None, "the end of the program")
    count = sum([caller.count_left() for caller in callers])
    if count:
        notice(f"the program ends, and {callback_thread.left(count)}: not called, or not to the end")
