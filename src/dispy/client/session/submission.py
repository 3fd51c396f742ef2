"""Submission of jobs, on the thread that calls ``submit``: pickle, store, wake the engine's loop if it sleeps.

``inbox`` takes the jobs on the loop and hands them over to the scheduler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.code.computation import check_job_depends
from dispy.client.code.imports import ENDINGS
from dispy.client.code.shipped_files import Held
from dispy.client.job import CREATED, DispyJob
from dispy.client.map.chunk_job import Chunk
from dispy.client.session.inbox import submit_filed, submit_pinned, take_inbox
from dispy.client.session.objects import check_used, hold
from dispy.errors import UsageError
from dispy.files.manifest import is_file_item
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Job
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeId

logger = logging.getLogger("dispy.client")

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Submit = Callable[["Session", Any, "NodeId | None", Args, Kwargs], DispyJob]
"""A function that submits a job, and returns it.

Called with the cluster, the job's id, the only node where the job may run (None: any), and the positional and keyword
arguments of the job.
"""


def choose_way(is_bounded: bool, has_journal: bool) -> Submit:
    """Returns the function that submits a cluster's jobs, chosen once so that each job pays only for what is needed.

    Args:
        is_bounded: True with ``max_queued``: submission waits while that number of jobs is unfinished.
        has_journal: True if all jobs go into a journal of the cluster: submission waits while the journal has too
            much to write.
    """
    submit = submit_bounded if is_bounded else submit_at_once
    return partial(_submit_noted, submit) if has_journal else submit


def submit_at_once(
    session: Session, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Pickle the arguments, make the job, and queue its message for the loop. Does not look at ``max_queued``.

    Each job takes this path, on the caller's thread. If no other job is unfinished the message may leave at once,
    from this thread. ``node`` is the only node where the job may run; None: any. The job is in ``session.jobs`` then.

    Raises:
        PicklingError: An argument cannot be sent.
        UsageError: The cluster is closed or of another process, or a file or reference cannot be used.
    """
    if session.is_closed or session.pid != process_identity.pid:
        session.check_open()
    code, modules, files, held = _NOTHING
    if kwargs and "dispy_job_depends" in kwargs:
        code, modules, files, held = _take_depends(session, kwargs.pop("dispy_job_depends"))
    if session.computation.adapts:
        args = session.computation.arguments(args, kwargs)
    numbers = session.numbers
    number = numbers.take() if numbers.returned else next(numbers.jobs)
    try:
        given_id = None if job_id == number and type(job_id) is int else job_id
        data = (
            payload.dump_call_with(code, modules, args, kwargs, given_id, session.computation.known)
            if code or modules
            else payload.dump_call(args, kwargs, given_id, session.computation.known)
        )
        used = check_used(session) if payload.has_used() else None
    except BaseException:
        numbers.returned.append(number)
        raise
    # A large payload is a memoryview, not bytes as the field says: it goes out as a stream and is never encoded.
    message = Job(number, 0, data)  # type: ignore[arg-type]
    job = DispyJob(job_id, number, session, time.time())
    if used:
        hold(session, number, used)
    session.jobs[number] = job
    if session.cluster_status is not None:
        session.engine.callbacks.call(session.cluster_status, [(CREATED, None, job)])
    if files:
        hold(session, number, held)
        session.engine.post(submit_filed, session, node, message, files)
        return job
    if node is not None:
        session.engine.post(submit_pinned, session, node, message)
        return job
    if (
        len(session.jobs) == 1
        and not session.is_posted
        and session.journal is None
        and session.backend.try_submit(session.number, message)
    ):
        return job
    session.inbox.append(message)
    if not session.is_posted:
        session.is_posted = True
        session.engine.post(take_inbox, session)
    return job


_Brought = tuple[list[Any], list[str], list[FileEntry], list[Held]]
"""Code, modules, files and holders of files that a job brings, as ``_take_depends`` returns them."""

_NOTHING: _Brought = ([], [], [], [])
"""Empty lists, for a job that brings nothing; never changed."""


def _take_depends(session: Session, depends: Any) -> _Brought:
    """Check ``dispy_job_depends`` of a job, and hash its files. Reads files, on the caller's thread.

    Returns:
        Functions and classes that the job brings; paths, on the node, of modules that it can import; descriptions of
        all its files, sorted by path; and holders of the files, to be kept until the job has ended.

    Raises:
        UsageError: An element cannot be used, or a file cannot be sent.
    """
    code = check_job_depends(depends, session.computation)
    items = list(filter(is_file_item, depends or ()))
    files, held = session.shipped.take(items, sent=session.options.files)
    is_program = session.computation.is_program  # a program does not import: modules are files to it
    modules = [] if is_program else [entry.path for entry in files if entry.path.endswith(ENDINGS)]
    return code, modules, files, held


def submit_bounded(
    session: Session, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Submit a job as ``submit_at_once``, but first wait until fewer than ``max_queued`` jobs are unfinished.

    On the engine's own threads (callbacks, too) the job is submitted at once: waiting there would stop them all.

    Raises:
        UsageError: As ``submit_at_once``; or the cluster is closed while the caller waits.
    """
    if session.engine.is_current():
        return submit_at_once(session, job_id, node, args, kwargs)
    is_full = session.full or len(session.jobs) >= session.options.queued_max
    with session.room:
        if is_full or session.full or len(session.jobs) >= session.options.queued_max:
            _wait_for_room(session)
        return submit_at_once(session, job_id, node, args, kwargs)


def submit_nowait(session: Session, args: Args, kwargs: Kwargs) -> DispyJob | None:
    """Submit a job if the caller does not have to wait for that; returns None if he has to. For asyncio loops."""
    journal = session.journal
    if (journal is None or not journal.thread.is_behind) and session.room.acquire(blocking=False):
        try:
            if not session.full and len(session.jobs) < session.options.queued_max:
                return session.submit(session, next(DispyJob.id_iter), None, args, kwargs)
        finally:
            session.room.release()
    if session.engine.is_current():
        return session.submit(session, next(DispyJob.id_iter), None, args, kwargs)
    return None


def with_room(session: Session, then: Callable[[], None]) -> None:
    """Wait as ``submit`` does until a job may be submitted, and call a function that submits one.

    Raises:
        UsageError: The cluster is closed, or begins to be.
    """
    session.check_open()
    if session.journal is not None and session.journal.thread.is_behind:
        session.journal.thread.wait_for_room()
    with session.room:
        if session.full or len(session.jobs) >= session.options.queued_max:
            _wait_for_room(session)
        then()


def _submit_noted(
    submit: Submit, session: Session, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Submit a job by ``submit``, after a wait while the cluster's journal has too much to write (back-pressure).

    Too much is ``journal.thread.UNWRITTEN_MAX`` bytes of payloads. The engine's own threads do not wait.
    """
    if session.journal is not None and session.journal.thread.is_behind and not session.engine.is_current():
        session.journal.thread.wait_for_room()
    return submit(session, job_id, node, args, kwargs)


def set_window(session: Session, reason: str) -> None:
    """Have ``submit`` wait, as the scheduler is full, for a reason that is logged; empty: no more. On the loop."""
    if reason:
        logger.warning("submit of cluster %s waits: %s", session.name, reason)
    with session.idle:
        session.full = reason
        session.idle.notify_all()


def _wait_for_room(session: Session) -> None:
    """Wait until fewer than ``max_queued`` jobs are unfinished. The caller holds ``room`` until it has submitted.

    Raises:
        UsageError: The cluster is closed, or begins to be.
    """
    with session.idle:
        session.room_waiters += 1
        try:
            while True:
                session.check_open()
                if session.closers:
                    raise UsageError(
                        f"cluster {session.name} is being closed; submit waited for room",
                        hint="close it after the last submit",
                    )
                if not session.full and len(session.jobs) < session.options.queued_max:
                    return
                session.idle.wait()
        finally:
            session.room_waiters -= 1


def adopt(session: Session, jobs: list[DispyJob]) -> None:
    """Take jobs of a dead program into a session, under the numbers that they have. The caller submits them."""
    for job in jobs:
        job._session = session  # pyright: ignore[reportPrivateUsage]  # it had none
        session.jobs[job.number] = job


def submit_chunk(session: Session, chunk: Chunk, data: payload.Buffer) -> None:
    """Submit a chunk of a ``map`` as a job, under a new number, on the thread that iterates over the map.

    Does not wait while ``max_queued`` jobs are unfinished: the map itself limits its unfinished chunks.

    Args:
        session: Cluster of the map.
        chunk: The chunk; its ``number`` is set.
        data: Pickled items of the chunk: the payload of the job's message.

    Raises:
        UsageError: The cluster is closed, or a reference among the items is of another cluster.
    """
    session.check_open()
    used = check_used(session) if payload.has_used() else None
    number = chunk.number = next(session.numbers.chunks)
    if used:
        hold(session, number, used)
    session.jobs[number] = chunk
    session.inbox.append(Job(number, 0, data))  # type: ignore[arg-type]  # as in ``submit_at_once``
    if not session.is_posted:
        session.is_posted = True
        session.engine.post(take_inbox, session)
