"""Threads of a process, played: what one is given it does a while later, unless its process is killed before."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
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


class _Task:
    """Something that a thread of a pool is to do."""

    __slots__ = ("arguments", "error", "future", "is_done", "result", "work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.work = work
        self.arguments = arguments
        self.future: Future[Any] = Future()
        self.is_done = False
        """It is, and the thread has not said so yet."""
        self.result: Any = None
        self.error: Exception | None = None

    def do(self) -> None:
        """Do it, once."""
        if not self.is_done:
            self.is_done = True
            try:
                self.result = self.work(*self.arguments)
            except Exception as error:
                self.error = error

    def tell(self) -> None:
        """Say what came of it."""
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Pool(Executor):
    """Some threads, as ``ThreadPoolExecutor``: each does one thing at a time, at some moment while it is at it.

    Args:
        world: Where they are.
        party: Whose they are: who is killed or stands still does so with them.
        count: How many.
        pause: How long a half of a task takes (seconds).
    """

    def __init__(self, world: World, party: Party, count: int, pause: Callable[[], float]) -> None:
        self._world = world
        self._party = party
        self._free = count
        self._pause = pause
        self._waiting: deque[_Task] = deque()
        self._begun: dict[_Task, None] = {}

    def is_idle(self) -> bool:
        """Whether there is nothing that it does or is to do."""
        return not self._waiting and not self._begun

    def waiting(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """What no thread has begun with, and one will."""
        return [(task.work, task.arguments) for task in self._waiting if not task.future.cancelled()]

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """As of executors."""
        task = _Task(work, arguments)
        self._waiting.append(task)
        self._begin()
        return task.future

    def _begin(self) -> None:
        while self._free and self._waiting:
            task = self._waiting.popleft()
            if not task.future.set_running_or_notify_cancel():
                continue
            self._free -= 1
            self._begun[task] = None
            self._world.after(self._pause(), self._party, self._do, task)

    def _do(self, task: _Task) -> None:
        if task in self._begun:
            task.do()
            self._world.after(self._pause(), self._party, self._end, task)

    def _end(self, task: _Task) -> None:
        if self._begun.pop(task, self) is None:
            self._free += 1
            task.tell()
            self._begin()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of executors; what has begun is done to its end."""
        assert wait
        assert cancel_futures
        while self._waiting:
            self._waiting.popleft().future.cancel()
        begun, self._begun = self._begun, {}
        for task in begun:
            task.do()
            task.tell()
