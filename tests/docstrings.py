"""Docstrings of ``src``, drawn at random and shown without code, for a reader who has not seen the code.

``python -m tests.docstrings SEED [COUNT]`` draws thirty. For each the reader says what the named thing is, in which
unit, and what follows from it; where one of the three cannot be told, the docstring is rewritten. The same seed draws
the same ones from the same commit.
"""

from __future__ import annotations

import ast
import inspect
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "dispy"

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Found(NamedTuple):
    """A docstring: module, kind and name of what it belongs to, and its text."""

    module: str
    kind: str
    name: str
    text: str


def text_of(statement: ast.stmt) -> str | None:
    """The text of a statement that is nothing but a string."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return inspect.cleandoc(value.value) if is_text else None


def within(module: str, node: ast.AST, prefix: str = "") -> Iterator[Found]:
    """Docstrings of a module, class or function, and of all that is defined and assigned in it."""
    before: ast.stmt | None = None
    for number, statement in enumerate(getattr(node, "body", [])):
        text = text_of(statement)
        if text is not None:
            if number == 0 and isinstance(node, (*_DEFINITIONS, ast.Module)):
                kind = {"Module": "module", "ClassDef": "class"}.get(type(node).__name__, "function")
                yield Found(module, kind, prefix or module, text)
            elif isinstance(before, (ast.Assign, ast.AnnAssign)):
                target = before.targets[0] if isinstance(before, ast.Assign) else before.target
                name = f"{prefix}.{ast.unparse(target)}".lstrip(".").replace("self.", "")
                yield Found(module, "attribute", name, text)
        if isinstance(statement, _DEFINITIONS):
            yield from within(module, statement, f"{prefix}.{statement.name}".lstrip("."))
        elif isinstance(statement, (ast.If, ast.With, ast.Try)):
            yield from within(module, statement, prefix)
        before = statement


def drawn(seed: str, count: int) -> list[Found]:
    """So many docstrings, by a seed."""
    paths = sorted(SOURCE.rglob("*.py"))
    found = [
        one
        for path in paths
        for one in within(path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text()))
    ]
    return random.Random(seed).sample(found, count)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("python -m tests.docstrings SEED [COUNT]; take the commit as seed")
    for place, one in enumerate(drawn(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30), 1):
        print(f"--- {place}. {one.kind} {one.name}   [{one.module}]\n{one.text}\n")
