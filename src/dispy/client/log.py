"""``dispy.logger``: standard logging, with the level names that users write (``dispy.logger.DEBUG``)."""

from __future__ import annotations

import logging


class Logger(logging.LoggerAdapter[logging.Logger]):
    """dispy's logger. Warnings and worse are shown unless the program configures logging otherwise."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = WARN = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = FATAL = logging.CRITICAL


logger = Logger(logging.getLogger("dispy"), {})
