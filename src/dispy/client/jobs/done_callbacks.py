"""Functions of the program that are called once with a job that has ended (``DispyJob.add_done_callback``)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dispy.client.arguments import describe
from dispy.client.jobs.state import JobState
from dispy.errors import UsageError

logger = logging.getLogger("dispy.client")


class DoneCallback:
    """The waiter of one function for the end of one job.

    Args:
        function: Called with the job, on the thread of callbacks.
        engine: The threads of the job's cluster.
    """

    __slots__ = ("_engine", "_function")

    def __init__(self, function: Callable[[Any], object], engine: Any) -> None:
        self._function = function
        self._engine = engine

    def on_ended(self, job: JobState) -> None:
        """Queue the call; on the engine's threads."""
        self._engine.callbacks.call(self._function, [(job,)])


def call_when_done(job: JobState, function: Callable[[Any], object]) -> None:
    """Have a function called once with a job: at once if it has ended, else at its end on the thread of callbacks.

    Raises:
        UsageError: The function cannot be called; or the end of the job is never told in this process.
    """
    if not callable(function):
        raise UsageError(
            f"add_done_callback takes a function, not {describe(function)}",
            hint="give a function of one argument, the job",
        )
    if job._is_final:  # pyright: ignore[reportPrivateUsage]  # not for programs
        try:
            function(job)
        except Exception:
            logger.exception("callback %r failed", function)
        return
    add_called_waiter(job, DoneCallback(function, job._session and job._session.engine))  # pyright: ignore[reportPrivateUsage]


def add_called_waiter(job: JobState, waiter: Any) -> None:
    """Have a waiter told the end of a job that will call functions of the program: ``wait`` and ``close`` of the
    cluster wait for these.

    Raises:
        UsageError: The end of the job is never told in this process.
    """
    job._check_process()  # pyright: ignore[reportPrivateUsage]  # not for programs
    session = job._session  # pyright: ignore[reportPrivateUsage]
    if session is not None:
        session.has_done_callbacks = True
    job._add_waiter(waiter)  # pyright: ignore[reportPrivateUsage]
