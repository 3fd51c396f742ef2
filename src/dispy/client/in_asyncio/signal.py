"""A signal from threads to a task of an asyncio loop: ``client.wakeup.Signal`` for those who must not block.

Theory of operation. The side with news stores them first, and looks for a waiter afterwards. The task that waits
stores its waiter first, and looks for news afterwards. So no wake-up is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dispy.client.in_asyncio.awaiting import complete


class LoopSignal:
    """Wakes the one task that waits for news, in whatever loop it runs."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        """Loop and future of the task that waits; None while no task does."""

    def wake(self) -> None:
        """Wake the task, from any thread. Store the news first. If its loop is closed nothing happens."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            try:
                waiter[0].call_soon_threadsafe(complete, waiter[1])
            except RuntimeError:  # the loop is closed: no task waits there any more
                pass

    async def wait(self, has_news: Callable[[], object], until: float | None) -> bool:
        """Wait until there is news. A task that is cancelled meanwhile leaves everything as it was.

        Args:
            has_news: Returns a true value if there is news; called on the loop.
            until: When the wait ends in any case (monotonic seconds); None: never.

        Returns:
            False if there is no news at ``until``.
        """
        loop = asyncio.get_running_loop()
        while True:
            future = loop.create_future()
            self._waiter = loop, future
            if has_news():
                self._waiter = None
                return True
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                self._waiter = None
                return False
            timer = None if left is None else loop.call_later(left, complete, future)
            try:
                await future
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
