"""Logging on a thread of its own, with a bound on the number of lines.

A handler that blocks (a pipe without a reader, a log server that is away) or raises must not stop the code that logs.
So records wait in a bounded queue, and a thread gives them to the handlers. Records that do not fit are counted, and
the count is logged when there is room again. ``LogLimit`` bounds lines that other parties can cause.
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
"""Records that may wait in an ``Outlet``; further ones are left out and counted. They take some 5 MB: as many as
debugging logs in a second."""

SOON_S = 0.1
"""Seconds that a caller which logs at INFO or above waits at most for its line to be written; then it goes on
without. Where handlers are quick it hardly waits."""

IDLE_S = 1.0
"""Seconds without a record after which the thread ends. The next record starts another."""


Waiting = queue.SimpleQueue[logging.LogRecord | str | threading.Event | None]
"""Queue of records, text for stderr, events to set when all items before them were delivered, and None, at which the
thread ends."""


class Outlet:
    """Delivers log records on a thread of its own, which the first record starts. Any thread may call the methods.

    Args:
        deliver: Called with each record. The first exception that it raises is shown on stderr, others are ignored.
    """

    def __init__(self, deliver: Callable[[logging.LogRecord], object]) -> None:
        self._deliver = deliver
        self._here = threading.local()
        """Thread-local data: ``is_ours`` is True on threads of this outlet, also one that ``close`` has left behind.
        There ``flush`` does not wait: a handler that logs would wait for its own thread."""
        self.reset()

    def reset(self) -> None:
        """Forget thread and queue. To be called in the child after a fork, where the thread does not exist."""
        self._queue: Waiting = queue.SimpleQueue()
        """Items for the thread, in order. ``close`` puts a new queue in its place; the old thread keeps the old
        one."""
        self._thread: threading.Thread | None = None
        """Thread that delivers items; None if none runs, and the next record starts one."""
        self._left_out = 0
        """Number of records left out since a line of the log told it last."""
        self._is_late = False
        """True if a caller has waited in vain for its line to be written. Then callers wait no more, until the thread
        has caught up."""
        self._has_complained = False
        """True once stderr was told that a handler fails, which is told once."""
        self._guard = threading.Lock()
        """Held while the thread is started or ended, and while an item is queued for it: so none comes to a thread
        that has just decided to end."""
        self._calling = threading.Lock()
        """Held while a handler is called with a record, and by ``hold`` while the process forks: then no handler
        holds a lock of its own that would stay locked in the child."""
        self._is_held = False
        """True if ``hold`` has acquired ``_calling``, which ``go_on`` then releases."""

    def hold(self) -> None:
        """Wait until no handler is at work, before the process forks: the locks that a handler holds then would be
        held in the child for ever.

        Waits for ``SOON_S`` at most, then the fork goes on all the same. ``go_on`` must be called in the parent,
        ``reset`` in the child.
        """
        if not self.is_current():
            self._is_held = self._calling.acquire(timeout=SOON_S)

    def go_on(self) -> None:
        """Let handlers work again, in the parent after a fork."""
        if self._is_held:
            self._is_held = False
            self._calling.release()

    def is_current(self) -> bool:
        """True if the caller is on a thread of this outlet, within a handler: it must not wait for the outlet."""
        return getattr(self._here, "is_ours", False)

    def put(self, record: logging.LogRecord) -> None:
        """Queue a record. One at INFO or above has usually been delivered when this returns.

        If ``LINES_MAX`` items wait, the record is left out and counted.
        """
        if self._queue.qsize() >= LINES_MAX:
            self._left_out += 1
            return
        # Format it now: objects that it refers to may have changed by the time it is written.
        record.msg, record.args = record.getMessage(), None
        if self._put(record) and record.levelno >= logging.INFO and not self._is_late:
            self.flush(SOON_S)

    def say(self, text: str) -> None:
        """Queue text to be written to stderr as it is, in order with the records.

        If ``LINES_MAX`` items wait, the text is left out and counted as a record is.
        """
        if self._queue.qsize() >= LINES_MAX:
            self._left_out += 1
        else:
            self._put(text)

    def _put(self, item: logging.LogRecord | str) -> bool:
        """Queue an item for the thread, and start the thread if none runs.

        Returns:
            True if the thread will deliver the item; False if none can be started, and it was delivered here.
        """
        with self._guard:
            is_running = self._thread is not None or self._start()
            if is_running:
                self._queue.put(item)
        if not is_running:
            self._deliver_here(item)
        return is_running

    def _start(self) -> bool:
        """Start the thread; returns False if no thread can be started."""
        thread = threading.Thread(target=self._run, args=(self._queue,), name="dispy log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or there are too many threads
            return False
        self._thread = thread
        return True

    def _deliver_here(self, item: logging.LogRecord | str) -> None:
        """Deliver an item on the calling thread, since no other can be started; the caller waits for the handlers."""
        self._here.is_ours = True
        try:
            self._call(item)
        finally:
            self._here.is_ours = False

    def flush(self, timeout_s: float) -> None:
        """Wait, for ``timeout_s`` seconds at most, until all items before this call were delivered.

        Within a handler it returns at once. If the time is over, callers of ``put`` wait no more (``_is_late``).
        """
        with self._guard:
            if self._thread is None or self.is_current():
                return
            written = threading.Event()
            self._queue.put(written)
        self._is_late = not written.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the thread after it has delivered all that waits. After ``timeout_s`` seconds, leave it behind.

        A record that comes later starts another thread.
        """
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._queue.put(None)
            # Items that the thread does not deliver in time stay in its own queue.
            self._queue = queue.SimpleQueue()
        thread.join(timeout_s)

    def _run(self, waiting: Waiting) -> None:
        """Deliver the items of a queue until None comes, or nothing for ``IDLE_S``: the work of the thread."""
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
        """True if the thread is to end: its queue was empty for ``IDLE_S``, or ``close`` has left it behind."""
        with self._guard:
            if waiting is self._queue and waiting.empty():
                self._thread = None
                return True
        return waiting is not self._queue

    def _count_left_out(self) -> logging.LogRecord:
        """Returns a warning to be logged that says how many records were left out, and sets their number to 0."""
        count, self._left_out = self._left_out, 0
        text = f"{count} lines of this log are left out: they came faster than they could be written"
        return logging.LogRecord("dispy", logging.WARNING, __file__, 0, text, None, None)

    def _call(self, item: logging.LogRecord | str) -> None:
        """Give a record to the handlers, or write text to stderr. What they raise is shown on stderr, once."""
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
    """Handler of a logger that passes its records to an outlet, whose thread calls the handlers that write.

    Args:
        outlet: The outlet, which may be shared with other loggers.
    """

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass a record on, without the lock of handlers: a caller that waits must not hold up others."""
        self._outlet.put(record)
        return True


class LogLimit:
    """Rate limit for log lines that other parties cause: per interval, one line per key and ``most`` lines per kind.

    Further lines are counted, and the count is logged at the end of the interval, with the number of those among them
    whose key had no line.

    Args:
        every_s: Length of the interval (seconds).
        most: Lines of one kind per interval.
        log: Logs a line: a method of a logger.
        later: Calls a function after some seconds, as ``call_later`` of an event loop.
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
        """Keys that had a line in this interval, by kind."""
        self._left_out: dict[str, int] = {}
        """Number of lines that were left out since the last count, by kind."""
        self._unnamed: dict[str, int] = {}
        """Number of lines among ``_left_out`` that were about keys without a line, by kind."""
        self._is_timed = False
        """True during an interval: its first line begins it, and has its end scheduled."""

    def line(self, kind: str, key: str, text: str, *arguments: object) -> None:
        """Log a line, or count it.

        Args:
            kind: What such lines have in common: words in the plural, which the count is logged with.
            key: The party that the line is about.
            text: Format of the line.
            arguments: Arguments of the format.
        """
        keys = self._keys_by_kind.setdefault(kind, set())
        if key in keys or len(keys) >= self._most:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            if key not in keys:
                self._unnamed[kind] = self._unnamed.get(kind, 0) + 1
            return
        keys.add(key)
        if not self._is_timed:
            self._is_timed = True
            self._later(self._every_s, self._on_time)
        self._log(text, *arguments)

    def _on_time(self) -> None:
        """End the interval: log how many lines were left out, and let each key have a line again."""
        self._is_timed = False
        self._keys_by_kind.clear()
        self.tell_count()

    def tell_count(self) -> None:
        """Log now how many lines were left out, a line for each kind, and set the counts to 0.

        Called at the end of each interval, and by an owner that closes before that.
        """
        left_out, self._left_out = self._left_out, {}
        unnamed, self._unnamed = self._unnamed, {}
        for kind, count in left_out.items():
            others = f", {unnamed[kind]} of them of others than those named" if kind in unnamed else ""
            self._log("%s: %d more within %g s, without a line each%s", kind, count, self._every_s, others)


def local_time(seconds_from_now: float) -> str:
    """Returns the wall-clock time (local) some seconds from now, for a log: "2030-01-31 23:59:59"."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds_from_now))
