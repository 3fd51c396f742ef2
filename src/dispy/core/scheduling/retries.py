"""Retries: whether and where a job runs again that died, whose node was lost, or that came back unstarted."""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, TellRequeued
from dispy.core.scheduling.placement import end_here
from dispy.core.scheduling.state import Computation, Placement
from dispy.protocol import node
from dispy.protocol.node import ABANDONED, CANCELLED, Job

DEATHS_MAX = 3
"""A job that may run again and whose process dies so often is at fault itself, most likely."""


def retry_after_deaths(out: Outbox, placement: Placement, message: node.JobsEnded) -> None:
    """Requeue what may be run again of the jobs whose processes have died, unless they die each time."""
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

    Reentrant jobs go back to the head of their queue in the order they were sent; pinned ones and
    those that must not run twice end as ``ABANDONED``.
    """
    computation = placement.computation
    end_here(out, computation, _take_cancelling(placement), CANCELLED, "cancelled")
    jobs = list(placement.assigned.values())
    pinned = [job for job in jobs if job.number in computation.pinned] + list(placement.pinned)
    free = [job for job in jobs if job.number not in computation.pinned]
    abandoned = [job.number for job in pinned]
    if computation.reentrant:
        requeue(computation, free)
    else:
        abandoned = [job.number for job in free] + abandoned
    end_here(out, computation, abandoned, ABANDONED, reason)


def _take_cancelling(placement: Placement) -> list[int]:
    """Take the cancelled jobs off a node that will not tell their end any more; returns their numbers."""
    numbers = [number for number in placement.assigned if number in placement.cancelling]
    for number in numbers:
        del placement.assigned[number]
    placement.cancelling.clear()
    return numbers


def requeue_assigned(out: Outbox, placement: Placement, jobs: list[node.Job]) -> None:
    """Jobs that a node has are ours again."""
    computation = placement.computation
    for job in jobs:
        del placement.assigned[job.number]
        placement.started.discard(job.number)
    if jobs:
        requeue(computation, jobs)
        out.append(TellRequeued(computation.client, computation.number, [job.number for job in jobs]))


def requeue(computation: Computation, jobs: list[Job]) -> None:
    """Put jobs back to the head of their queue, as new attempts, oldest in front."""
    for job in reversed(jobs):
        again = Job(job.number, job.attempt + 1, job.payload, job.stream)
        pinned_to = computation.pinned.get(job.number)
        if pinned_to is None:
            computation.queue.appendleft(again)
        else:
            computation.placements[pinned_to].pinned.appendleft(again)
