"""Submitted jobs on the engine's loop: from the cluster's inbox to the scheduler.

Threads of the program append to ``cluster._inbox`` and post one call of ``take_inbox`` for all jobs that come before
it runs. Code that hands the scheduler something else after these jobs (an object, a cancellation) calls
``take_inbox`` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.core import scheduling as core

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState
    from dispy.core.scheduling.ids import NodeId
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job


def take_inbox(cluster: ClusterState) -> None:
    """Hand over all jobs of the inbox to the scheduler, in the order of submission. On the loop.

    With a journal they are noted there first. Does nothing if the inbox is empty.
    """
    cluster._is_posted = False
    inbox = cluster._inbox
    popleft = inbox.popleft
    jobs = [popleft() for _ in range(len(inbox))]
    if jobs:
        if cluster._journal is not None:
            cluster._journal.submitted(jobs)
        cluster._engine.service.submit(core.SubmitJobs(core.EMBEDDED, cluster._number, jobs))
        cluster._engine.service.schedule_tick()


def submit_filed(cluster: ClusterState, node: NodeId | None, job: Job, files: list[FileEntry]) -> None:
    """Hand over a job that has files of its own to the scheduler, after the jobs of the inbox. On the loop.

    With a journal the job is noted there first, as one that a recovery does not resume, as it lacks the files.
    Args:
        cluster: Cluster of the job.
        node: The only node where the job may run; None: any.
        job: Message with the job's number and pickled arguments.
        files: Files that must be in the node's working directory while the job runs.
    """
    take_inbox(cluster)
    if cluster._journal is not None:
        # A program that resumes jobs does not have their files. So such a job is not resumed, like one for one node.
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(
        core.SubmitJobs(core.EMBEDDED, cluster._number, [job], node, {job.number: files})
    )
    cluster._engine.service.schedule_tick()


def submit_pinned(cluster: ClusterState, node: NodeId, job: Job) -> None:
    """Hand over a job of ``submit_node``, which may run only on this node, to the scheduler. On the loop.

    With a journal the job is noted there first, as one that a recovery does not resume. The inbox is not taken
    before, so jobs that were submitted earlier may be handed over after this one.
    """
    if cluster._journal is not None:
        cluster._journal.submitted([job], is_pinned=True)
    cluster._engine.service.handle(core.SubmitJobs(core.EMBEDDED, cluster._number, [job], node))
