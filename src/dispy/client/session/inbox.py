"""Submitted jobs on the engine's loop: from the cluster's inbox to the backend.

Threads of the program append to ``session.inbox`` and post one call of ``take_inbox`` for all jobs that come before
it runs. Code that hands the scheduler something else after these jobs (an object, a cancellation) calls
``take_inbox`` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job
    from dispy.protocol.views import NodeId


def take_inbox(session: Session) -> None:
    """Hand over all jobs of the inbox to the scheduler, in the order of submission. On the loop.

    With a journal they are noted there first. Does nothing if the inbox is empty.
    """
    session.is_posted = False
    inbox = session.inbox
    popleft = inbox.popleft
    jobs = [popleft() for _ in range(len(inbox))]
    if jobs:
        if session.journal is not None:
            session.journal.submitted(jobs)
        session.backend.submit(session.number, jobs)


def submit_filed(session: Session, node: NodeId | None, job: Job, files: list[FileEntry]) -> None:
    """Hand over a job that has files of its own to the scheduler, after the jobs of the inbox. On the loop.

    With a journal the job is noted there first, as one that a recovery does not resume, as it lacks the files.
    Args:
        session: Cluster of the job.
        node: The only node where the job may run; None: any.
        job: Message with the job's number and pickled arguments.
        files: Files that must be in the node's working directory while the job runs.
    """
    take_inbox(session)
    if session.journal is not None:
        # A program that resumes jobs does not have their files. So such a job is not resumed, like one for one node.
        session.journal.submitted([job], is_pinned=True)
    session.backend.submit(session.number, [job], node, files)


def submit_pinned(session: Session, node: NodeId, job: Job) -> None:
    """Hand over a job of ``submit_node``, which may run only on this node, to the scheduler. On the loop.

    With a journal the job is noted there first, as one that a recovery does not resume.
    """
    take_inbox(session)
    if session.journal is not None:
        session.journal.submitted([job], is_pinned=True)
    session.backend.submit(session.number, [job], node)
