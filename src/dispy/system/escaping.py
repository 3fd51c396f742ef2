"""Text that a peer or a job wrote, before it reaches a terminal or a log.

Control characters move cursors, rename windows and forge lines; some invisible ones turn the direction
of what follows. They are shown as escapes instead of being obeyed.
"""

from __future__ import annotations

import logging
import re
from typing import Any

_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
# Texts, since ``re`` remembers what it has compiled: most processes never meet such a character, and it is 1 ms.
_IN_LINE = f"[{_CONTROLS}]"
_IN_TEXT = f"(?![\n\t])[{_CONTROLS}]"


def line(text: str) -> str:
    """One line: every control character, line ends included, as an escape."""
    return text if text.isprintable() else re.sub(_IN_LINE, _escaped, text)


def lines(text: str) -> str:
    """Several lines: line ends and tabs stay."""
    return text if text.isprintable() else re.sub(_IN_TEXT, _escaped, text)


def block(text: str) -> str:
    """Several lines as a log has them: those after the first are indented, so that none looks like an entry."""
    return lines(text).replace("\n", "\n    ")


def sendable(text: str) -> str:
    """The same, with halves of surrogate pairs as escapes: names of files that are not UTF-8 have them, and no
    message can."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def count(number: int, noun: str) -> str:
    """A number of things: "1 job", "2 jobs", "no jobs"."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def brief(text: str, most: int = 100) -> str:
    """A name of somebody else's in a log: one line, not longer than that many characters."""
    return line(text if len(text) <= most else text[: most - 1] + "…")


def of_error(error: BaseException) -> str:
    """Type and message of an exception; its class may be a user's, and fail at that."""
    try:
        message = str(error)
    except Exception:
        message = "<its str() fails>"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 job", "2000 jobs".

    Args:
        number: How many.
        noun: In the singular.
        plural: If that is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def short_repr(value: Any) -> str:
    """A value in few words, whatever its class makes of that."""
    import reprlib

    try:
        return reprlib.repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "backslashreplace").decode("ascii")


class Formatter(logging.Formatter):
    """Formats log records so that no text in them can pass for another line, or move the cursor.

    Lines after the first are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        return block(super().format(record))
