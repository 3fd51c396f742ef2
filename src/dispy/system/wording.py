"""How numbers, values and errors are put into words, for logs and messages to users."""

from __future__ import annotations

from typing import Any

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
