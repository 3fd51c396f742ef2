"""Futures of calls that an executor was given: those of jobs, and those of calls that could not be sent."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from dispy.client.jobs.future import JobFuture as JobFuture

T = TypeVar("T")


class FailedFuture(JobFuture[T]):
    """A call that could not be sent, and has no job.

    Args:
        error: Why it could not be sent.
    """

    def __init__(self, error: Exception) -> None:
        Future.__init__(self)
        self._is_whole = True
        self.set_exception(error)

    def running(self) -> bool:
        """Returns False."""
        return False

    def cancel(self) -> bool:
        """Returns False: the call has ended."""
        return False
