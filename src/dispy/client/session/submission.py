"""Submission of jobs, on the thread that calls ``submit``: pickle, store, wake the engine's loop if it sleeps.

``inbox`` takes the jobs on the loop and hands them over to the scheduler.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.code.computation import check_job_depends
from dispy.client.code.imports import ENDINGS
from dispy.client.job import CREATED, DispyJob
from dispy.client.map.chunk_job import Chunk
from dispy.client.session.files import Held
from dispy.client.session.inbox import submit_filed, submit_pinned, take_inbox
from dispy.client.session.objects import hold
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import UsageError
from dispy.files.manifest import is_file_item
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import CHUNK_NUMBERS_FROM
from dispy.protocol.node import Job
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState
    from dispy.core.scheduling.ids import NodeId

_numbers = itertools.count(1)
"""Source of numbers of jobs, from 1: unique in the process, never reused, usually equal to the id of the job."""


def next_number() -> int:
    """Returns the number that the next job gets, unless another thread submits one first. Does not take the number.

    Seeds of jobs count from the first number of their cluster.
    """
    return int(repr(_numbers)[len("count(") : -1])


_chunk_numbers = itertools.count(CHUNK_NUMBERS_FROM)
"""Source of numbers of chunks of maps: a range of their own, from 2**40, so that ids of jobs have no gaps."""

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Submit = Callable[["ClusterState", Any, "NodeId | None", Args, Kwargs], DispyJob]
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
    cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Pickle the arguments, make the job, and queue its message for the loop. Does not look at ``max_queued``.

    Each job takes this path, on the caller's thread. If no other job is unfinished the message may leave at once,
    from this thread. ``node`` is the only node where the job may run; None: any.

    Returns:
        The job, which is in ``cluster._jobs``.

    Raises:
        PicklingError: An argument cannot be sent.
        UsageError: The cluster is closed or of another process, or a file or reference cannot be used.
    """
    if cluster._is_closed or cluster._pid != process_identity.pid:
        cluster._check_open()
    number = next(_numbers)
    code: list[Any] = []
    files: list[FileEntry] = []
    held: list[Held] = []
    modules: list[str] = []
    if kwargs and "dispy_job_depends" in kwargs:
        code, modules, files, held = _take_depends(cluster, kwargs.pop("dispy_job_depends"))
    if cluster._computation.adapts:
        args = cluster._computation.arguments(args, kwargs)
    given_id = None if job_id == number and type(job_id) is int else job_id
    data = (
        payload.dump_call_with(code, modules, args, kwargs, given_id, cluster._computation.known)
        if code or modules
        else payload.dump_call(args, kwargs, given_id, cluster._computation.known)
    )
    # A large payload is a memoryview, not bytes as the field says: it goes out as a stream and is never encoded.
    message = Job(number, 0, data)  # type: ignore[arg-type]
    job = DispyJob(job_id, number, cluster, time.time())
    if payload.has_used():
        hold(cluster, number)
    cluster._jobs[number] = job
    if cluster.cluster_status is not None:
        cluster._engine.callbacks.call(cluster.cluster_status, [(CREATED, None, job)])
    if files:
        cluster._held[number] = [*cluster._held.get(number, ()), *held]
        cluster._engine.post(submit_filed, cluster, node, message, files)
        return job
    if node is not None:
        cluster._engine.post(submit_pinned, cluster, node, message)
        return job
    if (
        len(cluster._jobs) == 1
        and not cluster._is_posted
        and cluster._journal is None
        and cluster._engine.service.try_submit(EMBEDDED, cluster._number, message)
    ):
        return job
    cluster._inbox.append(message)
    if not cluster._is_posted:
        cluster._is_posted = True
        cluster._engine.post(take_inbox, cluster)
    return job


def _take_depends(
    cluster: ClusterState, depends: Any
) -> tuple[list[Any], list[str], list[FileEntry], list[Held]]:
    """Check ``dispy_job_depends`` of a job, and hash its files. Reads files, on the caller's thread.

    Returns:
        Functions and classes that the job brings; paths, on the node, of modules that it can import; descriptions of
        all its files, sorted by path; and holders of the files, to be kept until the job has ended.

    Raises:
        UsageError: An element cannot be used, or a file cannot be sent.
    """
    code = check_job_depends(depends, cluster._computation)
    items = list(filter(is_file_item, depends or ()))
    files, held = cluster._shipped.take(items, sent=cluster._files)
    is_program = cluster._computation.is_program  # a program does not import: modules are files to it
    modules = [] if is_program else [entry.path for entry in files if entry.path.endswith(ENDINGS)]
    return code, modules, files, held


def submit_bounded(
    cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Submit a job as ``submit_at_once``, but first wait until fewer than ``max_queued`` jobs are unfinished.

    On the engine's own threads (callbacks, too) the job is submitted at once: waiting there would stop them all.

    Raises:
        UsageError: As ``submit_at_once``; or the cluster is closed while the caller waits.
    """
    if cluster._engine.is_current():
        return submit_at_once(cluster, job_id, node, args, kwargs)
    is_full = len(cluster._jobs) >= cluster._queued_max
    with cluster._room:
        if is_full or len(cluster._jobs) >= cluster._queued_max:
            _wait_for_room(cluster)
        return submit_at_once(cluster, job_id, node, args, kwargs)


def _submit_noted(
    submit: Submit, cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Submit a job by ``submit``, after a wait while the cluster's journal has too much to write (back-pressure).

    Too much is ``journal.writer.UNWRITTEN_MAX`` bytes of payloads. The engine's own threads do not wait.
    """
    if cluster._journal is not None and cluster._journal.is_behind and not cluster._engine.is_current():
        cluster._journal.wait_for_room()
    return submit(cluster, job_id, node, args, kwargs)


def _wait_for_room(cluster: ClusterState) -> None:
    """Wait until fewer than ``max_queued`` jobs are unfinished. The caller holds ``_room`` until it has submitted.

    Raises:
        UsageError: The cluster is closed, or begins to be.
    """
    with cluster._idle:
        cluster._room_waiters += 1
        try:
            while True:
                cluster._check_open()
                if cluster._closers:
                    raise UsageError(
                        f"cluster {cluster.name} is being closed; submit waited for room",
                        hint="close it after the last submit",
                    )
                if len(cluster._jobs) < cluster._queued_max:
                    return
                cluster._idle.wait()
        finally:
            cluster._room_waiters -= 1


def submit_chunk(cluster: ClusterState, chunk: Chunk, data: payload.Buffer) -> None:
    """Submit a chunk of a ``map`` as a job, under a new number, on the thread that iterates over the map.

    Does not wait while ``max_queued`` jobs are unfinished: the map itself limits its unfinished chunks.

    Args:
        cluster: Cluster of the map.
        chunk: The chunk; its ``_number`` is set.
        data: Pickled items of the chunk: the payload of the job's message.

    Raises:
        UsageError: The cluster is closed, or a reference among the items is of another cluster.
    """
    cluster._check_open()
    number = chunk._number = next(_chunk_numbers)
    if payload.has_used():
        hold(cluster, number)
    cluster._jobs[number] = chunk
    cluster._inbox.append(Job(number, 0, data))  # type: ignore[arg-type]  # as in ``submit_at_once``
    if not cluster._is_posted:
        cluster._is_posted = True
        cluster._engine.post(take_inbox, cluster)
