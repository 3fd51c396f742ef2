"""The user's callbacks: one thread, one after another, in the order of the events."""

from __future__ import annotations

import inspect
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dispy.errors import UsageError

logger = logging.getLogger("dispy.client")

Call = tuple[Callable[..., Any], list[tuple[Any, ...]]]


class Caller:
    """A thread that calls what it is given; what a call raises is logged and stops nothing.

    Unbounded: a callback may wait for other jobs, and must not stop the engine by that.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._name = name
        self._holders = 0
        self._let_go = threading.Condition()
        """Guards and tells of ``_holders``."""

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

    def call(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
        """Call a function once for each tuple of arguments, after all that was given before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((function, arguments))

    def call_each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Call several functions, in this order."""
        for function, arguments in calls:
            self.call(function, [arguments])

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            function, batch = item
            if self._holders:
                with self._let_go:
                    self._let_go.wait_for(lambda: not self._holders)
            for arguments in batch:
                call_now(function, arguments)
                arguments = ()
            # What was handed over may be large, and the next may be long in coming.
            item = function = batch = None  # type: ignore[assignment]

    def is_current(self) -> bool:
        """Whether we are in a callback now."""
        return threading.current_thread() is self._thread

    def drain(self, timeout_s: float) -> None:
        """Wait until all that was given has been called; not for longer than ``timeout_s``."""
        if self._thread is not None and not self._is_stopped and not self.is_current():
            done = threading.Event()
            self._queue.put((done.set, [()]))
            done.wait(timeout_s)

    def stop(self) -> None:
        """End the thread after what it has been given."""
        self._is_stopped = True
        self._queue.put(None)


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
