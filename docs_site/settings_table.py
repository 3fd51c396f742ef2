"""Reference of ``dispy.config``, made of the module's source: names, defaults and what is written below each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple


class Setting(NamedTuple):
    """A setting that programs may assign.

    Attributes:
        name: Name in ``dispy.config``.
        default: Source of its value; empty if the value follows from another setting.
        text: The docstring below it.
    """

    name: str
    default: str
    text: str


def settings(source: str) -> list[Setting]:
    """Returns the settings of a module: capitalised names with a docstring, in the order of the source.

    Args:
        source: Text of the module.
    """
    return list(_settings(ast.parse(source).body))


def _settings(body: list[ast.stmt]) -> Iterator[Setting]:
    for statement, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.If):
            yield from _settings(statement.body)
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        if isinstance(target, ast.Name) and target.id[0].isupper():
            value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
            yield Setting(target.id, ast.unparse(value) if value is not None else "", _docstring(below))


def _docstring(statement: ast.stmt | None) -> str:
    """Returns the text of a statement that is a text, in one line; else the empty text."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def table(source: str) -> str:
    """Returns the settings of a module as a table (Markdown)."""
    rows = [
        f"| `{each.name}` | {f'`{each.default}`' if each.default else '(follows)'} | {as_markdown(each.text)} |"
        for each in settings(source)
    ]
    return "\n".join(["| `dispy.config` | default | what it is |", "| --- | --- | --- |", *rows])


def as_markdown(text: str) -> str:
    """Returns a docstring's text with the backticks of Markdown, which are single, safe in a cell of a table."""
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", "\\|")
