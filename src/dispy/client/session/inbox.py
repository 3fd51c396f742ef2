"""Submitted jobs on the engine's loop, where they are handed over to the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.core import scheduling as core

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState
    from dispy.core.scheduling.ids import NodeId
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job


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


def submit_filed(cluster: ClusterState, node: NodeId | None, job: Job, files: list[FileEntry]) -> None:
    take_inbox(cluster)
    if cluster._journal is not None:
        # Whoever resumes jobs does not have their files: like those for one node they are not.
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(core.SubmitJobs(cluster._number, [job], node, {job.number: files}))
    cluster._engine.service.schedule_tick()


def submit_pinned(cluster: ClusterState, node: NodeId, job: Job) -> None:
    if cluster._journal is not None:
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(core.SubmitJobs(cluster._number, [job], node))
