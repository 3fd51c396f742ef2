"""Functions by value, with their cells, and functions of ``functools.singledispatch``.

A function is pickled in two halves, as it may refer to itself: it is made first (``make_function``), and filled when
everything that it refers to is there (``fill_function``). The functions of a class are filled with the class
(``Later``).
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import types
from typing import Any

from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.by_value.code_pickler import CodePickler
from dispy.payload.by_value.scopes import attribute_of, fill_scope

PARTS = (
    "__qualname__", "__annotations__", "__kwdefaults__", "__defaults__", "__module__", "__doc__", "__type_params__",
)  # fmt: skip
"""Attributes that a function gets when it is filled, as they may refer to it; each is pickled unless it is empty."""


def content_of(cell: types.CellType) -> Any:
    """Returns the value of a cell (a variable that functions share); ``EMPTY`` if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def is_code(value: Any) -> bool:
    """True if an attribute of a class is a function, or a method or property made of one."""
    return isinstance(value, (types.FunctionType, classmethod, staticmethod, property))


def functions_in(value: Any) -> list[types.FunctionType]:
    """Returns the functions that an attribute of a class is made of: up to three of a property; else one or none."""
    parts = [value]
    if isinstance(value, (classmethod, staticmethod)):
        parts = [value.__func__]
    elif isinstance(value, property):
        parts = [value.fget, value.fset, value.fdel]
    return [part for part in parts if isinstance(part, types.FunctionType)]


def owner_of_generated(function: types.FunctionType) -> type | None:
    """Returns the class that has a method without a source of its own, such as one that ``dataclasses`` has made.

    Other versions of Python make the method anew with the class: it goes by its name there. None for any other
    function.
    """
    inner = getattr(function, "__wrapped__", function)
    if getattr(inner, "__code__", None) is None or inner.__code__.co_filename != "<string>":
        return None
    path, _, name = function.__qualname__.rpartition(".")
    owner = attribute_of(sys.modules.get(function.__module__), path) if path else None
    is_its = (
        isinstance(owner, type) and getattr(owner, name, None) is function and name == function.__name__
    )
    return owner if is_its else None


# Called by pickles that are loaded.


def make_function(
    code: types.CodeType, scope: Namespace, name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Returns a function without the parts that may refer to it again; ``fill_function`` gives it these.

    Args:
        code: Code of the function.
        scope: Globals of the function, by name; this dictionary itself is used.
        name: Name of the function.
        closure: Cells of the variables that it shares with other functions, in the order of ``co_freevars``.
    """
    return types.FunctionType(code, scope, name, None, closure)


def fill_function(function: types.FunctionType, state: tuple[Any, ...]) -> types.FunctionType:
    """Give a function the parts that may refer to it again; returns it.

    Args:
        function: Function of ``make_function``.
        state: Attributes of ``PARTS``, by name; other attributes, by name; pairs of a cell and its value; name, stamp
            and value of each global; names of modules to import first.
    """
    about, attributes, cells, values, submodules = state
    for name in submodules:
        importlib.import_module(name)
    fill_scope(function.__globals__, values)
    for cell, value in cells:
        fill_cell(cell, value)
    vars(function).update(attributes)
    for name, value in about.items():
        setattr(function, name, value)
    return function


class Later:
    """Stand-in that fills a function of a class where it is unpickled: all functions of the class are made by then.

    Args:
        pickler: Pickler of the class.
        function: The function.
    """

    __slots__ = ("_function", "_pickler")

    def __init__(self, pickler: CodePickler, function: types.FunctionType) -> None:
        self._pickler = pickler
        self._function = function

    def __reduce__(self) -> tuple[Any, tuple[types.FunctionType, tuple[Any, ...]]]:
        return fill_function, (self._function, self._pickler.state_of(self._function))


def resolve_function(module: str, name: str, data: bytes) -> Any:
    """Returns a function of the script that a job has returned: the program's own, or else that of the pickle.

    Args:
        module: Name of the function's module.
        name: Name of the function in its module, which may have dots.
        data: The function, pickled by value; only opened if the program has no function of this name.
    """
    found = attribute_of(sys.modules.get(module), name)
    return found if isinstance(found, types.FunctionType) else pickle.loads(data)


# Cells: variables that functions share.


def make_cell() -> types.CellType:
    """Returns a cell that has no value yet."""
    return types.CellType()


def fill_cell(cell: types.CellType, value: Any) -> types.CellType:
    """Give a cell its value, unless that is ``EMPTY``; returns the cell."""
    if value is not EMPTY:
        cell.cell_contents = value
    return cell


class _Empty:
    """Stand-in for the value of a cell that has none yet."""

    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY = _Empty()
"""The one object of ``_Empty``: pickles hold it by name, so that it stays one object where they are loaded."""


# Functions of ``functools.singledispatch``.

_generic: Any = functools.singledispatch(lambda _: None)
"""A function of ``functools.singledispatch``, made to get its code for ``_dispatching``; never called."""

_dispatching = _generic.__code__
"""Code object that all functions of ``functools.singledispatch`` share: ``is_generic`` knows them by it."""


def is_generic(function: Any) -> bool:
    """True if a function was made by ``functools.singledispatch``."""
    return function.__code__ is _dispatching


def reduce_generic_function(function: types.FunctionType) -> Any:
    """Returns how a function of ``functools.singledispatch`` is pickled; None for any other function."""
    if not is_generic(function):
        return None
    implementations = dict(function.registry)  # type: ignore[attr-defined]
    attributes = {
        name: value
        for name, value in vars(function).items()
        if name not in ("register", "dispatch", "registry", "_clear_cache")
    }
    parts = {
        name: getattr(function, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")
    }
    return _generic_function, (), (implementations, attributes, parts), None, None, _fill_generic_function


def _generic_function() -> Any:
    """Returns a new function of ``functools.singledispatch``; ``_fill_generic_function`` gives it the rest.

    Pickles call this.
    """
    return functools.singledispatch(lambda _: None)


def _fill_generic_function(function: Any, state: tuple[Any, ...]) -> Any:
    """Give a function of ``functools.singledispatch`` its implementations and attributes; returns the function.

    Pickles call this. ``state``: implementations by class; the user's attributes by name; values by name of
    ``__name__``, ``__qualname__``, ``__module__`` and ``__doc__``.
    """
    implementations, attributes, parts = state
    for kind, implementation in implementations.items():
        function.register(kind, implementation)
    vars(function).update(attributes)
    for name, value in parts.items():
        setattr(function, name, value)
    return function
