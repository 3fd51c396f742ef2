"""Waiting for many jobs at once: ``as_completed``, ``wait``, and ``await`` in any asyncio loop.

A job has one place for whoever waits for it (``DispyJob._waiter``). What is kept there is told once,
on the engine's thread, when the job has ended; it only notes the job and wakes its own thread or
loop if that sleeps. So a batch of ended jobs costs one wake-up per thread or loop, and no wait
needs a thread.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy.client.arguments import deadline, describe
from dispy.client.job import FINISHED, DispyJob
from dispy.errors import UsageError
from dispy.system.wording import counted

if TYPE_CHECKING:
    import asyncio


class DoneAndNotDone(NamedTuple):
    """What ``wait`` returns.

    Attributes:
        done: Jobs that have ended.
        not_done: The others.
    """

    done: set[DispyJob]
    not_done: set[DispyJob]


def as_completed(jobs: Iterable[DispyJob], timeout: float | None = None) -> Iterator[DispyJob]:
    """Jobs in the order in which they end, however they end; those that have ended already come first.

    Args:
        jobs: Of one cluster or several; each comes once.
        timeout: Seconds for all of them, from this call.

    Raises:
        TimeoutError: When the next one has not ended in time; says how many are left.
    """
    return _as_completed(_check_jobs(jobs, "as_completed"), deadline(timeout))


def _as_completed(jobs: dict[DispyJob, None], until: float | None) -> Generator[DispyJob, None, None]:
    watch = Watch()
    ended = watch.ended
    before = [job for job in jobs if job._is_final]
    for job in before:
        del jobs[job]
    try:
        # All before the first is handed out: then the others come in the order in which they end.
        for job in jobs:
            job._add_waiter(watch)
        yield from before
        while jobs:
            if not ended and not watch.wait(until):
                raise TimeoutError(f"{counted(len(jobs), 'job has', 'jobs have')} not ended in time")
            job = ended.popleft()
            del jobs[job]
            yield job
    finally:
        for job in jobs:
            job._drop_waiter(watch)


def wait(
    jobs: Iterable[DispyJob], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone:
    """Wait for jobs, as ``concurrent.futures.wait`` does for futures.

    Args:
        jobs: Of one cluster or several.
        timeout: Seconds to wait at most.
        return_when: ``ALL_COMPLETED``; ``FIRST_COMPLETED``: one has ended; ``FIRST_EXCEPTION``: one
            has ended without a result (or all have ended).
    """
    left = _check_jobs(jobs, "wait")
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise UsageError(
            f"return_when={return_when!r} is unknown",
            hint="use dispy.ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION",
        )
    until = deadline(timeout)
    done = set()
    try:
        for job in _as_completed(left.copy(), until):
            done.add(job)
            del left[job]
            if return_when == FIRST_COMPLETED or (
                return_when == FIRST_EXCEPTION and job._status != FINISHED
            ):
                break
    except TimeoutError:
        pass
    # Whatever has ended by now is done, too.
    done.update([job for job in left if job._is_final])
    return DoneAndNotDone(done, set(left) - done)


def _check_jobs(jobs: Iterable[DispyJob], name: str) -> dict[DispyJob, None]:
    if isinstance(jobs, DispyJob):
        raise UsageError(f"{name} takes several jobs", hint="put the job into a list")
    if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes)):
        raise UsageError(
            f"{name} takes several jobs, not {describe(jobs)}", hint="jobs are what submit returns"
        )
    several = list(jobs)
    for job in several:
        if not isinstance(job, DispyJob):
            raise UsageError(f"{name} takes jobs, not {describe(job)}", hint="jobs are what submit returns")
    found = dict.fromkeys(several)
    for job in found:
        job._check_process()
    return found


class Signal:
    """Wakes the one thread that waits for news; cheap while nobody waits."""

    __slots__ = ("_is_waiting", "_lock")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._is_waiting = False

    def wake(self) -> None:
        """There is news. Note it first: who waits looks for it after saying so."""
        if self._is_waiting:
            self._is_waiting = False
            try:
                self._lock.release()
            except RuntimeError:  # two threads had news at once
                pass

    def wait(self, has_news: Callable[[], object], until: float | None) -> bool:
        """Wait until there is news, perhaps in vain; False if there is none at ``until``."""
        while True:
            self._is_waiting = True
            if has_news():
                self._is_waiting = False
                return True
            left = -1.0 if until is None else max(0.0, until - time.monotonic())
            if not self._lock.acquire(True, left):
                self._is_waiting = False
                return bool(has_news())


class Watch:
    """Waits for some of many jobs, on one thread."""

    __slots__ = ("_signal", "ended")

    def __init__(self) -> None:
        self.ended: deque[DispyJob] = deque()
        """Jobs that have ended and were not taken yet."""
        self._signal = Signal()

    def on_ended(self, job: DispyJob) -> None:
        """A job has ended; on the engine's threads."""
        self.ended.append(job)
        self._signal.wake()

    def wait(self, until: float | None) -> bool:
        """Wait for a job to take; False if there is none at ``until``."""
        return self._signal.wait(self.ended.__len__, until)


# asyncio.


def wait_in_loop(job: DispyJob) -> Generator[Any, None, None]:
    """Wait for a job in the running asyncio loop: what ``await job`` does.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    from asyncio import get_running_loop

    loop = get_running_loop()
    future = loop.create_future()
    waiter = _LoopWaiter(_post_of(loop), future)
    job._add_waiter(waiter)
    try:
        yield from future
    except BaseException:
        job._drop_waiter(waiter)
        raise


class _LoopWaiter:
    """One task that waits for one job."""

    __slots__ = ("future", "post")

    def __init__(self, post: _LoopPost, future: asyncio.Future[None]) -> None:
        self.post = post
        self.future = future

    def on_ended(self, job: DispyJob) -> None:
        """The job has ended; on the engine's threads."""
        post = self.post
        post.ended.append(self.future)
        if not post.is_posted:
            post.is_posted = True
            post.send()


class _LoopPost:
    """Futures of one loop that are to be completed, by one wake-up for all."""

    __slots__ = ("_loop", "ended", "is_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ended: deque[asyncio.Future[None]] = deque()
        self.is_posted = False

    def send(self) -> None:
        """Wake the loop."""
        try:
            self._loop.call_soon_threadsafe(self._complete)
        except RuntimeError:  # closed: nobody waits there any more
            self.ended.clear()

    def _complete(self) -> None:
        # In this order: what is noted from here on sends again.
        self.is_posted = False
        ended = self.ended
        while ended:
            future = ended.popleft()
            if not future.done():
                future.set_result(None)


_posts: dict[asyncio.AbstractEventLoop, _LoopPost] = {}
_guard = threading.Lock()
"""Guards changes of ``_posts``."""


def _post_of(loop: asyncio.AbstractEventLoop) -> _LoopPost:
    post = _posts.get(loop)
    if post is None:
        with _guard:
            for old in [old for old in _posts if old.is_closed()]:
                del _posts[old]
            post = _posts[loop] = _LoopPost(loop)
    return post
