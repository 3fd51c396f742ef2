"""Which modules write which attribute of a session: two at most, so that a reader knows who does.

``python -m tests.unit.test_session_fields`` prints the list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "src" / "dispy" / "client"

CHANGING = {
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "insert", "pop", "popitem",
    "popleft", "remove", "setdefault", "update",
}  # fmt: skip
"""Methods of containers that change them."""

WRITERS_MAX = 2
"""Modules that may write an attribute, beside the constructor."""


def fields() -> list[str]:
    """Attributes of a session, in the order of its record."""
    tree = ast.parse((CLIENT / "session" / "state.py").read_text())
    (record,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Session"]
    return [
        node.target.id
        for node in record.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def is_session(node: ast.expr) -> bool:
    """True if an expression is a session by its name: ``session`` or ``…._session``."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in ("session", "_session")


def field_of(node: ast.expr, aliases: dict[str, str]) -> str:
    """The attribute of a session that an expression is, or is a part of; empty: none."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute) and is_session(node.value):
        return node.attr
    return aliases.get(node.id, "") if isinstance(node, ast.Name) else ""


def written(function: ast.AST) -> Iterator[str]:
    """Attributes of sessions that a function assigns, or whose containers it changes; local names for them count."""
    aliases: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            aliases[node.targets[0].id] = field_of(node.value, {})
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Attribute) and node.attr in CHANGING
        ):  # called, now or later by a local name
            yield field_of(node.value, aliases)
        targets: list[ast.expr] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                yield field_of(part, aliases if isinstance(part, ast.Subscript) else {})


def writers() -> dict[str, set[str]]:
    """The modules that write each attribute, by attribute."""
    found: dict[str, set[str]] = {name: set() for name in fields()}
    for path in CLIENT.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for name in written(function):
                    if name in found:
                        found[name].add(path.relative_to(CLIENT).as_posix())
    return found


def test_two_modules_at_most_write_an_attribute() -> None:
    assert {name: who for name, who in writers().items() if len(who) > WRITERS_MAX} == {}


def test_writers_are_found() -> None:
    """Each way of writing that is in use: assigned, added to, deleted from, by a local name, by a bound method."""
    found = writers()
    assert "session/shutdown.py" in found["is_closed"]
    assert "session/submission.py" in found["jobs"]
    assert "session/completion.py" in found["jobs"], "deleted by a local name"
    assert "session/inbox.py" in found["inbox"], "taken by a bound method"
    assert "session/completion.py" in found["cpu_time"]


if __name__ == "__main__":
    for name, who in writers().items():
        print(f"{name:20} {', '.join(sorted(who))}")
