"""``asubmit``: submission of jobs by coroutines, which must not block their loop.

Theory of operation. Most calls find room, and submit their job at once, on the loop. One that would have to wait
(``max_queued``, a full shared scheduler, a journal that is behind, files to be hashed) goes into a queue of its
cluster. A thread takes the calls out in their order: it waits for room as ``submit`` does, submits the job, and tells
the loop. The thread ends when the queue is empty.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dispy.client.in_asyncio.awaiting import complete
from dispy.client.job import DispyJob
from dispy.client.session.submission import with_room
from dispy.client.tracebacks import brief
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.session.state import Session


class Call:
    """A call of ``asubmit`` that waits.

    Attributes:
        arguments: Positional and keyword arguments of the job.
        job: The job once it is submitted.
        error: Why it cannot be submitted.
        is_left: True once the task that waits was cancelled: no job is wanted any more.
    """

    __slots__ = ("_loop", "arguments", "error", "future", "is_left", "job")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()
        self.arguments = args, kwargs
        self.job: DispyJob | None = None
        self.error: BaseException | None = None
        self.is_left = False

    def is_wanted(self) -> bool:
        """True if a task waits for the job."""
        return not self.is_left and not self._loop.is_closed()

    def submit(self, session: Session) -> None:
        """Submit the job; on the queue's thread. A task that was cancelled meanwhile has it cancelled."""
        args, kwargs = self.arguments
        try:
            self.job = session.submit(session, next(DispyJob.id_iter), None, args, kwargs)
        except BaseException as error:
            self.error = error
        self.tell()

    def tell(self) -> None:
        """Wake the task, for which ``job`` or ``error`` is set; on the queue's thread."""
        try:
            self._loop.call_soon_threadsafe(complete, self.future)
        except RuntimeError:  # the loop is closed
            self.is_left = True
        if self.is_left:
            self.drop(self.job)

    @staticmethod
    def drop(job: DispyJob | None) -> None:
        """Cancel a job that nobody waits for; None: there is none yet."""
        if job is not None:
            with suppress(UsageError):  # the cluster is closed, and its jobs have ended
                job._session.cancel(job)  # pyright: ignore[reportPrivateUsage]  # not for programs


class Calls:
    """Queue of the calls of ``asubmit`` that wait, of one cluster.

    Args:
        session: The cluster.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls: deque[Call] = deque()
        """Calls in their order. Those that are not wanted any more are skipped."""
        self._guard = threading.Lock()
        """Guards ``_is_served``, and the end of the thread against calls that come at this moment."""
        self._is_served = False
        """True while the thread runs."""

    def __bool__(self) -> bool:
        """True if calls wait: later ones must not overtake them."""
        return self._is_served

    def add(self, call: Call) -> None:
        """Queue a call; on its loop."""
        with self._guard:
            self._calls.append(call)
            if self._is_served:
                return
            self._is_served = True
        try:
            threading.Thread(target=self._serve, name="dispy submit", daemon=True).start()
        except RuntimeError as error:  # no thread can be started: none of these calls has its turn
            with self._guard:
                self._is_served = False
                left = list(self._calls)
                self._calls.clear()
            for each in left:
                each.error = error
                each.tell()

    def _serve(self) -> None:
        """Submit the jobs of calls until none is left: what the thread does."""
        while True:
            with self._guard:
                while self._calls and not self._calls[0].is_wanted():
                    self._calls.popleft()
                if not self._calls:
                    self._is_served = False
                    return
            try:
                with_room(self._session, self._submit_first)
            except BaseException as error:  # the cluster is closed
                call = self._take()
                if call is not None:
                    call.error = error
                    call.tell()

    def _take(self) -> Call | None:
        """Returns the first call that is wanted, and removes it; None: there is none."""
        with self._guard:
            while self._calls:
                call = self._calls.popleft()
                if call.is_wanted():
                    return call
        return None

    def _submit_first(self) -> None:
        """Submit the job of the first call, as there is room."""
        call = self._take()
        if call is not None:
            call.submit(self._session)


async def submit_in_turn(session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DispyJob:
    """Submit a job when all calls before it had their turn, and there is room: how ``asubmit`` waits."""
    try:
        calls = session.waiting_calls
        session.check_open()
        if calls is None:
            calls = session.waiting_calls = Calls(session)
        call = Call(args, kwargs)
        calls.add(call)
        try:
            await call.future
        except BaseException:
            call.is_left = True
            call.drop(call.job)
            raise
        if call.job is None:
            assert call.error is not None
            raise call.error
        return call.job
    except UsageError as error:
        raise brief(error) from error.__cause__
