"""Log lines leave on a thread of their own, and nobody can make too many of them.

A handler that blocks (a pipe that nobody reads, a log server that is away) or raises must not stop what logs. Records
wait in a bounded queue; those that do not fit are counted, and the number is logged when there is room again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable

LINES_MAX = 10_000
"""Records that wait: some 5 MB, and what a second of debugging makes."""

SOON_S = 0.1
"""Seconds that a caller who logs at INFO or above waits for its line to be written: none where handlers are quick."""

IDLE_S = 1.0
"""A thread that has had nothing to deliver for so long ends; the next record starts another."""


Waiting = queue.SimpleQueue[logging.LogRecord | str | threading.Event | None]
"""Records, text for stderr, events to be set when all before them has been delivered, and None at the end."""


class Outlet:
    """Delivers log records on a thread of its own, which is started by the first one.

    Args:
        deliver: Called with each record; what it raises is said once on stderr.
    """

    def __init__(self, deliver: Callable[[logging.LogRecord], object]) -> None:
        self._deliver = deliver
        self._here = threading.local()
        """Knows a thread of ours, also one that was given up."""
        self.reset()

    def reset(self) -> None:
        """Forget thread and queue; in a fork, which has no such thread."""
        self._queue: Waiting = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._left_out = 0
        self._is_late = False
        """Somebody has waited in vain for a line to be written."""
        self._has_complained = False
        self._guard = threading.Lock()
        """Held to start and end the thread."""
        self._calling = threading.Lock()
        """Held while a record is delivered, and while the process forks."""
        self._is_held = False

    def hold(self) -> None:
        """Let no handler be in the midst of something while the process forks: its locks would be held for ever."""
        if not self.is_current():
            self._is_held = self._calling.acquire(timeout=SOON_S)

    def go_on(self) -> None:
        """The process has forked, and we are in the parent."""
        if self._is_held:
            self._is_held = False
            self._calling.release()

    def is_current(self) -> bool:
        """Whether we are on that thread."""
        return getattr(self._here, "is_ours", False)

    def put(self, record: logging.LogRecord) -> None:
        """Have a record delivered; one at INFO or above usually has been when this returns."""
        if self._queue.qsize() >= LINES_MAX:
            self._left_out += 1
            return
        # What it refers to may be another by the time it is written.
        record.msg, record.args = record.getMessage(), None
        if self._put(record) and record.levelno >= logging.INFO and not self._is_late:
            self.flush(SOON_S)

    def say(self, text: str) -> None:
        """Have text written to stderr as it is, in its place among the records."""
        if self._queue.qsize() >= LINES_MAX:
            self._left_out += 1
        else:
            self._put(text)

    def _put(self, item: logging.LogRecord | str) -> bool:
        """Whether it is delivered later; otherwise it has been."""
        with self._guard:
            is_running = self._thread is not None or self._start()
            if is_running:
                self._queue.put(item)
        if not is_running:
            self._deliver_here(item)
        return is_running

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, args=(self._queue,), name="dispy log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or there are too many
            return False
        self._thread = thread
        return True

    def _deliver_here(self, item: logging.LogRecord | str) -> None:
        """Deliver a line on the thread that logs it, as no other can be started."""
        self._here.is_ours = True
        try:
            self._call(item)
        finally:
            self._here.is_ours = False

    def flush(self, timeout_s: float) -> None:
        """Wait until all is delivered that was put before, for so many seconds at most."""
        with self._guard:
            if self._thread is None or self.is_current():
                return
            written = threading.Event()
            self._queue.put(written)
        self._is_late = not written.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, and end the thread if that takes no longer than so many seconds."""
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._queue.put(None)
            # What it does not deliver in time is its own.
            self._queue = queue.SimpleQueue()
        thread.join(timeout_s)

    def _run(self, waiting: Waiting) -> None:
        self._here.is_ours = True
        while True:
            try:
                item = waiting.get(timeout=IDLE_S)
            except queue.Empty:
                if self._end_idle(waiting):
                    return
                continue
            if item is None:
                return
            if isinstance(item, threading.Event):
                self._is_late = False
                item.set()
                continue
            self._call(item)
            if self._left_out and waiting.qsize() < LINES_MAX // 2:
                self._call(self._count_left_out())

    def _end_idle(self, waiting: Waiting) -> bool:
        """Whether the thread ends, since nothing has come for a while."""
        with self._guard:
            if waiting is self._queue and waiting.empty():
                self._thread = None
                return True
        return waiting is not self._queue

    def _count_left_out(self) -> logging.LogRecord:
        count, self._left_out = self._left_out, 0
        text = f"{count} lines of this log are left out: they came faster than they could be written"
        return logging.LogRecord("dispy", logging.WARNING, __file__, 0, text, None, None)

    def _call(self, item: logging.LogRecord | str) -> None:
        try:
            with self._calling:
                if isinstance(item, str):
                    sys.stderr.write(item)
                    sys.stderr.flush()
                else:
                    self._deliver(item)
        except Exception as error:
            if not self._has_complained:
                self._has_complained = True
                with contextlib.suppress(Exception):
                    text = f"dispy: a logging handler fails, which is said once: {type(error).__name__}: {error}"
                    sys.stderr.write(f"{text}\n")


class OutletHandler(logging.Handler):
    """Passes records to an outlet.

    Args:
        outlet: Which.
    """

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def handle(self, record: logging.LogRecord) -> bool:
        """Without a lock: an outlet has its own, and is not to be waited for by others."""
        self._outlet.put(record)
        return True


class LogLimit:
    """So many lines of a kind in a while, and one for each key; the others are counted, and the count is logged.

    Args:
        every_s: The while (seconds).
        most: Lines of one kind in that time.
        log: Logs a line: the logger's method.
        later: Calls a function after so many seconds; as of an event loop.
    """

    def __init__(
        self,
        every_s: float,
        most: int,
        log: Callable[..., None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._every_s = every_s
        self._most = most
        self._log = log
        self._later = later
        self._keys_by_kind: dict[str, set[str]] = {}
        self._left_out: dict[str, int] = {}
        self._is_timed = False

    def line(self, kind: str, key: str, text: str, *arguments: object) -> None:
        """Log a line, or count it.

        Args:
            kind: What such lines have in common, as words in the plural.
            key: Whom it is about.
            text: The line, with ``arguments``.
        """
        keys = self._keys_by_kind.setdefault(kind, set())
        if key in keys or len(keys) >= self._most:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        keys.add(key)
        if not self._is_timed:
            self._is_timed = True
            self._later(self._every_s, self._on_time)
        self._log(text, *arguments)

    def _on_time(self) -> None:
        self._is_timed = False
        self._keys_by_kind.clear()
        self.tell_count()

    def tell_count(self) -> None:
        """Say now what was left out."""
        left_out, self._left_out = self._left_out, {}
        for kind, count in left_out.items():
            self._log("%s: %d more within %g s, without a line each", kind, count, self._every_s)


def local_time(seconds_from_now: float) -> str:
    """When that is, on the clock of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds_from_now))
