"""Futures of calls: ``concurrent.futures.Future`` over a job.

Theory of operation. A ``Future`` with its lock costs 2 us to make, a third of all that a small job costs its program,
and most futures are only asked for their result. So a ``JobFuture`` begins as a view of its job: ``result`` waits for
the job, as ``job()`` does. What else looks at it (``wait``, ``as_completed``, callbacks, asyncio) reaches for
attributes of ``Future`` that are not there yet. Then it becomes a whole ``Future`` (``__getattr__``), which is told
the end of the job as by any executor, on the thread of callbacks. It stays whole from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Protocol, TypeVar

from dispy.client.job import CANCELLED, CREATED, FINISHED, PROVISIONAL_RESULT, RUNNING, DispyJob
from dispy.integrations import outcomes

T = TypeVar("T")

_PARTS = frozenset({"_condition", "_done_callbacks", "_exception", "_result", "_state", "_waiters"})
"""Attributes of a ``Future`` that a view of a job does not have."""

_guard = threading.Lock()
"""Held while a future becomes whole, so that this happens once."""


class Owner(Protocol):
    """The executor of a future, as the future sees it."""

    def cancel_job(self, job: DispyJob) -> bool:
        """Cancel a job unless it has begun or ended; True if it is cancelled."""
        ...

    def kill_job(self, job: DispyJob) -> bool:
        """Cancel a job, which may run; False if it has ended."""
        ...

    def call_back(self, function: Callable[[], None]) -> None:
        """Have a function called on the thread of callbacks."""

    def why_broken(self) -> BaseException | None:
        """Returns a new exception if the executor is broken, for calls that it has cancelled; else None."""


class JobFuture(Future[T]):
    """A call that was submitted to an executor.

    Args:
        job: The job of the call.
        owner: The executor.
    """

    _is_whole = False
    """True once this is a whole ``Future``. A look at ``__dict__`` would make that, for each future."""

    def __init__(self, job: DispyJob, owner: Owner) -> None:
        self._job = job
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name not in _PARTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._become_whole()
        return self.__dict__[name]

    def _become_whole(self) -> None:
        """Make this a whole ``Future``, which is told the end of its job."""
        with _guard:
            if self._is_whole:
                return
            made: Future[T] = Future()
            state = made.__dict__.pop("_state")
            self.__dict__.update(made.__dict__)
            self.__dict__["_state"] = state
            self._is_whole = True  # last: by it other threads see that all is there
        if self._job._is_final:  # pyright: ignore[reportPrivateUsage]  # see module
            self._settle()
        else:
            self._job._add_waiter(self)  # pyright: ignore[reportPrivateUsage]  # see module

    def on_ended(self, _: DispyJob) -> None:
        """Have the end of the job noted, on another thread than the engine's, which calls: callbacks run then."""
        self._owner.call_back(self._settle)

    def _settle(self) -> None:
        """Take over how the job has ended, and tell all that wait; does nothing for a future that was cancelled."""
        if super().cancelled():
            return
        result, error = self._outcome()
        try:
            if isinstance(error, CancelledError):
                self._note_cancelled()
            elif error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
        except InvalidStateError:  # cancelled meanwhile
            pass

    def _note_cancelled(self) -> None:
        """Become cancelled, and tell all that wait, once: the job may end during a call of ``cancel``."""
        with _guard:
            if self._is_told:
                return
            self._is_told = True
        if super().cancel():
            self.set_running_or_notify_cancel()

    _is_told = False
    """True once all that wait are being told that the future is cancelled."""

    def _outcome(self) -> tuple[Any, BaseException | None]:
        """Returns result and exception of the ended job; of a cancelled one the reason if the executor is broken."""
        result, error = outcomes.of_job(self._job)
        if isinstance(error, CancelledError):
            error = self._owner.why_broken() or error
        return result, error

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result of the call, at most ``timeout`` seconds.

        Raises:
            CancelledError: The call was cancelled.
            TimeoutError: The call has not ended in time. It goes on.
            WorkerDied: The process of the call has died, or its node was lost.
            BaseException: What the call has raised.
        """
        if not self._is_whole:
            job = self._job
            if not job._is_final:  # pyright: ignore[reportPrivateUsage]  # see module
                if not job.wait(None if timeout is None else max(0, timeout)):
                    raise TimeoutError
            if job._status == FINISHED:  # pyright: ignore[reportPrivateUsage]
                result: T = job.result
                return result
        return super().result(timeout)

    def done(self) -> bool:
        """True if the call has ended or was cancelled."""
        if not self._is_whole:
            return self._job._is_final  # pyright: ignore[reportPrivateUsage]  # see module
        return super().done()

    def running(self) -> bool:
        """True if the call runs, as its node has reported: some hundredths of a second ago."""
        status = self._job._status  # pyright: ignore[reportPrivateUsage]  # see module
        return status in (RUNNING, PROVISIONAL_RESULT) and not self.done()

    def cancel(self) -> bool:
        """Cancel the call unless it has begun or may have; False if it has, or has ended."""
        if self.cancelled():
            return True
        status = self._job._status  # pyright: ignore[reportPrivateUsage]  # see module
        if self.done() or status not in (CREATED, CANCELLED) or not self._owner.cancel_job(self._job):
            return False
        self._note_cancelled()
        return super().cancelled()

    def kill(self) -> bool:
        """End the call, by ``KeyboardInterrupt`` in it if it runs; False if it has ended.

        Does not wait. The future is cancelled when the call has ended, unless that returns a value all the same.
        """
        return not self.done() and self._owner.kill_job(self._job)


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
