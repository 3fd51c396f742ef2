"""Environment variables that dispy reads, found in its source: the page of settings is compared with them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docs_site.log_lines import last_name

NOT_OURS = {"worker/between_jobs/state_restore.py", "integrations/joblib_backend.py"}
"""Modules that handle variables of whatever name: those that the user's jobs set, and those of joblib's list."""


def read_in(source: Path) -> tuple[set[str], list[str]]:
    """Returns the names of environment variables that modules read, and the places whose name is not to be found.

    Args:
        source: Directory of the package.
    """
    trees = {
        path.relative_to(source).as_posix(): ast.parse(path.read_text())
        for path in sorted(source.rglob("*.py"))
    }
    constants = {name: value for tree in trees.values() for name, value in _constants(tree)}
    names: set[str] = set()
    unclear = []
    for module, tree in trees.items():
        if module in NOT_OURS:
            continue
        for node, key in _uses(tree):
            found = _values(key, tree, constants)
            names.update(found)
            if not found:
                unclear.append(f"{module}:{node.lineno}")
    return names, unclear


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the texts that a module assigns to names at its top: name, value."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    yield target.id, node.value.value


def _uses(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield each place that asks ``os.environ`` for one variable, and the expression of the variable's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and last_name(node.value) in ("environ", "environment"):
            yield node, node.slice
        elif isinstance(node, ast.Call) and node.args:
            called = node.func
            if last_name(called) == "getenv":
                yield node, node.args[0]
            elif isinstance(called, ast.Attribute) and called.attr in ("get", "pop", "setdefault"):
                if last_name(called.value) == "environ":
                    yield node, node.args[0]


def _values(key: ast.expr, tree: ast.Module, constants: dict[str, str]) -> set[str]:
    """Returns the names that an expression may be; of an f-string with ``*`` for what is computed."""
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return {key.value}
    if isinstance(key, ast.JoinedStr):
        return {"".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in key.values)}
    name = last_name(key)
    if name in constants:
        return {constants[name]}
    # The variable of a loop over texts.
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.comprehension) and last_name(node.target) == name:
            if isinstance(node.iter, (ast.Tuple, ast.List)):
                found |= {each.value for each in node.iter.elts if isinstance(each, ast.Constant)}
    return {each for each in found if isinstance(each, str)}
