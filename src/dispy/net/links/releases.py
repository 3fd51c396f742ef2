"""Releases: which numbered messages of the other end of a channel need not be kept there any more.

A message is *done* once it is performed, or not wanted any more. It is *released* once it and all before it are done,
and noted where a successor of this process finds it (``net.links.channel``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

ACKNOWLEDGE_S = 0.05
"""Seconds after which messages are acknowledged at the latest: until then the other end keeps them."""

UNACKNOWLEDGED_MAX = 64
"""Messages after which they are acknowledged at once: bounds what the other end keeps."""

AfterNote = Callable[[Callable[[], None]], object]
"""Function that calls a function as soon as all that was performed so far is noted."""


class Waiting:
    """A message that has arrived and waits: ``missing`` of its blobs are to come, ``size`` bytes of payloads are
    here. ``is_done``: it was performed, or is not wanted any more."""

    __slots__ = ("is_done", "message", "missing", "size")

    def __init__(self, message: Any, missing: int) -> None:
        self.message = message
        self.missing = missing
        self.size = 0
        self.is_done = False


class Releases:
    """The messages of the other end, by their numbers. On the loop.

    Args:
        tell: Tells the other end to forget its messages up to a number; False if it cannot now.
        call_later: Calls a function after some seconds (``loop.call_later``).
        after_note: Calls a function once all that was performed is noted; None: at once.

    Attributes:
        received: Number of the last message that has arrived; 0: none.
        released: Number up to which messages need not be kept; 0: none.
        unfinished: Messages that waited when they arrived, oldest first, from the first one that is not done.
    """

    def __init__(
        self,
        tell: Callable[[int], bool],
        call_later: Callable[[float, Callable[[], None]], object],
        after_note: AfterNote | None,
    ) -> None:
        self._tell = tell
        self._call_later = call_later
        self._after_note = after_note
        self.received = 0
        self.released = 0
        self.unfinished: deque[Waiting] = deque()
        self._told = 0
        """Number up to which the other end was told to forget its messages."""
        self._is_timed = False
        """True while a timer runs that tells it."""

    def attach(self) -> int:
        """Returns the number that the introduction on a new connection has to name."""
        self._told = self.released
        return self.released

    def stop(self) -> None:
        """Release nothing from now on."""
        self._after_note = _never

    def waiting(self) -> list[Any]:
        """Returns the messages that have arrived and are not done, oldest first."""
        return [waiting.message for waiting in self.unfinished if not waiting.is_done]

    def _done(self) -> int:
        """Returns the number up to which all messages are done."""
        unfinished = self.unfinished
        while unfinished and unfinished[0].is_done:
            unfinished.popleft()
        return unfinished[0].message.batch - 1 if unfinished else self.received

    def soon(self) -> None:
        """Release what is done, after ``ACKNOWLEDGE_S`` at the latest."""
        if self.received - self._told >= UNACKNOWLEDGED_MAX:
            self.now()
        elif not self._is_timed:
            self._is_timed = True
            self._call_later(ACKNOWLEDGE_S, self._on_due)

    def _on_due(self) -> None:
        self._is_timed = False
        self.now()

    def now(self) -> None:
        """Release what is done, as soon as it is noted."""
        done = self._done()
        if done <= self.released or self._after_note is None:
            self._on_noted(done)
        else:
            self._after_note(partial(self._on_noted, done))

    def _on_noted(self, done: int) -> None:
        self.released = max(self.released, done)
        if self.released > self._told and self._tell(self.released):
            self._told = self.released


def _never(told: Callable[[], None]) -> None:
    """Stand for a journal that never notes anything: ``told`` is not called, so nothing is released."""
