"""``aas_completed``: jobs in the order in which they end, for coroutines."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from dispy.client.arguments import deadline
from dispy.client.in_asyncio.iterator import LoopIterator
from dispy.client.in_asyncio.signal import LoopSignal
from dispy.client.job import DispyJob
from dispy.client.jobs.type_parameters import R
from dispy.client.waiting import Watch, check_jobs, ended_jobs, late


def aas_completed(jobs: Iterable[DispyJob[R]], timeout: float | None = None) -> LoopIterator[DispyJob[R]]:
    """``as_completed`` for ``async for``: yield jobs in the order in which they end, without blocking the loop.

    Jobs that have ended already come first. Leaving the loop, or cancelling its task, leaves the jobs alone.

    Args:
        jobs: Jobs of one cluster or several; a job that is given twice comes once.
        timeout: Seconds for all of them, from this call; None: no limit.

    Raises:
        TimeoutError: From the iterator: the next job has not ended in time; says how many are left.
        UsageError: The argument is not several jobs, or one of them belongs to a parent process.
    """
    left = check_jobs(jobs, "aas_completed")
    signal = LoopSignal()
    watch: Watch[R] = Watch(signal)
    steps = ended_jobs(left, watch)
    return LoopIterator(steps, signal, watch.ended.__len__, deadline(timeout), partial(late, left))
