"""The threads of a program's engine, as its clusters use them: the loop, and those that call what may wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dispy.client.engine.callback_thread import Caller
from dispy.client.engine.loop_thread import LoopThread
from dispy.errors import UsageError
from dispy.system.clock import Clock

T = TypeVar("T")


class Threads(LoopThread):
    """The loop's thread, and those that call what may wait.

    Simulations have a subclass without threads, on a clock of its own: so sessions ask here for the time by which
    they wait, and for what they wait with.

    Args:
        name: Name of the loop's thread.
        clock: Clock by which times of waiting are measured; programs use the module ``time``.

    Attributes:
        clock: As the parameter.
        pid: PID of the process that made the threads. In a fork of it ``call`` raises: they are not there.
        callbacks: Thread that calls the user's callbacks, in the order of the events; they may block without harm.
        loader: Thread that unpickles results that need the user's code, so that the loop never runs that code.
        chooser: Thread that calls the user's ``allocate``, so that the loop never runs that code either.
        files: Thread that reads files that nodes ask for, so that the loop never waits for a disk.
        is_stopped: True once the threads end or have ended; ``call`` raises ``UsageError`` then.
    """

    def __init__(self, name: str, clock: Clock = time) -> None:
        super().__init__(name)
        self.clock = clock
        self.pid = os.getpid()
        self.callbacks = self.new_caller("dispy callbacks")
        self.loader = self.new_caller("dispy results")
        self.chooser = self.new_caller("dispy allocate")
        self.files = self.new_caller("dispy files")
        self.is_stopped = False

    def new_caller(self, name: str) -> Caller:
        """Returns a thread, not started yet, that makes calls in their order."""
        return Caller(name)

    def new_condition(self) -> threading.Condition:
        """Returns a condition for which threads of the program wait, by ``clock``, and that the loop notifies."""
        return threading.Condition()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the loop, and wait for its result without limit. On the loop itself: call it at once.

        Raises:
            UsageError: This is a fork of the engine's process, or the engine was stopped.
        """
        if threading.current_thread() is self._thread:
            return function(*arguments)
        if self.pid != os.getpid():
            raise UsageError(
                f"a cluster of process {self.pid} cannot be used in a fork of it",
                hint="create a cluster in the process that uses it",
            )
        if self.is_stopped:
            raise UsageError("dispy was shut down", hint="create a new cluster")
        return self.result(self.request(function, *arguments))

    def is_current(self) -> bool:
        """True on the loop, in callbacks, where results are unpickled: do not wait for callbacks, ``max_queued``."""
        return (
            threading.current_thread() is self._thread
            or self.callbacks.is_current()
            or self.loader.is_current()
            or self.chooser.is_current()
        )

    def stop_threads(self) -> None:
        """End the threads, after the calls that they have begun; those that are queued for callbacks are made."""
        self.callbacks.stop()
        self.loader.stop()
        self.chooser.stop()
        self.files.stop()
