"""Jobs on their way to the scheduler: taken on the thread that calls ``submit``, handed over on the engine's loop."""

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
from dispy.client.session.files import Held, is_file_item
from dispy.client.session.objects import hold
from dispy.core import scheduling as core
from dispy.errors import UsageError
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import CHUNK_NUMBERS_FROM
from dispy.protocol.node import Job
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState
    from dispy.core.scheduling.ids import NodeId

_numbers = itertools.count(1)
"""Numbers of jobs: unique in the process, never reused, and usually the job's id, too."""


def next_number() -> int:
    """Number that the next job gets, as far as no other thread is quicker."""
    return int(repr(_numbers)[len("count(") : -1])


_chunk_numbers = itertools.count(CHUNK_NUMBERS_FROM)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Submit = Callable[["ClusterState", Any, "NodeId | None", Args, Kwargs], DispyJob]
"""The way of a job; called with the cluster, the job's id, the only node where it may run, and its arguments."""


def choose_way(is_bounded: bool, has_journal: bool) -> Submit:
    """The way of a cluster's jobs.

    Args:
        is_bounded: There may be so many and no more.
        has_journal: All of them go into a journal.
    """
    submit = submit_bounded if is_bounded else submit_at_once
    return partial(_submit_noted, submit) if has_journal else submit


def submit_at_once(
    cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """The path of every job in the caller's thread: pickle, note, and wake the loop if it sleeps."""
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
    # A large payload is a view of memory; it goes out as a stream and is never encoded.
    message = Job(number, 0, data)  # type: ignore[arg-type]
    job = DispyJob(job_id, number, cluster, time.time())
    if payload.has_used():
        hold(cluster, number)
    cluster._jobs[number] = job
    if cluster.cluster_status is not None:
        cluster._engine.callbacks.call(cluster.cluster_status, [(CREATED, None, job)])
    if files:
        cluster._held[number] = [*cluster._held.get(number, ()), *held]
        cluster._engine.post(_submit_filed, cluster, node, message, files)
        return job
    if node is not None:
        cluster._engine.post(_submit_pinned, cluster, node, message)
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
    """What a job brings: code, the places of modules that it can import, and all files."""
    code = check_job_depends(depends, cluster._computation)
    items = list(filter(is_file_item, depends or ()))
    files, held = cluster._shipped.take(items, sent=cluster._files)
    is_program = cluster._computation.is_program  # to which they are files as any others
    modules = [] if is_program else [entry.path for entry in files if entry.path.endswith(ENDINGS)]
    return code, modules, files, held


def submit_bounded(
    cluster: ClusterState, job_id: Any, node: NodeId | None, args: Args, kwargs: Kwargs
) -> DispyJob:
    """The same with ``max_queued``: not before there is room."""
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
    """The same with a full journal: not while it has too much to write."""
    if cluster._journal is not None and cluster._journal.is_behind and not cluster._engine.is_current():
        cluster._journal.wait_for_room()
    return submit(cluster, job_id, node, args, kwargs)


def _wait_for_room(cluster: ClusterState) -> None:
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
    """The path of a chunk of a ``map``."""
    cluster._check_open()
    number = chunk._number = next(_chunk_numbers)
    if payload.has_used():
        hold(cluster, number)
    cluster._jobs[number] = chunk
    cluster._inbox.append(Job(number, 0, data))  # type: ignore[arg-type]  # as above
    if not cluster._is_posted:
        cluster._is_posted = True
        cluster._engine.post(take_inbox, cluster)


# On the loop.


def take_inbox(cluster: ClusterState) -> None:
    """Hand over what has been submitted since the last time."""
    cluster._is_posted = False
    inbox = cluster._inbox
    popleft = inbox.popleft
    jobs = [popleft() for _ in range(len(inbox))]
    if jobs:
        if cluster._journal is not None:
            cluster._journal.submitted(jobs)
        cluster._engine.service.submit(core.SubmitJobs(cluster._number, jobs))
        cluster._engine.service.schedule_tick()


def _submit_filed(cluster: ClusterState, node: NodeId | None, job: Job, files: list[FileEntry]) -> None:
    take_inbox(cluster)
    if cluster._journal is not None:
        # Whoever resumes jobs does not have their files: like those for one node they are not.
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(core.SubmitJobs(cluster._number, [job], node, {job.number: files}))
    cluster._engine.service.schedule_tick()


def _submit_pinned(cluster: ClusterState, node: NodeId, job: Job) -> None:
    if cluster._journal is not None:
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(core.SubmitJobs(cluster._number, [job], node))
