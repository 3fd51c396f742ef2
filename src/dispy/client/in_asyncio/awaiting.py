"""``await job`` in any asyncio loop.

Theory of operation. A task that awaits a job puts a waiter into the job, and sleeps on a future of its loop. When the
job has ended, the engine's thread appends the future to the queue of that loop (``_LoopPost``), and wakes the loop if
it has not done so yet. The loop completes all futures that it finds there. So a batch of ended jobs costs one wake-up
per loop, and no task blocks a thread.
"""

from __future__ import annotations

import asyncio
import threading
import types
from collections import deque
from collections.abc import Generator
from typing import Any, Protocol


class Awaited(Protocol):
    """Protocol of a job that can be awaited, for ``DispyJob``, whose module imports this one: no import circle."""

    def _add_waiter(self, waiter: Any) -> Any:
        """Have ``waiter.on_ended(job)`` called once, on a thread of the engine, when the job has ended.

        If the job has ended already it is called here and now, on the caller's thread. Returns the waiter.
        """
        ...

    def _drop_waiter(self, waiter: Any) -> None:
        """Remove a waiter that does not wait any more, so that its ``on_ended`` is not called."""
        ...


def wait_in_loop(job: Awaited, limit_s: float | None = None) -> Generator[Any, None, None]:
    """Wait for a job in the running asyncio loop: what ``await job`` does. If the task is cancelled the job goes on.

    Args:
        job: The job.
        limit_s: Seconds to wait at most, after which this returns as well; None: no limit.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    waiter = _LoopWaiter(_post_of(loop), future)
    timer = None if limit_s is None else loop.call_later(limit_s, complete, future)
    job._add_waiter(waiter)  # pyright: ignore[reportPrivateUsage]  # not for programs
    try:
        yield from future
    except BaseException:
        job._drop_waiter(waiter)  # pyright: ignore[reportPrivateUsage]  # not for programs
        raise
    finally:
        if timer is not None:
            timer.cancel()
            job._drop_waiter(waiter)  # pyright: ignore[reportPrivateUsage]  # the time may be over


@types.coroutine
def wait_at_most(job: Awaited, limit_s: float | None) -> Generator[Any, None, None]:
    """Wait for a job in a coroutine, at most ``limit_s`` seconds (None: no limit). See ``wait_in_loop``."""
    yield from wait_in_loop(job, limit_s)


def complete(future: asyncio.Future[None]) -> None:
    """Complete a future, on its loop, unless it is done or cancelled: its task goes on."""
    if not future.done():
        future.set_result(None)


class _LoopWaiter:
    """The waiter of one asyncio task for one job.

    Attributes:
        future: Future on which the task sleeps; set to None as its result when the job has ended.
        post: Where to queue the future, for the task's loop to complete it.
    """

    __slots__ = ("future", "post")

    def __init__(self, post: _LoopPost, future: asyncio.Future[None]) -> None:
        self.post = post
        self.future = future

    def on_ended(self, job: Awaited) -> None:
        """Queue the task's future to be completed on its loop; on the engine's threads."""
        post = self.post
        post.ended.append(self.future)
        if not post.is_posted:
            post.is_posted = True
            post.send()


class _LoopPost:
    """Queue of futures for one asyncio loop to complete. One wake-up of the loop serves all that are queued by then.

    Attributes:
        ended: Futures of tasks whose jobs have ended, in the order of these ends; appended by the engine's threads,
            taken by the loop.
        is_posted: True if the loop has been woken and has not looked into ``ended`` yet: no wake-up is needed.
    """

    __slots__ = ("_loop", "ended", "is_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ended: deque[asyncio.Future[None]] = deque()
        self.is_posted = False

    def send(self) -> None:
        """Wake the loop, which completes the queued futures; from any thread. If it is closed they are dropped."""
        try:
            self._loop.call_soon_threadsafe(self._complete)
        except RuntimeError:  # the loop is closed: no task waits there any more
            self.ended.clear()

    def _complete(self) -> None:
        """Complete the queued futures, so that their tasks go on; on the loop. Cancelled ones are skipped."""
        # First the flag, then the queue: a future that is queued from here on wakes the loop again.
        self.is_posted = False
        ended = self.ended
        while ended:
            complete(ended.popleft())


_posts: dict[asyncio.AbstractEventLoop, _LoopPost] = {}
"""Queues of futures to complete, by asyncio loop: one for each loop in which jobs were awaited. Those of closed loops
are removed when another loop is added."""
_guard = threading.Lock()
"""Guards changes of ``_posts`` between threads of the program that each run a loop. Reading needs no lock."""


def _post_of(loop: asyncio.AbstractEventLoop) -> _LoopPost:
    """Returns the queue of a loop, made when a job is first awaited in the loop; on the loop's thread."""
    post = _posts.get(loop)
    if post is None:
        with _guard:
            for old in [old for old in _posts if old.is_closed()]:
                del _posts[old]
            post = _posts[loop] = _LoopPost(loop)
    return post
