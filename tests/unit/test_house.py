"""Rules of the house that no linter knows: sizes of folders, modules and functions, circles, how docstrings begin."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "dispy"

FOLDER_MAX = 16
"""Modules of a folder, without ``__init__``: what a reader takes in at one look."""

MODULE_MAX = 500
"""Lines of a module."""

FUNCTION_MAX = 60
"""Lines of a function, with its docstring: one screen."""

LARGE_MODULES: dict[str, str] = {}
"""Modules that may be longer, and why."""

LONG_FUNCTIONS = {
    "client/cluster.py:JobCluster.__init__": "42 lines are its signature, the public one of dispy 4 with what is new",
}
"""Functions that may be longer, by module and name, and why."""

METHODS_MAX = 25
"""Methods of a class, those of its bases in dispy counted: above that there is a second idea in it."""

LARGE_CLASSES = {
    "client/cluster.py:JobCluster": "the public interface: one line for each method, around functions of a session",
    "client/shared.py:SharedJobCluster": "those of JobCluster",
    "client/job.py:DispyJob": "the public interface of a job, and what the engine tells it",
}
"""Classes that may have more methods, and why."""

STANDS_FOR_ANOTHER = re.compile(
    r"(It|Its|Those|These|They|Likewise|What|Who|Whoever|Whose|That|The same|Ditto)\b"
)
"""How no docstring begins: with a word whose noun is somewhere else."""

MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def read(module: str) -> ast.Module:
    return ast.parse((SOURCE / module).read_text())


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Each function with its name in the module, and its lines."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}.{node.name}".lstrip(".")
            if not isinstance(node, ast.ClassDef):
                yield name, (node.end_lineno or node.lineno) - node.lineno + 1
        yield from functions(node, name)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes, functions and attributes: line, and text."""
    for node in ast.walk(tree):
        for statement in (
            getattr(node, "body", None) or [] if not isinstance(node, (ast.Lambda, ast.IfExp)) else []
        ):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield statement.lineno, statement.value.value.strip()


def imported(module: str) -> set[str]:
    """Modules of dispy that a module imports, for type checkers alone and late ones included."""
    found = set()
    for node in ast.walk(read(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dispy":
            base = (node.module or "").replace(".", "/").removeprefix("dispy").removeprefix("/")
            for alias in node.names:
                inner = f"{base}/{alias.name}.py".removeprefix("/")
                found.add(inner if inner in MODULES else f"{base}.py")
    return found & set(MODULES)


def circles() -> list[set[str]]:
    """Modules that reach each other by imports, as sets of two and more."""
    reached: dict[str, set[str]] = {}
    graph = {module: imported(module) for module in MODULES}
    for module in MODULES:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        reached[module] = seen
    found: list[set[str]] = []
    for module in MODULES:
        circle = {other for other in reached[module] if module in reached[other]}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def test_no_circle_of_imports() -> None:
    assert circles() == []


def methods() -> dict[str, set[str]]:
    """Names of the methods of each class, with those of its bases in dispy, by class and module."""
    own: dict[str, list[tuple[str, set[str], list[str]]]] = {}
    for module in MODULES:
        for node in ast.walk(read(module)):
            if isinstance(node, ast.ClassDef):
                names = {
                    each.name
                    for each in node.body
                    if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
                }
                # ``Base[T]`` is a base as ``Base`` is.
                named = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
                bases = [base.id for base in named if isinstance(base, ast.Name)]
                own.setdefault(node.name, []).append((module, names, bases))

    def inherited(name: str, seen: frozenset[str]) -> set[str]:
        found = own.get(name, []) if name not in seen else []
        return set().union(*[names | above(bases, seen | {name}) for _, names, bases in found])

    def above(bases: list[str], seen: frozenset[str]) -> set[str]:
        return set().union(*[inherited(base, seen) for base in bases])

    return {
        f"{module}:{name}": names | above(bases, frozenset({name}))
        for name, found in own.items()
        for module, names, bases in found
    }


def test_no_class_has_too_many_methods() -> None:
    found = {name: len(names) for name, names in methods().items() if len(names) > METHODS_MAX}
    assert set(found) == set(LARGE_CLASSES), found


@pytest.mark.parametrize("folder", sorted({str(Path(module).parent) for module in MODULES}))
def test_no_folder_has_too_many_modules(folder: str) -> None:
    found = [path.name for path in (SOURCE / folder).glob("*.py") if path.name != "__init__.py"]
    assert len(found) <= FOLDER_MAX, found


def test_no_module_is_too_long() -> None:
    lines = {module: len((SOURCE / module).read_text().splitlines()) for module in MODULES}
    assert {module for module, count in lines.items() if count > MODULE_MAX} == set(LARGE_MODULES)


def test_no_function_is_too_long() -> None:
    found = {
        f"{module}:{name}"
        for module in MODULES
        for name, count in functions(read(module))
        if count > FUNCTION_MAX
    }
    assert found == set(LONG_FUNCTIONS)


@pytest.mark.parametrize("module", MODULES)
def test_no_docstring_stands_for_something_said_elsewhere(module: str) -> None:
    found = [
        f"{line}: {text[:60]}" for line, text in docstrings(read(module)) if STANDS_FOR_ANOTHER.match(text)
    ]
    assert not found, "\n".join(found)


CALLBACKS = {"add_reader", "call_later", "call_soon"}
"""Methods of an event loop that take a callback."""

OWN_CALLBACKS = {"node/guard.py", "net/terminal.py"}
"""Modules of the node that may give callbacks to the loop: one guards those of all others, one is the terminal."""


def test_callbacks_of_a_node_have_an_owner() -> None:
    """The loop would print the exception of one that is not guarded, and what waits for it would wait for ever.

    ``handle`` and ``stop`` contain their exceptions themselves.
    """
    found = []
    for module in MODULES:
        if not module.startswith("node/") or module in OWN_CALLBACKS:
            continue
        for call in ast.walk(read(module)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                named = {each.attr for each in call.args if isinstance(each, ast.Attribute)}
                if call.func.attr in CALLBACKS and not named & {"handle", "stop"}:
                    found.append(f"{module}:{call.lineno}")
    assert found == []
