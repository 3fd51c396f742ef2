"""Escaping of text that a peer or a job wrote, before it reaches a terminal or a log.

Control characters move cursors, rename windows and forge lines; some invisible ones turn the direction
of the text after them. They are shown as escapes, so that no terminal obeys them.
"""

from __future__ import annotations

import logging
import re

_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
"""Characters that are escaped, as ranges of a character class of ``re``: control characters, separators of lines,
marks of the direction of text, the byte order mark, halves of surrogate pairs."""
# Texts, not compiled patterns: most processes never meet such a character, and compiling takes 1 ms. ``re`` keeps
# what it has compiled.
_IN_LINE = f"[{_CONTROLS}]"
"""Pattern of a character that is escaped in text of one line: all of ``_CONTROLS``."""
_IN_TEXT = f"(?![\n\t])[{_CONTROLS}]"
"""Pattern of a character that is escaped in text of several lines: all of ``_CONTROLS`` but line ends and tabs."""


def line(text: str) -> str:
    """Returns a text as one line: every control character, line ends included, becomes an escape."""
    return text if text.isprintable() else re.sub(_IN_LINE, _escaped, text)


def lines(text: str) -> str:
    """Returns a text of several lines: control characters become escapes, except line ends and tabs."""
    return text if text.isprintable() else re.sub(_IN_TEXT, _escaped, text)


def block(text: str) -> str:
    """Returns a text for a log: as ``lines``, with lines after the first indented, so none looks like an entry."""
    return lines(text).replace("\n", "\n    ")


def sendable(text: str) -> str:
    """Returns a text with halves of surrogate pairs as escapes, and nothing else changed.

    Names of files that are not UTF-8 have them, and no message can carry them.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(match: re.Match[str]) -> str:
    """Returns the escape of the character that was matched, such as ``\\x1b``; called by ``re.sub``."""
    return match.group().encode("unicode_escape", "backslashreplace").decode("ascii")


class Formatter(logging.Formatter):
    """Formats log records so that no text in them can pass for another line, or move the cursor.

    Lines after the first are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record, with its traceback, escaped by ``block``."""
        return block(super().format(record))
