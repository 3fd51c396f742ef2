"""Scopes of functions where code arrives: one module object for each module that came by value.

In a worker such modules stand in ``sys.modules`` under their names, the script as ``__main__`` and ``__mp_main__``,
so that pickles of a job, and processes that it forks or spawns, find them there. A program that loads results
registers nothing.

Arguments of a job may bring a newer state of the computation than it was loaded with. Each change that they make is
noted in an undo list (``changes``), and undone when the job has ended (``put_back``).
"""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

from dispy.payload import random_generators
from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.modules.origins import MAINS

is_worker = False
"""True in a worker, where modules that come by value are registered; set by ``modules.importer.begin_worker``."""

_made: dict[str, types.ModuleType] = {}
"""Modules that came by value to this worker, by name: later pickles add to them. Empty in a program."""

_stamps: dict[int, dict[str, Any]] = {}
"""Stamps of globals that have arrived: for each module in ``_made``, by address of its scope, stamps by name.

A global that arrives with the stamp that it has is left alone.
"""

_is_loaded = False
"""True once the computation is loaded: changes that arguments of a job make from then on are undone after it."""

changes: list[Callable[[], object]] = []
"""Undo list: functions that undo what the arguments of the running job have changed. Called last change first."""

_MISSING = object()
"""Stand-in for the stamp of a global whose stamp is not known here. No stamp equals it, so the global is set anew."""

find_file: Callable[[str], str] = str
"""Returns the path on this machine for the path of the script in the program.

``code.load_code`` sets it in workers; by default the path is returned as it is.
"""


def end_loading() -> None:
    """Note that the computation is loaded, as ``code.load_code`` does: from now on changes go to the undo list."""
    global _is_loaded
    _is_loaded = True


def put_back() -> None:
    """Undo all changes in the undo list, last one first: the job whose arguments made them has ended."""
    global _changed
    _changed += 1
    while changes:
        changes.pop()()


def note_change(undo: Callable[[], object]) -> None:
    """Add a change to the undo list (``undo`` puts it back). A change before the computation is loaded stays, and so
    does one in a ``lasting`` block.
    """
    global _changed
    _changed += 1
    if _is_loaded:
        changes.append(undo)


_changed = 0
"""Number of changes of what was here before, and of times that changes were undone: ``count_changes``."""


def count_changes() -> int:
    """Returns a number that grows when pickles change globals or classes that were here, and when that is undone.

    While it is the same, a function that was loaded by value finds the globals that it came with, but for what jobs
    have made of them.
    """
    return _changed


@contextmanager
def lasting() -> Iterator[None]:
    """Have changes that pickles make in the block stay: they bring code of the computation, as it does itself."""
    global _is_loaded
    before, _is_loaded = _is_loaded, False
    try:
        yield
    finally:
        _is_loaded = before


# Called by pickles that are loaded.


def import_module(name: str) -> types.ModuleType:
    """Returns a module that can be imported here; imports it if need be. What the import raises passes through."""
    return importlib.import_module(name)


def scope_of_module(name: str) -> Namespace:
    """Returns the globals of a module that can be imported here; imports it if need be."""
    return vars(importlib.import_module(name))


def fresh_scope(about: dict[str, Any]) -> Namespace:
    """Returns new globals, for code that belongs to no module; ``about``: names and values that they begin with."""
    scope = {name: value for name, value in about.items() if name != "spec"}
    scope.setdefault("__builtins__", builtins)
    return scope


def scope_of_value(name: str, about: dict[str, Any]) -> Namespace:
    """Returns the globals of a module that came by value; in a program new ones for each pickle.

    Args:
        name: Name of the module.
        about: Its name, file and the like, by attribute (``namespaces.about``).
    """
    return vars(module_of_value(name, about)) if is_worker else fresh_scope(about)


def module_of_value(name: str, about: dict[str, Any]) -> types.ModuleType:
    """Returns a module that came by value: in a worker one for each name, in a program a new one.

    A worker registers it in ``sys.modules``, unless another module has the name. Arguments as of ``scope_of_value``.
    """
    module = _made.get(name) if is_worker else None
    if module is not None:
        return module
    module = types.ModuleType(name)
    vars(module).update(fresh_scope(about))
    if not is_worker:
        return module
    _made[name] = module
    _stamps[id(vars(module))] = {}
    if name in MAINS:
        _make_main(module, about)
    elif name not in sys.modules:
        sys.modules[name] = module
    return module


def lone_module(name: str, about: dict[str, Any]) -> types.ModuleType:
    """Returns a new module that is registered nowhere, as another module has its name. Pickles call this.

    Arguments are those of ``module_of_value``.
    """
    module = types.ModuleType(name)
    vars(module).update(fresh_scope(about))
    return module


def _make_main(module: types.ModuleType, about: dict[str, Any]) -> None:
    """Give a worker the user's script as its main module; processes that jobs spawn read it from its file."""
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    path = about.get("__file__")
    if path:
        module.__file__ = find_file(path)
    name = about.get("spec")
    module.__spec__ = ModuleSpec(name, None, origin=module.__file__ if path else None) if name else None


def fill_scope(scope: Namespace, values: Iterable[tuple[str, Any, Any]]) -> None:
    """Set globals of a scope: those that are new, and those that the program has changed since it sent them.

    A scope that does not belong to a module that came by value to a worker gets all of them.

    Args:
        scope: The globals.
        values: Name, stamp and value of each global; a stamp of None counts as changed.
    """
    stamps = _stamps.get(id(scope))
    if stamps is None:
        for name, _, value in values:
            scope[name] = value
        return
    arrived = []
    for name, stamp, value in values:
        if name in scope and stamp is not None and stamps.get(name, _MISSING) == stamp:
            continue
        if name in scope:
            note_change(_putting_back(scope, stamps, name))
        scope[name] = value
        stamps[name] = stamp
        arrived.append(value)
    if arrived:
        random_generators.globals_arrived(arrived)


def global_value(scope: Namespace, name: str, stamp: Any, value: Any) -> Any:
    """Returns the object for a value that a function or class holds and that is a global as well. Pickles call this.

    A worker sets the global if it is new or has changed, and returns what the global now is, so that both stay one
    object. A program returns ``value``. Arguments: ``scope`` and the parts of one global of ``fill_scope``.
    """
    if not is_worker:
        return value
    fill_scope(scope, [(name, stamp, value)])
    return scope[name]


def fill_from_value(module: types.ModuleType, load: Callable[[], Any]) -> None:
    """Give a module whose import has failed here the globals that the program has sent of it by value.

    Args:
        module: The module, empty, which is in ``sys.modules``.
        load: Returns its globals: name, stamp and value of each.
    """
    _made[module.__name__] = module
    _stamps[id(vars(module))] = {}
    fill_scope(vars(module), load())


def _putting_back(scope: Namespace, stamps: dict[str, Any], name: str) -> Callable[[], None]:
    """Returns a function for the undo list that puts back the value and stamp that a global has now."""
    value, stamp = scope[name], stamps.get(name)

    def put_back() -> None:
        scope[name] = value
        stamps[name] = stamp

    return put_back


def attribute_of(module: Any, path: str) -> Any:
    """Returns the value of a name, which may have dots (``Class.method``), in a module; None if it has no such name.

    ``module``: any object, or None, for which None is returned.
    """
    found = module
    for part in path.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found
