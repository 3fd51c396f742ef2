"""Warnings, errors and notices that dispy logs, read from its source: the page of log lines is compared with them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LEVELS = frozenset({"warning", "error", "exception", "critical"})
"""Methods of a logger whose lines somebody has to see."""

LOGGERS = frozenset({"logger", "_logger", "node_logger"})
"""Names of variables and attributes that are loggers."""

RELAYS = {"say_fault": 1, "_say_once": 1, "notice": 0}
"""Functions that log a text they are given: the place of the text among their arguments, by name."""

LIMITED = "LogLimit(LOG_EVERY_S, LOG_LINES_MAX, logger.warning"
"""Part of modules in which ``_log.line(kind, key, text, …)`` logs warnings."""

OWN_WORDS = {"system/wording.py", "system/directories.py"}
"""Modules with a function of ``RELAYS``: their own call of the logger has no text to list."""


class Line(NamedTuple):
    """A line that dispy may log.

    Attributes:
        text: The text, with ``…`` for each value that is put in.
        place: Module below ``src/dispy``, and line of the source.
    """

    text: str
    place: str


def logged(source: Path) -> list[Line]:
    """Returns all lines that the modules below a directory may log as warnings or worse, or tell a program's user.

    They are in the order of modules and lines.

    Left out are lines whose whole text is an error's own, or a reason given in other words elsewhere (``"%s"``).

    Args:
        source: Directory of the package.
    """
    found = []
    for path in sorted(source.rglob("*.py")):
        text = path.read_text()
        module = path.relative_to(source).as_posix()
        for line in in_module(text, module):
            if line.text != "…":
                found.append(line)
    return found


def in_module(text: str, module: str) -> Iterator[Line]:
    """Yield the lines that a module may log as warnings or worse.

    Args:
        text: Source of the module.
        module: Its path, for ``Line.place``.
    """
    is_limited = LIMITED in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            given = _place_of_text(node, is_limited)
            if given is not None and given < len(node.args):
                for words in _texts(node.args[given]):
                    yield Line(_with_gaps(words), f"{module}:{node.lineno}")


def _place_of_text(node: ast.Call, is_limited: bool) -> int | None:
    """Returns which argument of a call is a text for the log; None if the call logs nothing, or nothing that bad."""
    called = node.func
    name = last_name(called)
    if name in RELAYS:
        return None if last_name(node.args[0]) in ("INFO", "DEBUG") else RELAYS[name]
    if not isinstance(called, ast.Attribute):
        return None
    owner = last_name(called.value)
    if owner in LOGGERS and name in LEVELS:
        return 0
    if owner in LOGGERS and name == "log":
        return 1
    return 2 if is_limited and owner == "_log" and name == "line" else None


def last_name(node: ast.expr) -> str:
    """Returns the last part of a dotted name; empty for any other expression."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr) -> list[str]:
    """Returns the texts that an expression may be, with ``%s`` for what an f-string computes; none for a variable."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        return [
            "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)
        ]
    return []


def _with_gaps(text: str) -> str:
    """Returns a format of ``logging`` with ``…`` in place of each value."""
    return re.sub(r"%[-#0 +.\d]*[a-z]", "…", text)


def listed(page: str) -> list[str]:
    """Returns the lines that the page of log lines has: first cells of its tables, in backticks.

    Args:
        page: Markdown.
    """
    return re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
