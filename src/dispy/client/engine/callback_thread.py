"""A thread that calls functions one after another, in the order in which they are given; and waiting for it.

Theory of operation. The engine has one such thread for the user's callbacks, so callbacks come in the order of the
events. A callback is never dropped silently: every wait for jobs (``wait``, ``close``, the end of the program) also
waits for the callbacks of the jobs that have ended, without a limit of time, and logs a line with their number after
some seconds (``Patience``). Two things end such a wait early, each with a message: Ctrl-C, and a callback that stands
at a lock which, as far as ``deadlocks`` can see, only the waiting thread could release. The callback is not killed:
when it gets its lock, the thread goes on with it and with all callbacks that come after it.
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
"""An entry of the queue: a function, a tuple of positional arguments for each call of it, and the user's function
that messages name.

None in place of the user's function: the entry is the mark of a wait (``_mark``), and not counted as a call.
"""

LOOK_S = 0.2
"""Interval (seconds) between two looks at where a callback stands, while a thread waits for it. A callback that moves
between two looks is not taken for one in a deadlock."""


class Patience(NamedTuple):
    """Times (seconds) after which a wait for callbacks tells the user something, or gives a callback up.

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
    """How a wait for callbacks ended: ``CALLED`` (all were called), ``LATE`` (at the waiting caller's time limit), or
    ``STUCK`` (given up, as a callback stands at a lock)."""

    CALLED = "all have been called"
    LATE = "the time is over"
    STUCK = "one stands at a lock, and was given up"


class Caller:
    """A thread that calls functions in the order in which they are given. What a call raises is logged.

    The queue of calls is unbounded: a callback may wait for other jobs, and the engine that queues calls must not be
    stopped by that. The thread starts with the first call.

    Args:
        name: Name of the thread. It begins with "dispy " (with the space), by which ``deadlocks`` tells dispy's own
            threads.
        patience: Times (seconds) after which a wait for calls logs a line, or gives a call up.
    """

    def __init__(self, name: str, patience: Patience = Patience()) -> None:  # noqa: B008  # immutable
        self.patience = patience
        self._calls: deque[Call | None] = deque()
        """Queue of calls that the thread has not taken yet, in the order given; None: the thread is to end there."""
        self._signal = Signal()
        """Signal that wakes the thread when a call, a mark or the end is queued in ``_calls``."""
        self._thread: threading.Thread | None = None
        """Thread that makes the calls; None before the first one is queued."""
        self._is_idle = False
        """True while the thread waits for a call; if the queue is empty, too, all calls have been made. Set before
        the thread looks for calls, cleared before it takes one: a waiter never takes a running call for made."""
        self._name = name
        self._named: Callable[..., Any] | None = None
        """The user's function that is being called, for messages; None between calls and for the mark of a wait."""
        self._left: Iterator[tuple[Any, ...]] = iter(())
        """Iterator over the arguments of the calls that the current entry has left, without the running one.
        ``count_left`` counts them; ``position`` tells the running call by the iterator and their number."""
        self._holders = 0
        """Number of threads in the context ``held``. While there are any, the thread does not begin an entry."""
        self._let_go = threading.Condition()
        """Guards ``_holders``, notified when it shrinks; also held to start the thread, so that only one starts."""
        self.given_up: object = None
        """The call that a wait gave up, and where it stood; None before. Only compared: a later wait that finds the
        same call at the same place gives it up after ``Patience.warn_s``."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context in which no entry of the queue is begun; one that was begun goes on. Several threads may be in it.

        A new cluster is opened in it: no callback runs before the program has the cluster.
        """
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
        """Queue calls of a function, one for each tuple of arguments, after all that was given before. On any thread.

        Args:
            function: Called on the thread.
            arguments: Positional arguments of each call.
            named: The user's function that ``function`` calls, for messages; None: ``function`` is the user's.
        """
        if self._thread is None:
            self._start()
        self._calls.append((function, arguments, named or function))
        self._signal.wake()

    def _start(self) -> None:
        """Start the thread, for the first ``call``; does nothing if another caller has started it meanwhile."""
        with self._let_go:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def call_each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Queue one call for each pair of a function and its positional arguments, in this order. On any thread.

        For callbacks of jobs that ended together: ``job_status`` and ``cluster_status`` alternate.
        """
        for function, arguments in calls:
            self.call(function, [arguments])

    def _run(self) -> None:
        """Take calls from the queue and make them, until the None that ``stop`` queues: what the thread does."""
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
        """True if the caller is on this thread, that is inside a call: waiting for calls would never end there."""
        return threading.current_thread() is self._thread

    # Waiting for calls.

    def count_left(self) -> int:
        """Returns the number of calls that wait or run, without marks; roughly, as the thread goes on meanwhile."""
        running = 0 if self._named is None else 1 + operator.length_hint(self._left)
        # Copied first, in one step under the GIL: the deque changes while it is iterated over.
        waiting = [len(item[1]) for item in self._calls.copy() if item is not None and item[2] is not None]
        return running + sum(waiting)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all calls given by now have been made, and log nothing. Inside a call: returns True at once.

        Returns:
            True if they were made; False if that takes longer than ``timeout_s`` seconds.
        """
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
        """Queue a mark: returns an event that is set after all calls given by now.

        None if there is nothing to wait for: no call is left, the thread has ended, or this is inside a call.
        """
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
        """Returns a value that stands for the running call: equal while that call runs, unequal for any other call.

        ``_Waiter`` compares it, to find a call that it has warned of, or that an earlier wait gave up.
        """
        return self._left, operator.length_hint(self._left)

    def name_running(self) -> str:
        """Returns the name of the user's function that is being called, for a message; "a callback" between calls."""
        return "a callback" if self._named is None else name_of(self._named)

    def stop(self) -> None:
        """Have the thread end after all calls given by now. Does not wait. Calls given later are never made."""
        self._calls.append(None)
        self._signal.wake()


class _Waiter:
    """Watcher of one wait for calls: tells the user what is waited for, and decides when a call is given up.

    Args:
        caller: Thread that makes the calls.
        standing: Record of where that thread stands; ``gives_up`` brings it up to date.
        who: Subject of messages about the wait.
    """

    def __init__(self, caller: Caller, standing: Standing, who: str) -> None:
        self._caller = caller
        self._standing = standing
        self._who = who
        self._begun = time.monotonic()
        """Time when the wait began (monotonic seconds); ``Patience.say_s`` counts from it."""
        self._has_said = False
        """True once the user was told that the wait goes on: it is not said twice."""
        self._warned: object = None
        """Call, and its place, of the last warning about a lock; None before. The same place is warned of once."""

    def left(self) -> str:
        """Returns how many calls are left, in words for a message, as "2 callbacks are left"."""
        return left(self._caller.count_left())

    def gives_up(self, now: float) -> bool:
        """Look where the running callback stands, and log what is due by ``Patience``. Call it each ``LOOK_S``.

        Args:
            now: Time of the look (monotonic seconds).

        Returns:
            True if the callback stands at a lock for too long: the wait must end, and the callback goes on alone.
        """
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
        """Returns name and place of the user's function that is being called: "save (job.py:12)", for a message."""
        where = f" ({self._standing.where})" if self._standing.where else ""
        return f"{self._caller.name_running()}{where}"


def call_now(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a function of the user. An exception, ``SystemExit`` too, is logged and not raised: the thread goes on.

    ``deadlocks`` finds the user's function by the frame of this one.
    """
    try:
        function(*arguments)
    except BaseException:
        logger.exception("callback %r failed", function)


def left(count: int) -> str:
    """Returns "1 callback is left", "2 callbacks are left" …, for a message."""
    return counted(count, "callback is left", "callbacks are left")


def name_of(function: Callable[..., Any]) -> str:
    """Returns the name of a callback for a message, as "f.save" (without ``<locals>``); else a description of it."""
    name = getattr(function, "__qualname__", None)
    return name.replace("<locals>.", "") if isinstance(name, str) else describe(function)
