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
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from dispy import config
from dispy.client.allocation import node_views
from dispy.client.arguments import check_flag, deadline
from dispy.client.engine import callback_thread
from dispy.client.engine.callback_thread import Caller, Waited
from dispy.client.logger import notice
from dispy.client.map.chunk_job import Chunk
from dispy.client.nodes import DispyNode
from dispy.client.session import callbacks, cancellation, completion, failures
from dispy.errors import UsageError
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import Session

CLOSE_S = 2.0
"""Seconds that cancelled jobs have to end beyond their grace period; then they are ended here as ``Abandoned``. After
Ctrl-C also the seconds for callbacks; those that are left are counted in a message."""

SAY_S = 1.0
"""Seconds of waiting for jobs at the end of a program after which a line says what it waits for. It waits on."""

SAID_MAX = 5
"""Clusters that the line about unfinished jobs names, at the end of a program; further ones are only counted."""


def close(
    session: Session, timeout: float | None, terminate: bool, is_interrupted: bool = False
) -> bool | None:
    """Wait for a cluster's jobs and callbacks, then close it: the work of ``JobCluster.close``.

    A callback that stands at a lock for too long (``Patience``) is given up: the cluster is closed all the same, and
    the callback goes on when it can.

    Args:
        session: Cluster to close.
        timeout: Seconds to wait for jobs and callbacks; None: as long as they take.
        terminate: True: cancel the jobs that have not ended by then (at once if ``timeout`` is None), and close.
            False: leave the cluster open if some have not.
        is_interrupted: True after Ctrl-C: wait ``CLOSE_S`` seconds for callbacks, not as long as they take.

    Returns:
        True if this call has closed it; False if it stays open, as jobs or callbacks are left after ``timeout``; None
        if it was closed before, or by another thread or a callback meanwhile.
    """
    was_closed = session.is_closed
    if session.pid != process_identity.pid:
        if was_closed:
            return None
        session.check_open()
    until = deadline(timeout, clock=session.engine.clock)
    check_flag("terminate", terminate)
    with session.idle:
        session.closers += 1
        session.idle.notify_all()
    try:
        waited = Waited.CALLED
        if not was_closed and not (terminate and timeout is None):
            waited = callbacks.wait_all(session, until)
            if waited is Waited.LATE and not terminate:
                return False
        # A callback or another thread may have closed it meanwhile.
        is_closed = None if session.is_closed else _finish(session)
        if waited is not Waited.STUCK:
            _wait_rest(session, None if terminate else until, is_interrupted)
        return is_closed
    finally:
        session.closers -= 1


def leave_block(session: Session, kind: type[BaseException] | None) -> None:
    """Close a cluster at the end of its ``with`` block, which ``kind`` has ended; None: nothing was raised.

    After an exception the jobs that have not ended are cancelled, and a full journal stays, so that the results can
    be recovered. After Ctrl-C callbacks are waited for ``CLOSE_S`` seconds.
    """
    session.keeps_journal = kind is not None
    if kind is not None and issubclass(kind, KeyboardInterrupt):
        close(session, None, terminate=True, is_interrupted=True)
    else:
        close(session, None, terminate=kind is not None)


def _finish(session: Session) -> bool:
    """Cancel all unfinished jobs, wait for their ends, and release the nodes. Returns True, as ``close`` does then.

    Jobs that are left after ``config.CancelGrace`` + ``CLOSE_S`` seconds are ended here as ``Abandoned``. ``submit``
    raises from now on.
    """
    # A callback that submits each cancelled job again would never come to an end.
    session.submit = _refuse
    if session.jobs:
        session.is_ending = True
        session.engine.call(cancellation.cancel_all, session)
        grace_s = float(config.CancelGrace) + CLOSE_S
        if not callbacks.wait_jobs(session, deadline(grace_s, clock=session.engine.clock)):
            session.engine.call(completion.give_up_jobs, session)
    return _release(session)


def _refuse(session: Session, *_job: object) -> NoReturn:
    """Refuse a job: replaces the function that submits jobs (``session.submit``) while a cluster is being closed.

    Raises:
        UsageError: Always.
    """
    session.check_open()
    raise UsageError(f"cluster {session.name} is being closed", hint="close it after the last submit")


def _release(session: Session) -> bool:
    """Release the nodes of a cluster, call ``cluster_status`` for each, report failures, and close its journal.

    Jobs that another thread has submitted meanwhile end as ``Abandoned``. Running maps are woken. The journal's file
    is removed unless ``keeps_journal``. Returns True, as ``close`` does then.
    """
    session.engine.call(node_views.refresh, session)
    session.is_closed = True
    if session.jobs:  # submitted by another thread meanwhile
        session.engine.call(completion.give_up_jobs, session)
    session.end_time = session.end_time or time.time()
    session.engine.call(session.backend.close, session.number)
    _tell_closed(session)
    session.tell_maps()
    session.tally.name = session.name
    failures.leave(session.tally)
    for display in list(session.displays):
        display.finish()
    if session.journal is not None:
        session.journal.close(remove=not session.keeps_journal)
        if session.keeps_journal:
            path = str(session.journal.path)
            notice(f"dispy.recover_jobs({path!r}) returns the jobs of cluster {session.name}")
    return True


def _tell_closed(session: Session) -> None:
    """Queue a call of ``cluster_status`` with ``DispyNode.Closed`` for each node in use.

    The ``DispyNode`` objects keep their counts of jobs and times, for ``status`` of the closed cluster.
    """
    for node in list(session.dispy_nodes.values()):
        session.tell(DispyNode.Closed, node, None)


def _wait_rest(session: Session, until: float | None, is_interrupted: bool) -> None:
    """Wait for the callbacks of a closed cluster that are queued by now.

    Args:
        session: The cluster.
        until: When to stop waiting (monotonic seconds); None: never.
        is_interrupted: True after Ctrl-C: wait ``CLOSE_S`` seconds, then say how many callbacks are left.
    """
    if not is_interrupted:
        callbacks.wait_called(session, until)
        return
    if callbacks.wait_called(session, session.engine.clock.monotonic() + CLOSE_S) is Waited.LATE:
        left = callback_thread.left(session.engine.callbacks.count_left())
        notice(f"interrupted: cluster {session.name} does not wait for callbacks, and {left}")


# At the end of the program.


def close_all(sessions: dict[int, Session], leave_results: Callable[[], bool]) -> tuple[bool, bool]:
    """Close all clusters at the end of the program.

    After an uncaught exception jobs are waited for, and results that no code of the program will see are left with
    nodes and journals, for ``recover_jobs``. After Ctrl-C, also one during this wait, jobs are ended at once.

    Args:
        sessions: Open clusters by number.
        leave_results: Leaves results of a program that has failed; True if there are any.

    Returns:
        Two flags: whether there was a Ctrl-C, so that callbacks are waited for only ``CLOSE_S`` seconds; and whether
        nodes and journals are to keep results, so that the engine must stop by ``Engine.leave``.
    """
    failed = getattr(sys, "last_type", None) if not hasattr(sys, "ps1") else None
    is_interrupted = failed is KeyboardInterrupt
    is_leaving = False
    try:
        if failed is not None and not is_interrupted:
            is_leaving = leave_results()
        if not is_interrupted:
            _say_waiting(list(sessions.values()))
        for session in list(sessions.values()):
            _close_at_exit(session, is_interrupted)
    except KeyboardInterrupt:
        is_interrupted = True
        is_leaving = False
        left = sum(len(session.jobs) for session in sessions.values())
        if left:
            notice(f"interrupted while the program waited for its jobs at its end: {left} are cancelled")
        with contextlib.suppress(KeyboardInterrupt):
            for session in list(sessions.values()):
                _close_at_exit(session, True)
    return is_interrupted, is_leaving


def _say_waiting(sessions: list[Session]) -> None:
    """Wait ``SAY_S`` seconds for the jobs of all clusters; if some are left then, log a line that counts them.

    The caller goes on waiting after that.
    """
    until = time.monotonic() + SAY_S
    if all(callbacks.wait_jobs(session, until) for session in sessions):
        return
    left = [said for said in map(_left, sessions) if said]
    if left:
        more = f" and {len(left) - SAID_MAX} more clusters" if len(left) > SAID_MAX else ""
        notice(f"waiting for {', '.join(left[:SAID_MAX])}{more}; Ctrl-C cancels them")


def _left(session: Session) -> str:
    """Returns the number of a cluster's unfinished jobs, in words, as "2 jobs of f"; empty if there are none.

    If only chunks of maps are unfinished: "a map of f".
    """
    open_jobs = list(session.jobs.values())
    count = sum([type(job) is not Chunk for job in open_jobs])
    if not count:
        return f"a map of {session.name}" if open_jobs else ""
    return f"{count} job of {session.name}" if count == 1 else f"{count} jobs of {session.name}"


def _close_at_exit(session: Session, is_interrupted: bool) -> None:
    """Close a cluster at the end of the program, after its jobs and callbacks have ended.

    After Ctrl-C (``is_interrupted``) nothing is waited for: unfinished jobs end here as ``Abandoned``, and nodes drop
    them.
    """
    if is_interrupted:
        session.is_ending = True
        session.engine.call(completion.give_up_jobs, session)
        _release(session)
    else:
        close(session, None, terminate=False)


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
