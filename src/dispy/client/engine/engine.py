"""The engine: the background threads of a program, with the backend that serves its clusters.

All clusters of a process share the engine, so that they share nodes fairly. Other threads reach its loop only by
``post`` and ``call``. Jobs come by the inbox of each cluster; a wake-up is posted only when none is on its way. What
the backend tells goes through ``news`` to the cluster that it is for.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import itertools
import os
import secrets as randomness
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.client import logger as log
from dispy.client.backend.embedded import Embedded
from dispy.client.engine.callback_thread import Caller
from dispy.client.engine.news import News
from dispy.client.engine.schedulers import Schedulers
from dispy.client.engine.threads import Threads
from dispy.client.recovery.journaling import leave_results, note_computation
from dispy.client.session import explain, failures, shutdown
from dispy.errors import DispyError
from dispy.system.clock import Clock
from dispy.system.process_identity import user_and_host
from dispy.system.processes import shortage

if TYPE_CHECKING:
    from dispy.client.session.state import Session

LOOK_S = 0.2
"""Interval (seconds) of looking for jobs that wait in vain and for files of ended jobs."""

LOG_S = 1.0
"""Seconds that ``stop`` waits for handlers of ``logging`` to take the last lines; lines after that may be lost."""


class Engine(Threads):
    """The background threads with the embedded scheduler: one per process, and one for each resuming recovery.

    Args:
        clock: As of ``Threads``.

    Attributes:
        backend: The scheduler in this process.
        schedulers: Shared schedulers that clusters of the program use.
        news: What schedulers tell, and the open clusters.
    """

    backend: Embedded
    schedulers: Schedulers

    def __init__(self, clock: Clock = time) -> None:
        super().__init__("dispy engine", clock)
        self.news = self.new_news()
        self.new_number: Callable[[], int] = itertools.count(1).__next__
        """Function that returns the number of a new cluster, from 1, by which messages to nodes name its computation.
        Called on the thread that makes the cluster."""
        self._is_leaving = False
        """True if the engine stops by ``leave``: nodes keep jobs and results, and journals stay, for a recovery."""
        try:
            self.start()
        except RuntimeError as error:
            short = shortage(OSError(errno.EAGAIN, str(error)))
            raise DispyError(f"no thread can be started for dispy: {error}", hint=short) from error

    def new_news(self) -> News:
        """Return the listener of the backend."""
        return News(self)

    def new_backend(self) -> Embedded:
        """Return the scheduler, with an identity of its own. On the loop."""
        name = f"{Path(sys.argv[0] or 'python').name} ({os.getpid()})"
        return Embedded(self, self.news, randomness.token_bytes(16), name[:200], user_and_host()[:200])

    def begin(self) -> None:
        """Make the scheduler: from now on clusters can be opened. On the loop."""
        self.backend = self.new_backend()
        self.schedulers = Schedulers(self, self.news, self.backend)
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next ``_look``; None before the first cluster."""

    async def _main(self) -> None:
        """Make the scheduler, serve until ``stop``, then say farewell to nodes and end private nodes. On the loop."""
        self.begin()
        self._ready.set_result(None)
        await self._stopping.wait()
        await self.end()

    async def end(self) -> None:
        """Say farewell to nodes, and end private nodes. On the loop, which goes on for some turns."""
        if self._timer is not None:
            self._timer.cancel()
        self.schedulers.stop(is_leaving=self._is_leaving)
        self.backend.stop(is_leaving=self._is_leaving)
        for _ in range(5):  # farewells leave, and connections are told that they are closed
            await asyncio.sleep(0)
        self.backend.discovery.stop()
        await asyncio.sleep(0)

    @property
    def sessions(self) -> dict[int, Session]:
        """Open clusters, by number."""
        return self.news.sessions

    def statistics(self) -> dict[str, int]:
        """Returns the numbers of the engine and its backend (``EmbeddedViews.statistics``) as of now. On any thread.

        Raises:
            UsageError: The engine was stopped, or this is a fork of its process.
        """
        own = {"clusters": len(self.sessions), "callbacks_left": self.callbacks.count_left()}
        return own | self.call(self.backend.views.statistics)

    def stop(self) -> None:
        """End the threads (waits 5 s at most), the links, private nodes and journals. A second call does nothing.

        Nodes end jobs that are unfinished; the program is not told their ends. Queued callbacks are still called.
        """
        if self.is_stopped:
            return
        self.is_stopped = True
        self.stop_loop(5)
        self.stop_threads()
        self.news.stop()
        self.schedulers.wait(is_leaving=self._is_leaving)
        self.backend.wait(is_leaving=self._is_leaving)
        log.outlet.close(LOG_S)

    def leave(self) -> None:
        """Stop as if the program died: nodes keep its jobs and results, and journals stay, for ``recover_jobs``."""
        self._is_leaving = True
        self.stop()

    def add(self, session: Session) -> None:
        """Open a cluster: the backend offers it nodes. On the loop."""
        self.sessions[session.number] = session
        session.backend.open(session.spec(partial(note_computation, session)))
        if self._timer is None:
            self._look()

    def _look(self) -> None:
        """Warn of jobs that wait in vain, and drop files of ended jobs; again every ``LOOK_S``."""
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self.news.tidy()
        for session in list(self.sessions.values()):
            explain.check_waiting(session)


_engine: Engine | None = None
"""Engine of this process, or of its parent if this is a fork; may be stopped. None before the first ``engine()``."""

_guard = threading.Lock()
"""Held while an engine is made or stopped: threads of the program must not do so twice."""


def engine() -> Engine:
    """Return the engine of this process; starts one on first use, in a fork, and after ``stop_engine``.

    Raises:
        DispyError: No thread can be started.
    """
    global _engine
    with _guard:
        if _engine is not None and _engine.pid != os.getpid():
            # The thread and the sockets of that engine belong to our parent; we start afresh.
            _engine = None
            _unfinished.clear()
        if _engine is None or _engine.is_stopped:
            _engine = Engine()
        return _engine


def stop_engine() -> None:
    """Stop the engine of this process, if there is one. Methods of its clusters raise ``UsageError`` then."""
    with _guard:
        if _engine is not None and _engine.pid == os.getpid():
            _engine.stop()
            if _engine.callbacks.count_left():  # stopped in a callback, or while one is stuck
                _unfinished.append(_engine.callbacks)


def stop_unused_engine() -> None:
    """Stop the engine of this process if none of its clusters is open, when all callbacks have been called."""
    running = _engine
    if running is not None and running.pid == os.getpid() and not running.sessions:
        running.callbacks.wait_called(None, "shutdown")
        stop_engine()


_unfinished: list[Caller] = []
"""Callback threads of stopped engines with callbacks left to call: the end of the program waits for these."""


def _at_exit() -> None:
    """At the program's end wait for jobs and callbacks (after Ctrl-C: 2 s for callbacks), report failures, stop."""
    running = _engine
    if running is None or running.pid != os.getpid():
        return
    is_interrupted = is_leaving = False
    if not running.is_stopped:
        is_interrupted, is_leaving = shutdown.close_all(
            running.sessions,
            lambda: leave_results(running.sessions, running.call),
        )
        _unfinished.append(running.callbacks)
    shutdown.finish_callbacks(_unfinished, is_interrupted)
    failures.say_all()
    if is_leaving:
        running.leave()
    else:
        stop_engine()


atexit.register(_at_exit)
