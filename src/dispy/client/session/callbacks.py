"""The user's callbacks: one thread, one after another, in the order of the events; and waiting for them.

A callback is never dropped in silence. Whoever waits for jobs (``wait``, ``close``, the end of the program) waits for
the callbacks of those that have ended, too, however long they take, and says after some seconds what for. Two things
end that early, with a word: Ctrl-C, and a callback that stands at a lock which, as far as can be seen (``standing``),
only we could release. The thread goes on with the callbacks when it can.
"""

from __future__ import annotations

import enum
import inspect
import logging
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy.client.arguments import describe
from dispy.client.logger import notice
from dispy.client.session.deadlocks import Standing
from dispy.client.waiting import Signal
from dispy.errors import UsageError
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")

Call = tuple[Callable[..., Any], list[tuple[Any, ...]], Callable[..., Any] | None]
"""A function, its arguments for each call, and what of the user it calls; None: nothing."""

LOOK_S = 0.2
"""How often it is looked where a callback stands that is waited for."""


class Patience(NamedTuple):
    """How long callbacks are waited for before something is said or done (seconds).

    Attributes:
        warn_s: A callback stands still at a lock: a warning, as the thread that waits may hold it.
        say_s: Callbacks are waited for: a line that says for how many, and for which.
        stuck_s: One stands still at a lock and no other thread is at work that could release it: given up.
        doubt_s: One does, and others are at work: given up all the same. They may be, as an executor with a long
            query; but a program with any thread that sleeps or listens would never end otherwise.
    """

    warn_s: float = 2.0
    say_s: float = 3.0
    stuck_s: float = 10.0
    doubt_s: float = 60.0


class Waited(enum.Enum):
    """How a wait for callbacks has ended."""

    CALLED = "all have been called"
    LATE = "the time is over"
    STUCK = "one stands at a lock, and was given up"


class Caller:
    """A thread that calls what it is given; what a call raises is logged and stops nothing.

    Unbounded: a callback may wait for other jobs, and must not stop the engine by that.

    Args:
        name: Of the thread.
        patience: Of those who wait.
    """

    def __init__(self, name: str, patience: Patience = Patience()) -> None:  # noqa: B008  # immutable
        self.patience = patience
        self._calls: deque[Call | None] = deque()
        self._signal = Signal()
        self._thread: threading.Thread | None = None
        self._is_idle = False
        """Nothing is being called. Set before the thread looks for more, cleared before it takes that."""
        self._name = name
        self._named: Callable[..., Any] | None = None
        """The user's function that is being called."""
        self._left: Iterator[tuple[Any, ...]] = iter(())
        """Calls of it that come next."""
        self._holders = 0
        self._let_go = threading.Condition()
        """Guards and tells of ``_holders``; held to start the thread."""
        self.given_up: object = None
        """Which call was given up, and where it stood."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing more is called meanwhile; what is given waits. Several threads may hold it."""
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

        ``named``: what of the user it calls, if it is not the user's itself.
        """
        if self._thread is None:
            self._start()
        self._calls.append((function, arguments, named or function))
        self._signal.wake()

    def _start(self) -> None:
        with self._let_go:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def call_each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Call several functions, in this order."""
        for function, arguments in calls:
            self.call(function, [arguments])

    def _run(self) -> None:
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
            # What was handed over may be large, and the next may be long in coming.
            item = function = batch = self._named = None  # type: ignore[assignment]

    def is_current(self) -> bool:
        """Whether we are in a callback now."""
        return threading.current_thread() is self._thread

    # Waiting for them.

    def count_left(self) -> int:
        """Calls that were given and have not ended, about: others go on meanwhile."""
        running = 0 if self._named is None else 1 + operator.length_hint(self._left)
        # A copy is made in one piece.
        waiting = [len(item[1]) for item in self._calls.copy() if item is not None and item[2] is not None]
        return running + sum(waiting)

    def drain(self, timeout_s: float) -> bool:
        """Wait for ``timeout_s`` at most until all that was given has been called; whether it has been."""
        done = self._mark()
        return done is None or done.wait(timeout_s)

    def wait_called(self, until: float | None, who: str) -> Waited:
        """Wait until all that was given by now has been called, however long that takes.

        Args:
            until: When to stop waiting (monotonic seconds); None for never.
            who: Waits for it, in messages.

        Raises:
            KeyboardInterrupt: By Ctrl-C, after a line that says how many are left.
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
                if (
                    not self._thread.is_alive()
                ):  # it has ended after all that it had been given, or in a fork
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
        """An event that is set after all that was given by now; None if there is nothing to wait for."""
        if self._thread is None or not self._thread.is_alive() or self.is_current():
            return None
        # In this order: what is not waiting any more has been taken before the thread is idle again.
        if not self._calls and self._is_idle:
            return None
        done = threading.Event()
        self._calls.append((done.set, [()], None))
        self._signal.wake()
        return done

    def position(self) -> object:
        """Which call is being made; equal for the same one."""
        return self._left, operator.length_hint(self._left)

    def name_running(self) -> str:
        """Name and line of the user's function that is being called, for a message."""
        return "a callback" if self._named is None else name_of(self._named)

    def stop(self) -> None:
        """End the thread after what it has been given."""
        self._calls.append(None)
        self._signal.wake()


class _Waiter:
    """One who waits for calls: says what for, and sees whether they can come.

    Args:
        caller: Calls them.
        standing: Of its thread.
        who: Waits.
    """

    def __init__(self, caller: Caller, standing: Standing, who: str) -> None:
        self._caller = caller
        self._standing = standing
        self._who = who
        self._begun = time.monotonic()
        self._has_said = False
        self._warned: object = None

    def left(self) -> str:
        """How many calls are left, for a message."""
        return left(self._caller.count_left())

    def gives_up(self, now: float) -> bool:
        """Look at the callback that is waited for; True if it is not to be waited for any more."""
        seen, patience = self._standing, self._caller.patience
        seen.look(now)
        if seen.since is not None and now - seen.since >= patience.warn_s:
            # What was given up by another wait has had its time; it only has to be seen that it has not gone on.
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
        where = f" ({self._standing.where})" if self._standing.where else ""
        return f"{self._caller.name_running()}{where}"


def left(count: int) -> str:
    """So many callbacks are left, for a message."""
    return counted(count, "callback is left", "callbacks are left")


def name_of(function: Callable[..., Any]) -> str:
    """A callback in a message."""
    name = getattr(function, "__qualname__", None)
    return name.replace("<locals>.", "") if isinstance(name, str) else describe(function)


# A cluster's jobs, and their callbacks.


def wait_jobs(cluster: ClusterState, until: float | None) -> bool:
    """Wait until a cluster has no jobs that have not ended; False if it has some at ``until``."""
    with cluster._idle:
        return cluster._idle.wait_for(
            lambda: not cluster._jobs, None if until is None else until - time.monotonic()
        )


def wait_all(cluster: ClusterState, until: float | None) -> Waited:
    """Wait for a cluster's jobs, and for the callbacks of those that have ended.

    Callbacks may submit jobs: these are waited for, and so on. A thread of ours waits for jobs only: all callbacks
    might be behind it.
    """
    seen = -1
    while True:
        if not wait_jobs(cluster, until):
            return Waited.LATE
        if not has_callbacks(cluster) or cluster._engine.is_current():
            return Waited.CALLED
        # On the loop: between a job's end and its callbacks being given nobody sees that all have ended.
        ends = _count_ends(cluster) if cluster._is_closed else cluster._engine.call(_count_ends, cluster)
        if ends is not None:
            if ends == seen:
                return Waited.CALLED
            waited = wait_called(cluster, until)
            if waited is not Waited.CALLED:
                return waited
            seen = ends


def _count_ends(cluster: ClusterState) -> int | None:
    """How often jobs of a cluster have ended, several at once counting as one; None if some have not."""
    with cluster._idle:
        return None if cluster._jobs else cluster._ends


def wait_called(cluster: ClusterState, until: float | None) -> Waited:
    """Wait for the callbacks that a cluster has been given by now; on a thread of ours for none."""
    if not has_callbacks(cluster) or cluster._engine.is_current():
        return Waited.CALLED
    return cluster._engine.callbacks.wait_called(until, f"cluster {cluster.name}")


def has_callbacks(cluster: ClusterState) -> bool:
    """Whether the program is told of what happens."""
    return not (
        cluster.job_status is None and cluster.cluster_status is None and cluster._watching.callback is None
    )


def call_now(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a function of the user; what it raises is logged."""
    try:
        function(*arguments)
    except BaseException:
        logger.exception("callback %r failed", function)


def check_callback(callback: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Check that something can be called with so many positional arguments.

    Raises:
        UsageError: It cannot.
    """
    if callback is None:
        return
    if not callable(callback):
        raise UsageError(
            f"{name} must be callable, not {callback!r:.100}", hint=f"{name}=function, without parentheses"
        )
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        wanted = ", ".join(parameters)
        raise UsageError(
            f"{name} cannot be called with ({wanted}): {error}", hint=f"def {name}({wanted}): ..."
        ) from error
