"""Threads of a program, played: those of its engine have turns on the loop, those of its own run one at a time.

Theory of operation. What the engine's threads do (callbacks, results, files) needs no thread: each is a queue, and
has a turn a while after something was put into it. A thread of the program may wait in the middle of a call, as in
``close``: so it is a real thread, which runs only while the world stands still. ``_resume`` is a step of the world:
it lets the thread run until that waits again (``park``) or ends. So there is one order of all that happens, and no
switch by the interpreter's chance.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dispy.client.backend.embedded import Embedded
from dispy.client.backend.local_nodes import Listed
from dispy.client.engine.callback_thread import Caller, Patience, Waited, call_now
from dispy.client.engine.engine import Engine
from dispy.client.engine.news import News
from dispy.client.engine.schedulers import Schedulers
from dispy.errors import UsageError
from dispy.journal.writer import Journal
from dispy.net.beacons.network import NewNetwork
from dispy.net.discovery import Listing

from .world import Handle, Party, World

T = TypeVar("T")

HANDOVER_S = 50e-6
"""The longest until a thread of the engine takes what was put into its queue (seconds)."""


class _Killed(BaseException):
    """The process of a thread is gone: raised where the thread waits, when the world ends."""


class UserThread:
    """A thread of a program, which calls one function.

    Args:
        world: Where it is.
        party: Whose it is: who is killed or stands still does so with it.
        function: Called at once, as a step of the world.
        arguments: Of the function.
    """

    running: UserThread | None = None
    """The one that runs; None: the world does."""

    def __init__(
        self, world: World, party: Party, function: Callable[..., object], *arguments: Any
    ) -> None:
        self._world = world
        self._party = party
        self._work = function, arguments
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, name=party.name, daemon=True)
        self._error: BaseException | None = None
        self._is_over = False
        self._is_begun = False
        self._turn: Handle | None = None
        """What resumes it; None while it runs, or waits without limit."""
        self.wake()
        world.at_end.append(self._end)

    def _run(self) -> None:
        function, arguments = self._work
        try:
            function(*arguments)
        except _Killed:
            pass
        except BaseException as error:
            self._error = error
        self._is_over = True
        self._back.release()

    def _resume(self) -> None:
        """Let it run until it waits or ends. A step of the world."""
        if self._is_over:
            return
        self._turn = None
        UserThread.running = self
        if self._is_begun:
            self._go.release()
        else:
            self._is_begun = True
            self._thread.start()
        self._back.acquire()
        UserThread.running = None
        if self._error is not None:
            raise self._error

    def park(self, seconds: float | None) -> None:
        """Wait until ``wake``, or so long. On the thread itself."""
        if seconds is not None:
            self._turn = self._world.after(seconds, self._party, self._resume)
        self._back.release()
        self._go.acquire()
        if self._is_over:
            raise _Killed

    def wake(self) -> None:
        """Have it go on, if it waits."""
        if self._turn is not None:
            self._turn.cancel()
        self._turn = self._world.soon(self._party, self._resume)

    def _end(self) -> None:
        """Nothing will happen any more."""
        if self._is_begun and not self._is_over:
            self._is_over = True
            self._go.release()
            self._thread.join()


class Condition(threading.Condition):
    """A condition for which threads of a program wait in the world's time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._sleepers: list[UserThread] = []

    def wait(self, timeout: float | None = None) -> bool:
        """As of conditions."""
        thread = UserThread.running
        assert thread is not None, "the loop would wait for itself"
        self._sleepers.append(thread)
        self.release()
        try:
            thread.park(timeout)
        finally:
            self.acquire()
        if thread in self._sleepers:
            self._sleepers.remove(thread)
            return False
        return True

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """As of conditions."""
        until = None if timeout is None else self._world.now + timeout
        while not (found := predicate()):
            left = None if until is None else until - self._world.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify_all(self) -> None:
        """As of conditions."""
        sleepers, self._sleepers = self._sleepers, []
        for thread in sleepers:
            thread.wake()


class PlayedCaller(Caller):
    """A thread of the engine that makes calls in their order.

    Args:
        world: Where it is.
        party: Whose it is.
        pause: How long until it takes what it is given (seconds).
    """

    def __init__(self, world: World, party: Party, pause: Callable[[], float]) -> None:
        self.patience = Patience()
        self._world = world
        self._party = party
        self._pause = pause
        self.entries: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        """Calls that it has not made."""
        self._is_due = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls are made in turns of their own, and never now."""
        yield

    def call(
        self, function: Callable[..., Any], arguments: list[tuple[Any, ...]], named: Any = None
    ) -> None:
        """As of callers."""
        self.entries.extend([(function, each) for each in arguments])
        if not self._is_due:
            self._is_due = True
            self._world.after(self._pause(), self._party, self._take_turn)

    def _take_turn(self) -> None:
        """Make the calls that are there by now; those that come of them have a turn of their own."""
        for _ in range(len(self.entries)):
            function, arguments = self.entries.popleft()
            call_now(function, arguments)
        self._is_due = bool(self.entries)
        if self._is_due:
            self._world.after(self._pause(), self._party, self._take_turn)

    def is_current(self) -> bool:
        """False only on a thread of the program."""
        return UserThread.running is None

    def count_left(self) -> int:
        """As of callers."""
        return len(self.entries)

    def wait_called(self, until: float | None, who: str) -> Waited:
        """As of callers; no callback stands still."""
        thread = UserThread.running
        if thread is None or not self.entries:
            return Waited.CALLED
        done: list[bool] = []

        def mark() -> None:
            done.append(True)
            thread.wake()

        self.call(mark, [()])
        while not done:
            left = None if until is None else until - self._world.now
            if left is not None and left <= 0:
                return Waited.LATE
            thread.park(left)
        return Waited.CALLED

    def stop(self) -> None:
        """As of callers."""


class NoList(Listed):
    """The list of the nodes of a machine that has none."""

    def __init__(self) -> None:
        self._nodes: list[Listing] = []

    def read(self) -> None:
        """There is nothing to be read."""

    def read_soon(self, then: Callable[[], None]) -> None:
        """Nor later."""

    def doubt(self, host: str, port: int, then: Callable[[], None]) -> None:
        """Nobody is in it."""

    def stop(self) -> None:
        """It has no thread."""


class PlayedSchedulers(Schedulers):
    """Links to shared schedulers of a program, with chance from its world."""

    def __init__(self, engine: PlayedEngine, news: News, embedded: Embedded) -> None:
        super().__init__(engine, news, embedded)
        self._world = engine.world

    def new_identity(self) -> bytes:
        """As of schedulers."""
        return self._world.random.randbytes(16)

    def chance(self) -> float:
        """As of schedulers."""
        return self._world.chance()


class PlayedEngine(Engine):
    """The engine of a program, whose threads are played.

    Args:
        world: Where it is.
        party: The process that it is in, which has a loop.
        identity: That of the program.
        name: Of the program.
        news: Makes the listener.
        new_journal: Makes the program's journal; None: it has none.
        pause: How long the thread that reads files takes until it begins (seconds).
    """

    def __init__(
        self,
        world: World,
        party: Party,
        identity: bytes,
        name: str,
        news: Callable[[PlayedEngine], News],
        new_journal: Callable[[], Journal | None],
        pause: Callable[[], float],
        air: NewNetwork,
    ) -> None:
        self._world = self.world = world
        self._air = air
        self._party = party
        self._made = news, new_journal, pause
        self._named = identity, name
        super().__init__(world)

    def new_caller(self, name: str) -> Caller:
        """As of threads."""
        pause = self._made[2] if name == "dispy files" else self._handover
        return PlayedCaller(self._world, self._party, pause)

    def _handover(self) -> float:
        return HANDOVER_S * self._world.chance()

    def new_condition(self) -> threading.Condition:
        """As of threads."""
        return Condition(self._world)

    def new_news(self) -> News:
        """As of the engine."""
        return self._made[0](self)

    def new_backend(self) -> Embedded:
        """As of the engine."""
        return Embedded(self, self.news, *self._named, "", NoList(), self._made[1], self._air)

    def begin(self) -> None:
        """As of the engine."""
        super().begin()
        self.schedulers = PlayedSchedulers(self, self.news, self.backend)

    def start(self) -> None:
        """There is a loop already."""
        loop = self._party.loop
        assert loop is not None
        self._loop = loop
        self.begin()

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """As of threads."""
        self._world.soon(self._party, function, *arguments)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """As of threads: a thread of the program waits for a turn of the loop."""
        thread = UserThread.running
        if thread is None:
            return function(*arguments)
        if self.is_stopped:
            raise UsageError("dispy was shut down", hint="create a new cluster")
        found: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                found.append(function(*arguments))
            except Exception as error:
                errors.append(error)
            thread.wake()

        self.post(run)
        while not found and not errors:
            thread.park(None)
        if errors:
            raise errors[0]
        return found[0]

    def is_current(self) -> bool:
        """False only on a thread of the program."""
        return UserThread.running is None

    def is_loop(self) -> bool:
        """As of threads."""
        return UserThread.running is None

    def stop(self) -> None:
        """As of the engine; nobody waits."""
        if not self.is_stopped:
            self.is_stopped = True
            task = self._loop.create_task(self.end())
            task.add_done_callback(lambda _: self.backend.wait(is_leaving=self._is_leaving))
