"""Retries: whether and where a job runs again that died, whose node was lost, or that came back unstarted.

A retry is a new attempt of the job: same number, next attempt, so that a late message about the earlier attempt is
told apart. It goes to the head of its queue, in the order in which the jobs were sent; a pinned job keeps its node.

| what happened                   | computation is reentrant              | computation is not reentrant  |
|---------------------------------|---------------------------------------|-------------------------------|
| the job's process died          | retry; the 3rd death is final         | ends as the node said         |
| its node was lost or taken away | retry; ABANDONED if pinned            | ABANDONED                     |
| the node gave it back unstarted | retry (``jobs.on_jobs_returned``)     | retry, since it never ran     |
| it came back unstarted, pinned  | ABANDONED if the placement is FAILED, | as on the left                |
| to a node that is not open      | CANCELLED otherwise                   |                               |
| any of these, cancelled before  | CANCELLED; after a death as the node said                             |

A job that never reached its node is no retry: it is sent again as the same attempt (``nodes.on_reconciled``), or
requeued here if the node has to load the computation first.
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, TellRequeued
from dispy.core.scheduling.placement import end_here
from dispy.core.scheduling.state import Computation, Placement
from dispy.protocol import node
from dispy.protocol.node import ABANDONED, CANCELLED, Job

DEATHS_MAX = 3
"""Number of deaths of a job's process after which it is not run again, but ends: after three the job itself is most
likely at fault."""


def retry_after_deaths(out: Outbox, placement: Placement, message: node.JobsEnded) -> None:
    """Requeue jobs of a reentrant computation whose processes have died; call before their ends are told.

    ``message`` tells the ends of jobs on the placement's node; others than deaths are left alone. A job stays
    assigned, and ends as the node said, if it was cancelled or its process has died ``DEATHS_MAX`` times; the number
    of deaths is added to its reason then.
    """
    computation = placement.computation
    again = []
    for result in message.ended:
        job = placement.assigned.get(result.number)
        if job is None or job.attempt != result.attempt:
            continue
        if result.died:
            deaths = computation.deaths[job.number] = computation.deaths.get(job.number, 0) + 1
            if deaths == DEATHS_MAX:
                result.reason += f"; it was started {DEATHS_MAX} times and died each time"
            elif job.number not in placement.cancelling:
                again.append(job)
    requeue_assigned(out, placement, again)


def retry_after_loss(out: Outbox, placement: Placement, reason: str) -> None:
    """Decide about the jobs of a placement that is gone: those that may run again do so elsewhere, the others end.

    Jobs of a reentrant computation go back to the head of its queue in the order in which they were sent. Cancelled
    jobs end as ``CANCELLED``; pinned jobs, and assigned ones that must not run twice, end as ``ABANDONED`` with the
    reason (in words). The client is told. The caller must call ``place`` next.
    """
    computation = placement.computation
    end_here(out, computation, _take_cancelling(placement), CANCELLED, "cancelled")
    jobs = list(placement.assigned.values())
    pinned = [job for job in jobs if job.number in computation.pinned] + list(placement.pinned)
    free = [job for job in jobs if job.number not in computation.pinned]
    abandoned = [job.number for job in pinned]
    if computation.reentrant:
        requeue(computation, free)
        if free:
            out.append(TellRequeued(computation.client, computation.number, [job.number for job in free]))
    else:
        abandoned = [job.number for job in free] + abandoned
    end_here(out, computation, abandoned, ABANDONED, reason)


def _take_cancelling(placement: Placement) -> list[int]:
    """Remove the cancelled jobs from ``assigned`` of a placement that is gone; returns their numbers, in the order in
    which they were sent.

    No node will tell the end of these jobs: the caller ends them as ``CANCELLED``.
    """
    numbers = [number for number in placement.assigned if number in placement.cancelling]
    for number in numbers:
        del placement.assigned[number]
    placement.cancelling.clear()
    return numbers


def requeue_assigned(out: Outbox, placement: Placement, jobs: list[node.Job]) -> None:
    """Move assigned jobs that a node does not have back to the head of their queue, as new attempts; tell the client.

    Called for jobs whose process died, and after a reconnect for jobs that never arrived and cannot be sent now.
    """
    computation = placement.computation
    for job in jobs:
        del placement.assigned[job.number]
        placement.started.discard(job.number)
    if jobs:
        requeue(computation, jobs)
        out.append(TellRequeued(computation.client, computation.number, [job.number for job in jobs]))


def requeue(computation: Computation, jobs: list[Job]) -> None:
    """Put jobs that are no longer assigned back to the head of their queue, as new attempts, in their order.

    A pinned job goes to ``Placement.pinned`` of its node, any other to ``Computation.queue``. The caller tells the
    client.
    """
    for job in reversed(jobs):
        again = Job(job.number, job.attempt + 1, job.payload, job.where)
        pinned_to = computation.pinned.get(job.number)
        if pinned_to is None:
            computation.queue.appendleft(again)
        else:
            placement = computation.placements[pinned_to]
            placement.pinned.appendleft(again)
            placement.node.pinned[computation.wire] = placement
