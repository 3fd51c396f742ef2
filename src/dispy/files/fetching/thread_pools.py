"""Threads of the stager: they look at the store, copy, hash and write while the event loop goes on.

Work runs on a thread without the interpreter lock for most of its time. It returns an event, which comes to the event
loop, where the core decides what follows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from dispy.core.staging import Event
from dispy.core.staging.thread_turns import LOOKERS, PLACERS, WRITERS
from dispy.files.fetching.wanted_files import Seams
from dispy.system.wording import of_error

logger = logging.getLogger("dispy.node")

Then = Callable[[Event], None]
"""Takes the event that a thread has returned, on the event loop."""

Fault = Callable[[str], Event]
"""Makes the event for the core from the reason why a thread has none, or none that was dealt with, on the event
loop."""


class ThreadPools:
    """The pools of one stager. Methods are called on the event loop.

    All are made at once, so that no two threads can make one of them twice; a pool starts no thread before it is
    used.

    Args:
        seams: Makes the pools (``threads``) and brings events to the event loop (``post``).
        handle: Tells the core an event that stands for a fault.

    Attributes:
        is_closed: True after ``close``: events of threads are ignored from then on.
        placers: Pool of the threads that copy files into directories, open parts and trim the store.
        lookers: Pool of the threads that look whether files of later jobs are in the store.
        writers: Pools of one thread each, which hash and write pieces that arrive.
        hashers: Pool of the threads that hash large pieces while a writer writes them.
    """

    def __init__(self, seams: Seams, handle: Then) -> None:
        self._seams = seams
        self._handle = handle
        self.is_closed = False
        self.placers: Executor = seams.threads(PLACERS, "dispy places")
        self.lookers: Executor = seams.threads(LOOKERS, "dispy looks")
        self.writers: list[Executor] = [seams.threads(1, "dispy writes") for _ in range(WRITERS)]
        self.hashers: Executor = seams.threads(WRITERS, "dispy hashes")

    def run(self, pool: Executor, work: Callable[[], Event], then: Then, fault: Fault) -> None:
        """Call ``work`` on a thread of the pool, and then ``then`` on the event loop with the event that it returns.

        If ``work`` or ``then`` raises an exception, or no thread can be started, the core is told the event that
        ``fault`` makes of the reason, so that whatever waits for the work ends with it. Nothing is called any more
        after ``close``.
        """
        call = _Call(work, partial(self._seams.post, self._finish, then, fault))
        try:
            call.begin(pool)
        except RuntimeError as error:  # no thread can be started
            if call.orphan():
                self._seams.post(self._finish, then, fault, error)

    def do(self, pool: Executor, work: Callable[..., object], *arguments: Any) -> None:
        """Call ``work(*arguments)`` on a thread of the pool. Nothing waits for it: an exception is only logged."""
        try:
            pool.submit(work, *arguments).add_done_callback(_log_fault)
        except RuntimeError as error:  # no thread can be started
            logger.error("files are not cleared away", exc_info=error)

    def _finish(self, then: Then, fault: Fault, outcome: Event | Exception) -> None:
        """Call ``then`` with what a thread has returned, unless the pools are closed; on the event loop.

        An exception of the thread, or of ``then``, is a fault of this program: it is logged.
        """
        if self.is_closed:
            return
        error = outcome
        if not isinstance(outcome, Exception):
            try:
                then(outcome)
                return
            except Exception as raised:
                error = raised
        assert isinstance(error, Exception)
        logger.error("files are not there by a fault; please report this", exc_info=error)
        self._handle(fault(f"this node has a fault: {of_error(error)}"))

    def close(self) -> None:
        """End all pools: cancel queued work, and wait for work that runs. Its events are ignored."""
        self.is_closed = True
        for pool in [self.placers, self.lookers, *self.writers, self.hashers]:
            pool.shutdown(cancel_futures=True)


class _Call:
    """Work for a thread, whose outcome is told once.

    An executor that cannot start a thread raises an exception and keeps the work, which another thread may begin with
    later, or has begun with already. So it is settled here who tells the outcome.

    Args:
        work: Called on a thread; returns an event.
        tell: Called once with the event, or with the exception that was raised; from any thread.
    """

    __slots__ = ("_has_begun", "_is_orphan", "_lock", "_outcome", "_tell", "_work")

    def __init__(self, work: Callable[[], Event], tell: Callable[[Event | Exception], object]) -> None:
        self._work = work
        self._tell = tell
        self._lock = threading.Lock()
        """Guards the fields below between the thread and the event loop."""
        self._has_begun = False
        """True once a thread has begun with the work."""
        self._is_orphan = False
        """True if the executor has refused the work: nobody has its future."""
        self._outcome: Event | Exception | None = None
        """Event that the work has returned, or exception that it has raised; None: it has not ended."""

    def begin(self, pool: Executor) -> None:
        """Give the work to a pool.

        Raises:
            RuntimeError: No thread can be started; call ``orphan``.
        """
        pool.submit(self._run).add_done_callback(self._on_done)

    def orphan(self) -> bool:
        """Take the work back that a pool has refused; False if a thread has begun with it, which then tells."""
        with self._lock:
            self._is_orphan = True
            outcome = self._outcome
            has_begun = self._has_begun
        if outcome is not None:
            self._tell(outcome)
        return not has_begun

    def _run(self) -> None:
        """Do the work, on a thread, unless it was taken back."""
        with self._lock:
            if self._is_orphan:
                return
            self._has_begun = True
        try:
            outcome: Event | Exception = self._work()
        except Exception as error:
            outcome = error
        with self._lock:
            self._outcome = outcome
            is_orphan = self._is_orphan
        if is_orphan:
            self._tell(outcome)

    def _on_done(self, future: Future[None]) -> None:
        """Tell the outcome of work that a pool has taken."""
        if not future.cancelled() and self._outcome is not None:
            self._tell(self._outcome)


def _log_fault(future: Future[object]) -> None:
    """Log the exception of work that nothing waits for."""
    error = None if future.cancelled() else future.exception()
    if error is not None:
        logger.error("files are not there by a fault; please report this", exc_info=error)
