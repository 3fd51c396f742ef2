"""A signal between threads: one waits for news, any number bring some.

Theory of operation. The side with news stores them first, and looks at the flag ``_is_waiting`` afterwards. The side
that waits sets the flag first, and looks for news afterwards. So no wake-up is lost. A bare lock, taken from the
beginning, is what the waiter sleeps on; releasing it wakes the waiter. While no thread waits, news cost a look at the
flag and no system call.
"""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable
from typing import Protocol


class Wakes(Protocol):
    """Signal for whoever waits for news: a thread, or a task of an asyncio loop."""

    def wake(self) -> None:
        """Wake the waiter, from any thread. Store the news first."""


class Signal:
    """Wakes the one thread that waits for news. Costs a look at a flag while no thread waits."""

    __slots__ = ("_is_waiting", "_lock")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        """Bare lock on which the waiter sleeps: always taken, and released for one wake-up."""
        self._lock.acquire()
        self._is_waiting = False
        """True while a thread waits, or is about to: only then ``wake`` releases the lock."""

    def wake(self) -> None:
        """Wake the waiter, from any thread. Store the news first: the waiter sets its flag, then looks for news."""
        if self._is_waiting:
            self._is_waiting = False
            try:
                self._lock.release()
            except RuntimeError:  # another thread has woken it at the same moment
                pass

    def wait(self, has_news: Callable[[], object], until: float | None) -> bool:
        """Wait until there is news.

        Args:
            has_news: Returns a true value if there is news; called on the thread that waits.
            until: When the wait ends in any case (monotonic seconds); None: never.

        Returns:
            False if there is no news at ``until``.
        """
        while True:
            self._is_waiting = True
            if has_news():
                self._is_waiting = False
                return True
            left = -1.0 if until is None else max(0.0, until - time.monotonic())
            if not self._lock.acquire(True, left):
                self._is_waiting = False
                return bool(has_news())
