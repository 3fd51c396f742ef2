"""A thread that calls functions one after another, in the order in which they are given; and waiting for it.

Theory of operation. The engine has one such thread for the user's callbacks, so callbacks come in the order of the
events. A callback is never dropped silently: every wait for jobs (``wait``, ``close``, the end of the program) also
waits for the callbacks of the jobs that have ended, without a limit of time, and names them in a line after some
seconds (``Patience``). Two things end such a wait early, each with a message: Ctrl-C, and a callback that stands at
a lock which, as far as ``deadlocks`` can see, only the waiting thread could release. The callback is not killed: when
it gets its lock, the thread goes on with it and with all that come after it.
"""

from __future__ import annotations

import enum
import logging
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dispy.client.arguments import describe
from dispy.client.engine.deadlocks import Standing
from dispy.client.logger import notice
from dispy.client.wakeup import Signal
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")

Call = tuple[Callable[..., Any], list[tuple[Any, ...]], Callable[..., Any] | None]
"""A function, the arguments of each call, and the user's function that messages name.

None instead of the latter: the mark of a wait, which is not counted as a call.
"""

LOOK_S = 0.2
"""Interval between two looks at where a callback stands, while a thread waits for it (seconds)."""


class Patience(NamedTuple):
    """Seconds after which a wait for callbacks says or does something.

    Attributes:
        warn_s: A callback has stood still at a lock for this time: a warning, as the waiting thread may hold it.
        say_s: The wait has lasted this long: a line that says how many callbacks are left, and which one runs.
        stuck_s: A callback has stood still at a lock for this time, and no other thread has been at work that could
            release it: the wait gives it up.
        doubt_s: A callback has stood still at a lock for this time while other threads were at work: the wait gives
            it up all the same. Another thread may release the lock after all, as an executor with a long query does;
            but a program with any thread that sleeps or listens would never end otherwise.
    """

    warn_s: float = 2.0
    say_s: float = 3.0
    stuck_s: float = 10.0
    doubt_s: float = 60.0


class Waited(enum.Enum):
    """How a wait for callbacks ended."""

    CALLED = "all have been called"
    LATE = "the time is over"
    STUCK = "one stands at a lock, and was given up"


class Caller:
    """A thread that calls functions in the order in which they are given. What a call raises is logged.

    The queue of calls is unbounded: a callback may wait for other jobs, and the engine that queues calls must not be
    stopped by that. The thread starts with the first call.

    Args:
        name: Name of the thread. It begins with ``dispy``: ``deadlocks`` tells dispy's own threads by that.
        patience: Times after which a wait says or does something.
    """

    def __init__(self, name: str, patience: Patience = Patience()) -> None:  # noqa: B008  # immutable
        self.patience = patience
        self._calls: deque[Call | None] = deque()
        self._signal = Signal()
        self._thread: threading.Thread | None = None
        self._is_idle = False
        """True while nothing is being called. Set before the thread looks for calls, cleared before it takes one."""
        self._name = name
        self._named: Callable[..., Any] | None = None
        """The user's function that is being called; None between calls."""
        self._left: Iterator[tuple[Any, ...]] = iter(())
        """Arguments of further calls of the same function, which come next."""
        self._holders = 0
        self._let_go = threading.Condition()
        """Guards ``_holders``, notified when it shrinks; also held to start the thread."""
        self.given_up: object = None
        """The call that a wait gave up, and where it stood; None before. Compared only."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context in which no further function is called: calls wait in the queue. Several threads may be in it."""
        with self._let_go:
            self._holders += 1
        try:
            yield
        finally:
            with self._let_go:
                self._holders -= 1
                self._let_go.notify_all()

    def call(
        self,
        function: Callable[..., Any],
        arguments: list[tuple[Any, ...]],
        named: Callable[..., Any] | None = None,
    ) -> None:
        """Call a function once for each tuple of arguments, after all that was given before.

        Args:
            function: Called on the thread.
            arguments: Positional arguments of each call.
            named: The user's function that it calls, for messages; None: ``function`` itself.
        """
        if self._thread is None:
            self._start()
        self._calls.append((function, arguments, named or function))
        self._signal.wake()

    def _start(self) -> None:
        """Start the thread, unless another caller has started it meanwhile."""
        with self._let_go:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def call_each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Call several functions once each, in this order."""
        for function, arguments in calls:
            self.call(function, [arguments])

    def _run(self) -> None:
        """Make calls until ``stop``: what the thread does."""
        calls = self._calls
        while True:
            if not calls:
                self._is_idle = True
                self._signal.wait(calls.__len__, None)
                self._is_idle = False
            item = calls.popleft()
            if item is None:
                return
            function, batch, self._named = item
            self._left = left = iter(batch)
            if self._holders:
                with self._let_go:
                    self._let_go.wait_for(lambda: not self._holders)
            for arguments in left:
                call_now(function, arguments)
                arguments = ()
            # Free the arguments now: they may be large, and the next call may be a long time away.
            item = function = batch = self._named = None  # type: ignore[assignment]

    def is_current(self) -> bool:
        """True on this thread: inside a call."""
        return threading.current_thread() is self._thread

    # Waiting for calls.

    def count_left(self) -> int:
        """Returns about how many calls were given and have not ended: the thread goes on while they are counted."""
        running = 0 if self._named is None else 1 + operator.length_hint(self._left)
        # Copied first, in one step under the GIL: the deque changes while it is iterated over.
        waiting = [len(item[1]) for item in self._calls.copy() if item is not None and item[2] is not None]
        return running + sum(waiting)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all calls given by now have been made. False if that takes longer than ``timeout_s`` seconds."""
        done = self._mark()
        return done is None or done.wait(timeout_s)

    def wait_called(self, until: float | None, who: str) -> Waited:
        """Wait until all calls given by now have been made, however long that takes. Inside a call: returns at once.

        Args:
            until: When to stop waiting (monotonic seconds); None: never.
            who: Subject of messages about the wait, as "cluster f".

        Returns:
            ``CALLED`` if all were made, or this is inside a call; ``LATE`` at ``until``; ``STUCK`` if the wait gave
            up a callback that stands at a lock, after a warning.

        Raises:
            KeyboardInterrupt: After Ctrl-C, and a line that says how many calls are left.
        """
        done = self._mark()
        if done is None:
            return Waited.CALLED
        assert self._thread is not None
        waiter = _Waiter(self, Standing(self._thread, call_now.__code__), who)
        try:
            while True:
                now = time.monotonic()
                if done.wait(LOOK_S if until is None else max(0.0, min(LOOK_S, until - now))):
                    return Waited.CALLED
                # The thread has ended, after all its calls; or this is a fork, which has no such thread.
                if not self._thread.is_alive():
                    return Waited.CALLED
                now = time.monotonic()
                if until is not None and now >= until:
                    return Waited.LATE
                if waiter.gives_up(now):
                    return Waited.STUCK
        except KeyboardInterrupt:
            notice(f"interrupted: {who} waited for callbacks, and {waiter.left()}")
            raise

    def _mark(self) -> threading.Event | None:
        """Returns an event that is set after all calls given by now; None if there is nothing to wait for."""
        if self._thread is None or not self._thread.is_alive() or self.is_current():
            return None
        # In this order: a call that has left the queue was taken before the thread becomes idle again.
        if not self._calls and self._is_idle:
            return None
        done = threading.Event()
        self._calls.append((done.set, [()], None))
        self._signal.wake()
        return done

    def position(self) -> object:
        """Returns a mark of the call that is being made: equal while it is the same call."""
        return self._left, operator.length_hint(self._left)

    def name_running(self) -> str:
        """Returns the name of the user's function that is being called, for a message."""
        return "a callback" if self._named is None else name_of(self._named)

    def stop(self) -> None:
        """End the thread after all calls given by now. Does not wait."""
        self._calls.append(None)
        self._signal.wake()


class _Waiter:
    """One wait for calls: says what it waits for, and decides when a call is given up.

    Args:
        caller: Thread that makes the calls.
        standing: Where that thread stands.
        who: Subject of messages about the wait.
    """

    def __init__(self, caller: Caller, standing: Standing, who: str) -> None:
        self._caller = caller
        self._standing = standing
        self._who = who
        self._begun = time.monotonic()
        self._has_said = False
        self._warned: object = None

    def left(self) -> str:
        """Returns a text that says how many calls are left, for a message."""
        return left(self._caller.count_left())

    def gives_up(self, now: float) -> bool:
        """Look where the running callback stands, and log what there is to say. True if the wait must give it up."""
        seen, patience = self._standing, self._caller.patience
        seen.look(now)
        if seen.since is not None and now - seen.since >= patience.warn_s:
            # A call that another wait gave up has had its time: here it only has to be seen at the same place.
            place = self._caller.position(), seen.mark()
            is_known = place == self._caller.given_up
            is_stuck = seen.alone_since is not None and now - seen.alone_since >= patience.stuck_s
            if is_known or is_stuck or now - seen.since >= patience.doubt_s:
                self._caller.given_up = place
                logger.warning(
                    "%s does not wait for callbacks any longer: %s has waited for a lock for %.0f s%s; %s",
                    self._who, self._running(), now - seen.since,
                    "" if seen.alone_since is None else ", and no other thread of the program is at work",
                    self.left(),
                )  # fmt: skip
                return True
            if self._warned != place:
                self._warned = place
                logger.warning(
                    "%s waits for a callback that waits for a lock: %s; if it is held where the callback is waited "
                    "for, neither can go on: release it before that; %s",
                    self._who, self._running(), self.left(),
                )  # fmt: skip
                self._has_said = True
        elif not self._has_said and now - self._begun >= patience.say_s:
            self._has_said = True
            notice(f"{self._who} waits for callbacks: {self._running()} is running; {self.left()}")
        return False

    def _running(self) -> str:
        """Returns name and line of the user's function that is being called, for a message."""
        where = f" ({self._standing.where})" if self._standing.where else ""
        return f"{self._caller.name_running()}{where}"


def call_now(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a function of the user. Whatever it raises, ``SystemExit`` too, is logged and goes no further."""
    try:
        function(*arguments)
    except BaseException:
        logger.exception("callback %r failed", function)


def left(count: int) -> str:
    """Returns "1 callback is left", "2 callbacks are left" …, for a message."""
    return counted(count, "callback is left", "callbacks are left")


def name_of(function: Callable[..., Any]) -> str:
    """Returns the name of a callback for a message, without ``<locals>``."""
    name = getattr(function, "__qualname__", None)
    return name.replace("<locals>.", "") if isinstance(name, str) else describe(function)
