"""``dispy.logger``: standard logging, with the level names that users write (``dispy.logger.DEBUG``).

Handlers belong to the program, and may block or raise. A filter on each of dispy's loggers takes every record to the
thread of ``outlet``, and the handlers are called there: so neither the engine nor a call of the program stands still
or fails because of a handler.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from dispy.system.escaping import Formatter
from dispy.system.log_writer import Outlet

_NAMES = ("dispy", "dispy.client", "dispy.files", "dispy.net", "dispy.scheduler")
"""Names of the loggers of those parts of dispy that run in programs. Each gets a ``_Detached`` filter. Without it log
records would call handlers on the thread that logs, such as the engine's."""

FORMAT = "%(asctime)s %(levelname)s %(name)s - %(message)s"
"""Format of log lines that dispy itself writes to stderr: those of ``_Shown``."""


class Logger(logging.LoggerAdapter[logging.Logger]):
    """dispy's logger, with the levels as attributes. Warnings and worse are shown unless the program has handlers."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = WARN = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = FATAL = logging.CRITICAL


logger = Logger(logging.getLogger("dispy"), {})


def notice(text: str, level: int = logging.INFO) -> None:
    """Log a line at ``level``; if the program has no handlers, print it to stderr instead, so that users see it."""
    if _has_handlers():
        logger.log(level, "%s", text)
    elif sys.stderr is not None:
        with suppress(OSError, ValueError):  # stderr is closed, or a pipe without a reader
            print(f"dispy: {text}", file=sys.stderr, flush=True)


def set_level(level: int | None) -> None:
    """Set the level of ``JobCluster(loglevel=…)``: records from this level on are logged.

    A level below WARNING is also shown on stderr, as long as the program has no handlers of its own.

    Args:
        level: The level; None leaves the level that was set before. If there was none, records from INFO on go to
            handlers of the program; without such, Python shows warnings.
    """
    own = logger.logger
    if level is None:
        if own.level == logging.NOTSET:
            own.setLevel(logging.INFO)
        return
    own.setLevel(level)
    if level < logging.WARNING and _shown not in own.handlers:
        # Without any handler Python itself shows warnings only, and in another format.
        own.addHandler(_shown)


def is_debugging() -> bool:
    """True if the logger ``dispy.scheduler`` logs DEBUG: then the engine logs all messages from and to nodes."""
    return _scheduler.isEnabledFor(logging.DEBUG)


class _Shown(logging.StreamHandler):  # type: ignore[type-arg]  # the type takes an argument for type checkers alone
    """The handler that writes to the present ``sys.stderr``, as long as the program has no handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _has_handlers() and sys.stderr is not None:
            self.stream = sys.stderr
            super().emit(record)


def _has_handlers() -> bool:
    """True if the program has handlers at the root logger or at ``dispy``: then dispy writes nothing to stderr."""
    return bool(logging.getLogger().handlers) or any(h is not _shown for h in logger.logger.handlers)


class _Detached(logging.Filter):
    """Filter of a logger that stops each record on the thread that logs, and queues it for the thread of ``outlet``.

    That thread has the logger handle the record a second time. Then the filter lets it pass, on to the handlers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if outlet.is_current():
            return True
        outlet.put(record)
        return False


def _handle(record: logging.LogRecord) -> None:
    """Have the logger of a record handle it, which calls the handlers; on the thread of ``outlet``."""
    logging.getLogger(record.name).handle(record)


outlet = Outlet(_handle)
"""The thread that calls handlers. A fork waits until no handler runs; the child begins with an empty queue."""
_shown = _Shown()
_shown.setFormatter(Formatter(FORMAT))
_scheduler = logging.getLogger("dispy.scheduler")
"""Logger of the messages between nodes and this program: see ``is_debugging``."""
for _name in _NAMES:
    logging.getLogger(_name).addFilter(_Detached())
os.register_at_fork(before=outlet.hold, after_in_parent=outlet.go_on, after_in_child=outlet.reset)
