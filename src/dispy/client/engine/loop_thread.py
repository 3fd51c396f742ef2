"""A thread with an event loop of its own, for programs whose own threads may have a loop running.

Two classes are made of it: ``engine.Engine``, and ``recovery.node_queries.Net``, which asks the nodes of a dead
program. Other threads reach the loop only by ``post`` and ``request``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from dispy.errors import UsageError
from dispy.system.processes import fill_standard_descriptors
from dispy.system.wording import was_said

T = TypeVar("T")

LOOK_S = 0.5
"""Seconds between two looks of a waiting thread whether the loop still runs: one that has ended answers nobody."""


class LoopThread:
    """A daemon thread that runs an event loop. ``start`` starts it, ``stop_loop`` ends it.

    A subclass overrides ``_main``, and calls ``start`` once its attributes are there.

    Args:
        name: Name of the thread.
    """

    _loop: asyncio.AbstractEventLoop
    """Event loop of the thread; exists once ``start`` has returned."""
    _stopping: asyncio.Event
    """Event that ``stop_loop`` sets: ``_main`` waits for it, and returns then. Exists once ``start`` has returned."""

    def __init__(self, name: str) -> None:
        self._ready: Future[None] = Future()
        """Future that ``_main`` sets when other threads may call; ``start`` waits for it."""
        self._failure: Exception | None = None
        """Error by which ``_main`` has ended early, set there: ``result`` raises it. None: there was none."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns when ``_main`` has set ``_ready``: ``post`` and ``request`` may be called then.

        Raises:
            RuntimeError: No thread can be started.
            Exception: The error by which ``_main`` has ended before it set ``_ready``.
        """
        fill_standard_descriptors()
        self._thread.start()
        self._ready.result()

    def _run(self) -> None:
        """Run the event loop, on uvloop where that exists, until ``_main`` returns: what the thread does."""
        try:
            import uvloop

            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        except ImportError:  # Windows
            factory = asyncio.new_event_loop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._enter())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _enter(self) -> None:
        """Store the loop and the event for its end, then run ``_main``: both must exist before that."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_on_stray)
        self._stopping = asyncio.Event()
        await self._main()

    async def _main(self) -> None:
        """Work on the loop until ``_stopping`` is set, and tidy up; the thread ends when this returns.

        A subclass overrides this. It sets the result of ``_ready`` when other threads may call: ``start`` waits for
        that, without limit.
        """
        raise NotImplementedError

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called on the loop. Does nothing if the loop has ended. On any thread."""
        with contextlib.suppress(RuntimeError):  # closed: nothing is left that could be told
            self._loop.call_soon_threadsafe(function, *arguments)

    def request(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called on the loop. On any thread.

        Returns:
            A future of what the function returns or raises. It is never done if the loop has ended.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self.post(run)
        return future

    def result(self, future: Future[T]) -> T:
        """Wait for a future of ``request``, and return or raise what its function does. On any thread but the loop's.

        Raises:
            UsageError: The loop has ended, as another thread stopped it meanwhile: the function will not be called.
            Exception: The error by which the loop has ended early (``_failure``).
        """
        while True:
            try:
                return future.result(LOOK_S)
            except TimeoutError:
                # In this order: the loop may have answered and ended since the time was over.
                has_ended = not self._thread.is_alive()
                if future.done():
                    return future.result()
                if has_ended:
                    shut_down = UsageError("dispy was shut down", hint="create a new cluster")
                    raise self._failure or shut_down from None

    def is_loop(self) -> bool:
        """True if the caller is on the thread of the loop."""
        return threading.current_thread() is self._thread

    def stop_loop(self, timeout_s: float | None = None) -> None:
        """Set ``_stopping``, so that ``_main`` ends, and wait for the thread. On any thread but the loop's.

        ``timeout_s``: seconds to wait; None: no limit. A thread that has not ended by then is left behind.
        """
        self.post(self._stopping.set)
        self._thread.join(timeout_s)


def _on_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nobody has caught, as loops do, unless its fault was logged before."""
    if not was_said(context.get("exception")):
        loop.default_exception_handler(context)
