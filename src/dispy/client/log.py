"""``dispy.logger``: standard logging, with the level names that users write (``dispy.logger.DEBUG``)."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress


class Logger(logging.LoggerAdapter[logging.Logger]):
    """dispy's logger. Warnings and worse are shown unless the program configures logging otherwise."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = WARN = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = FATAL = logging.CRITICAL


def notice(text: str, level: int = logging.INFO) -> None:
    """Say one line that a user should see even if the program does not configure logging."""
    if logger.logger.hasHandlers():
        logger.log(level, "%s", text)
    elif sys.stderr is not None:
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            print(f"dispy: {text}", file=sys.stderr, flush=True)


logger = Logger(logging.getLogger("dispy"), {})
