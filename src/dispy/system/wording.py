"""How numbers, values, errors and faults are put into words, for logs and messages to users."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dispy.errors import InternalError
from dispy.system.escaping import line


def counted(number: int, noun: str, plural: str = "", zero: str = "0") -> str:
    """Returns a number with its noun: "1 job", "2000 jobs".

    Args:
        number: Number of things.
        noun: The noun in the singular.
        plural: The noun in the plural; empty: the noun with an s.
        zero: The word for 0, such as "no".
    """
    return f"{number or zero} {noun if number == 1 else plural or noun + 's'}"


def brief(text: str, most: int = 100) -> str:
    """Returns a name that another party chose, for a log: one line, cut to ``most`` characters, with "…" at the end.

    Control characters are escaped after the cut, so that escapes may make it longer.
    """
    return line(text if len(text) <= most else text[: most - 1] + "…")


def facts(statistics: Mapping[str, int]) -> str:
    """Returns the numbers of a ``statistics()`` for a log line: "nodes=2 bytes_sent=4096". Zeros are left out."""
    return " ".join([f"{name}={number}" for name, number in statistics.items() if number]) or "all are 0"


def named(part: str, statistics: Mapping[str, int]) -> dict[str, int]:
    """Returns numbers of a part for the ``statistics()`` of the whole: "bytes" of "journal" is "journal_bytes"."""
    return {f"{part}_{name}": number for name, number in statistics.items()}


def of_error(error: BaseException) -> str:
    """Returns type and message of an exception: "ValueError: bad"; the type alone if there is no message.

    If the ``__str__`` of a user's class fails, the text says so. Never raises.
    """
    try:
        message = str(error)
    except Exception:
        message = "<its str() fails>"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def short_repr(value: Any) -> str:
    """Returns the ``repr`` of a value, shortened by ``reprlib``.

    If its ``__repr__`` fails, the text names the value's type and the error's.
    """
    import reprlib

    try:
        return reprlib.repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def say_fault(logger: logging.Logger, text: str, *arguments: object, error: Exception) -> None:
    """Log a fault of dispy itself at ERROR, with its traceback; not again if it is an ``InternalError`` that was
    logged before, as several who catch it in turn may want to.

    Args:
        logger: The logger to use.
        text: What the fault means to the user, and what to do, with places for the arguments.
        arguments: Values for the text.
        error: The exception. With an ``InternalError`` the last events of its machine are shown, too.
    """
    if not was_said(error):
        logger.error(text, *arguments, exc_info=error)
        if isinstance(error, InternalError):
            error.is_logged = True


def was_said(error: object) -> bool:
    """True if an exception is an ``InternalError`` that ``say_fault`` has logged."""
    return isinstance(error, InternalError) and error.is_logged
