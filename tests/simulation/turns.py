"""Threads of a process, played: what one is given it does a while later, unless its process is killed before."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

from .world import Party, World


class Turns:
    """The queue of a thread, as ``queue.SimpleQueue``; when something is in it the thread has its turn.

    Args:
        world: Where it is.
        party: Whose thread it is.
        read: What the thread does in its turn: takes what it wants.
        pause: How long after the first entry that is (seconds).
    """

    def __init__(
        self, world: World, party: Party, read: Callable[[], object], pause: Callable[[], float]
    ) -> None:
        self._world = world
        self._party = party
        self._read = read
        self._pause = pause
        self._is_due = False
        self.entries: deque[Any] = deque()

    def put(self, entry: Any) -> None:
        """Something is to be done."""
        self.entries.append(entry)
        self.wake(self._pause())

    def wake(self, seconds: float) -> None:
        """Give it a turn after some time, unless it has one before."""
        if not self._is_due:
            self._is_due = True
            self._world.after(seconds, self._party, self._on_turn)

    def _on_turn(self) -> None:
        self._is_due = False
        self._read()

    def empty(self) -> bool:
        """As of queues."""
        return not self.entries

    def get(self, timeout: float | None = None) -> Any:
        """As of queues; nobody waits."""
        if not self.entries:
            raise queue.Empty
        return self.entries.popleft()
