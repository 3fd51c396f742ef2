"""Ends of jobs as ``concurrent.futures`` has them: results, exceptions with a remote traceback, ``WorkerDied``."""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError, process
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dispy.client.job import FINISHED, DispyJob
from dispy.errors import JobError, LostError, PicklingError, RemoteTraceback, UnpicklingError

_RemoteTraceback: Any = process._RemoteTraceback  # pyright: ignore[reportPrivateUsage]  # what the pool gives
"""Class of the cause of exceptions that calls of the pool have raised. It takes the text of the traceback."""


class WorkerDied(BrokenProcessPool):
    """The process of a call has died, or its node was lost; or a call or result cannot be rebuilt where it arrives.

    Only this call has failed: the executor goes on. A program that treats ``BrokenProcessPool`` as the end of its
    pool treats this so, too.
    """


class SendingError(PicklingError, pickle.PicklingError):
    """A function, argument or result cannot be sent; the text says which object in it."""


def of_job(job: DispyJob) -> tuple[Any, BaseException | None]:
    """Returns the result of an ended job, and its exception: one of both is None.

    The exception is a new one at each call: a ``CancelledError`` for a cancelled job, else what ``as_raised`` says.
    """
    if job._status == FINISHED:  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look at a failure
        return job.result, None
    if job._was_cancelled():  # pyright: ignore[reportPrivateUsage]
        return None, CancelledError()
    error = job.error
    assert error is not None
    if type(error) is JobError:  # it has no exception of its own that could be rebuilt here
        text = job.exception or ""
        if not text.startswith("Traceback "):
            return None, WorkerDied(text)
        error.__cause__ = RemoteTraceback(text)
    return None, as_raised(error)


def as_raised(error: BaseException) -> BaseException:
    """Returns the exception that an executor raises for one of dispy's, or of a job's: often the same object.

    Its cause is a ``_RemoteTraceback``, as that of the pool is.
    """
    if isinstance(error, JobError) and error.raised is not None:
        error = error.raised  # SystemExit, which a map of a cluster wraps and the pool raises
    cause = error.__cause__
    text = cause.text if isinstance(cause, RemoteTraceback) else ""
    if isinstance(error, (LostError, UnpicklingError)):
        error = WorkerDied(str(error))
    elif isinstance(error, PicklingError) and not isinstance(error, SendingError):
        error = SendingError(str(error))
    if text:
        error.__cause__ = _RemoteTraceback(f'\n"""\n{text}"""')
    return error
