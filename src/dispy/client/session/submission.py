"""Submission of jobs, on the thread that calls ``submit``: pickle, note, wake the engine's loop if it sleeps.

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
"""Numbers of jobs, from 1: unique in the process, never reused, and usually equal to the id that a job gets."""


def next_number() -> int:
    """Returns the number that the next job gets, unless another thread submits one first."""
    return int(repr(_numbers)[len("count(") : -1])


_chunk_numbers = itertools.count(CHUNK_NUMBERS_FROM)
"""Numbers of chunks of maps: a range of their own, so that ids of jobs have no gaps."""

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Submit = Callable[["ClusterState", Any, "NodeId | None", Args, Kwargs], DispyJob]
"""A function that submits a job.

Called with the cluster, the job's id, the only node where the job may run (None: any), and the positional and keyword
arguments of the job.
"""


def choose_way(is_bounded: bool, has_journal: bool) -> Submit:
    """Choose the function that submits a cluster's jobs.

    Args:
        is_bounded: True with ``max_queued``: submission waits for room.
        has_journal: True if all jobs go into a journal of the cluster: submission waits while that is behind.
    """
    submit = submit_bounded if is_bounded else submit_at_once
    return partial(_submit_noted, submit) if has_journal else submit


def submit_at_once(
    cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """Submit a job and return at once. The path of every job in the caller's thread.

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
        and cluster._engine.service.try_submit(cluster._number, message)
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
    """Take up ``dispy_job_depends`` of a job. Reads files, on the caller's thread.

    Returns:
        Functions and classes that the job brings, paths of modules that it can import, all files, and their holders.

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
    """Submit a job with ``max_queued``: wait until fewer jobs than that are unfinished.

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
    """Submit a job by ``submit``; wait first while the cluster's journal has too much to write (back-pressure)."""
    if cluster._journal is not None and cluster._journal.is_behind and not cluster._engine.is_current():
        cluster._journal.wait_for_room()
    return submit(cluster, job_id, node, args, kwargs)


def _wait_for_room(cluster: ClusterState) -> None:
    """Wait until fewer than ``max_queued`` jobs are unfinished; called with ``_room`` held.

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
    """Submit a chunk of a ``map``; never waits for room. Its number is set here.

    Args:
        cluster: Cluster of the map.
        chunk: The chunk.
        data: Its pickled items.

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
