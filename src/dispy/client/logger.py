"""``dispy.logger``: standard logging, with the level names that users write (``dispy.logger.DEBUG``).

Handlers are the program's own, and may block or raise. What dispy logs reaches them on a thread of its own, so that
neither the engine nor a call of the program stands still or fails by that.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from dispy.system.escaping import Formatter
from dispy.system.log_writer import Outlet

_NAMES = ("dispy", "dispy.client", "dispy.files", "dispy.net", "dispy.scheduler")
"""Loggers of what runs in programs."""

FORMAT = "%(asctime)s %(levelname)s %(name)s - %(message)s"


class Logger(logging.LoggerAdapter[logging.Logger]):
    """dispy's logger. Warnings and worse are shown unless the program configures logging otherwise."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = WARN = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = FATAL = logging.CRITICAL


logger = Logger(logging.getLogger("dispy"), {})


def notice(text: str, level: int = logging.INFO) -> None:
    """Say one line that a user should see even if the program does not configure logging."""
    if _has_handlers():
        logger.log(level, "%s", text)
    elif sys.stderr is not None:
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            print(f"dispy: {text}", file=sys.stderr, flush=True)


def set_level(level: int | None) -> None:
    """Set the level of ``JobCluster(loglevel=…)``: from it on lines are logged, and shown if nobody else shows them.

    Without a level: the one that was set before; else INFO goes to handlers of the program, and warnings are shown.
    """
    own = logger.logger
    if level is None:
        if own.level == logging.NOTSET:
            own.setLevel(logging.INFO)
        return
    own.setLevel(level)
    if level < logging.WARNING and _shown not in own.handlers:
        # What Python shows without any handler is warnings only, and in another form.
        own.addHandler(_shown)


def is_debugging() -> bool:
    """Whether every message is to be logged."""
    return _scheduler.isEnabledFor(logging.DEBUG)


class _Shown(logging.StreamHandler):  # type: ignore[type-arg]  # the type takes an argument for type checkers alone
    """Writes to stderr, as long as the program has no handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _has_handlers() and sys.stderr is not None:
            self.stream = sys.stderr
            super().emit(record)


def _has_handlers() -> bool:
    """Whether the program has handlers that our records reach."""
    return bool(logging.getLogger().handlers) or any(h is not _shown for h in logger.logger.handlers)


class _Detached(logging.Filter):
    """Takes records to the thread of ``outlet``, where they are handled."""

    def filter(self, record: logging.LogRecord) -> bool:
        if outlet.is_current():
            return True
        outlet.put(record)
        return False


def _handle(record: logging.LogRecord) -> None:
    logging.getLogger(record.name).handle(record)


outlet = Outlet(_handle)
_shown = _Shown()
_shown.setFormatter(Formatter(FORMAT))
_scheduler = logging.getLogger("dispy.scheduler")
for _name in _NAMES:
    logging.getLogger(_name).addFilter(_Detached())
os.register_at_fork(before=outlet.hold, after_in_parent=outlet.go_on, after_in_child=outlet.reset)
