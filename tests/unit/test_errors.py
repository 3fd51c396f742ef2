"""Whether each public exception is one that somebody can meet."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dispy
from dispy import errors

ROOT = Path(dispy.__file__).parent

PUBLIC = [
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)
]


def made_in(tree: ast.AST) -> set[str]:
    """Names of the classes that a module makes instances of, raised there or handed on to be raised."""
    calls = [found.func for found in ast.walk(tree) if isinstance(found, ast.Call)]
    return {call.id if isinstance(call, ast.Name) else call.attr
            for call in calls if isinstance(call, (ast.Name, ast.Attribute))}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> set[str]:
    sources = [path for path in ROOT.rglob("*.py") if path.name != "errors.py"]
    return set().union(*(made_in(ast.parse(path.read_text())) for path in sources))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_exception_is_raised_somewhere(made: set[str], name: str) -> None:
    """One that never comes is a promise to ``except`` that nobody keeps: raise it, or remove it, from docs too."""
    assert name in made


def test_the_tree_has_one_root() -> None:
    assert all(issubclass(getattr(errors, name), errors.DispyError) for name in PUBLIC)
    assert len(PUBLIC) > 10
