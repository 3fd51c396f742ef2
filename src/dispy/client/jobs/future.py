"""Futures of jobs: ``concurrent.futures.Future`` over a job.

Theory of operation. A ``Future`` with its lock costs 2 us to make, a third of all that a small job costs its program,
and most futures are only asked for their result. So a ``JobFuture`` begins as a view of its job: ``result`` waits for
the job, as ``job()`` does. What else looks at it (``wait``, ``as_completed``, callbacks, asyncio) reaches for
attributes of ``Future`` that are not there yet. Then it becomes a whole ``Future`` (``__getattr__``), which is told
the end of the job as by any executor, on the thread of callbacks. It stays whole from then on.

A function that runs on the thread of callbacks would wait for ever for a future that is told there. So a whole future
that is waited for on that thread waits for its job instead, and takes over the end itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Protocol, TypeVar

from dispy.client.jobs.done_callbacks import add_called_waiter
from dispy.client.jobs.state import CANCELLED, CREATED, FINISHED, PROVISIONAL_RESULT, RUNNING, JobState

T = TypeVar("T")

_PARTS = frozenset({"_condition", "_done_callbacks", "_exception", "_result", "_state", "_waiters"})
"""Attributes of a ``Future`` that a view of a job does not have."""

_guard = threading.Lock()
"""Held while a future becomes whole, so that this happens once."""


class Owner(Protocol):
    """Maker of a future, as the future sees it: an executor, or the job itself."""

    def cancel_job(self, job: JobState) -> bool:
        """Cancel a job unless it may have begun or has ended; True if it is cancelled."""
        ...

    def kill_job(self, job: JobState) -> bool:
        """Cancel a job, which may run; False if it has ended."""
        ...

    def call_back(self, job: JobState, function: Callable[[], None]) -> None:
        """Have a function called on the thread of callbacks."""

    def is_calling_back(self, job: JobState) -> bool:
        """True if the caller is on the thread of callbacks."""
        ...

    def outcome(self, job: JobState) -> tuple[Any, BaseException | None]:
        """Returns result and exception of an ended job, one of which is None; ``CancelledError`` if cancelled."""
        ...


class JobFuture(Future[T]):
    """A job as a future: of a call that was submitted to an executor, or by ``DispyJob.as_future``.

    Args:
        job: The job.
        owner: Who cancels it, and says how it has ended.
    """

    _is_whole = False
    """True once this is a whole ``Future``. A look at ``__dict__`` would make that, for each future."""

    def __init__(self, job: JobState, owner: Owner) -> None:
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
            add_called_waiter(self._job, self)

    def on_ended(self, job: JobState) -> None:
        """Have the end of the job noted, on another thread than the engine's, which calls: callbacks run then."""
        self._owner.call_back(job, self._settle)

    def _settle(self) -> None:
        """Take over how the job has ended, and tell all that wait; does nothing for a future that was cancelled."""
        if super().cancelled():
            return
        result, error = self._owner.outcome(self._job)
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

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result of the job, at most ``timeout`` seconds.

        Raises:
            CancelledError: The job was cancelled.
            TimeoutError: The job has not ended in time. It goes on.
            Exception: What the job has raised, with the remote traceback as cause; or the process or node of the job
                was lost: ``WorkerDied`` of an executor, else ``JobError``.
        """
        if not self._is_whole:
            job: Any = self._job  # a ``DispyJob``, whose module imports this one
            if not job._is_final and not job.wait(None if timeout is None else max(0, timeout)):
                raise TimeoutError
            if job._status == FINISHED:  # the way of most calls: 0.2 us less than by ``outcome``
                result: T = job.result
                return result
        else:
            timeout = self._wait_here(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the job, at most ``timeout`` seconds; returns what ``result`` raises, or None.

        Raises:
            CancelledError: The job was cancelled.
            TimeoutError: The job has not ended in time. It goes on.
        """
        return super().exception(self._wait_here(timeout))

    def _wait_here(self, timeout: float | None) -> float | None:
        """On the thread of callbacks wait for the job, and take over its end; see the theory of operation.

        Returns:
            Seconds that the caller is to wait for the future: 0 if this has waited for them.
        """
        if self.done() or not self._owner.is_calling_back(self._job):
            return timeout
        if self._job.wait(None if timeout is None else max(0, timeout)):
            self._settle()
        return 0

    def done(self) -> bool:
        """True if the job has ended or was cancelled."""
        if not self._is_whole:
            return self._job._is_final  # pyright: ignore[reportPrivateUsage]  # see module
        return super().done()

    def running(self) -> bool:
        """True if the job runs, as its node has reported: some hundredths of a second ago."""
        status = self._job._status  # pyright: ignore[reportPrivateUsage]  # see module
        return status in (RUNNING, PROVISIONAL_RESULT) and not self.done()

    def cancel(self) -> bool:
        """Cancel the job unless it has begun or may have; False if it has, or has ended."""
        if self.cancelled():
            return True
        status = self._job._status  # pyright: ignore[reportPrivateUsage]  # see module
        if self.done() or status not in (CREATED, CANCELLED) or not self._owner.cancel_job(self._job):
            return False
        self._note_cancelled()
        return super().cancelled()

    def kill(self) -> bool:
        """End the job, by ``KeyboardInterrupt`` in it if it runs; False if it has ended.

        Does not wait. The future is cancelled when the job has ended, unless that returns a value all the same.
        """
        return not self.done() and self._owner.kill_job(self._job)
