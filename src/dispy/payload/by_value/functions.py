"""Functions by value: made first, filled when all that they may refer to is there."""

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


def content_of(cell: types.CellType) -> Any:
    """Value of a variable that functions share; ``EMPTY`` if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def is_code(value: Any) -> bool:
    """Whether an attribute of a class is a function, or a method or property made of one."""
    return isinstance(value, (types.FunctionType, classmethod, staticmethod, property))


def functions_in(value: Any) -> list[types.FunctionType]:
    """The functions that an attribute of a class is made of."""
    parts = [value]
    if isinstance(value, (classmethod, staticmethod)):
        parts = [value.__func__]
    elif isinstance(value, property):
        parts = [value.fget, value.fset, value.fdel]
    return [part for part in parts if isinstance(part, types.FunctionType)]


# What pickles call where they are loaded.


def make_function(
    code: types.CodeType, scope: Namespace, name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """A function without anything that may refer to it again."""
    return types.FunctionType(code, scope, name, None, closure)


def fill_function(function: types.FunctionType, state: tuple[Any, ...]) -> types.FunctionType:
    """Give a function what may refer to it again."""
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
    """Fills a function where this is pickled."""

    __slots__ = ("_function", "_pickler")

    def __init__(self, pickler: CodePickler, function: types.FunctionType) -> None:
        self._pickler = pickler
        self._function = function

    def __reduce__(self) -> tuple[Any, tuple[types.FunctionType, tuple[Any, ...]]]:
        return fill_function, (self._function, self._pickler.state_of(self._function))


def resolve_function(module: str, name: str, data: bytes) -> Any:
    """A function of the script that a job has returned: the program's own, or what came by value."""
    found = attribute_of(sys.modules.get(module), name)
    return found if isinstance(found, types.FunctionType) else pickle.loads(data)


# Variables that functions share.


def make_cell() -> types.CellType:
    """A variable that has no value yet."""
    return types.CellType()


def fill_cell(cell: types.CellType, value: Any) -> types.CellType:
    """Give a variable its value, if it has one."""
    if value is not EMPTY:
        cell.cell_contents = value
    return cell


class _Empty:
    """Stands for the value of a variable that has none yet."""

    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY = _Empty()


# Functions with several implementations.

_generic: Any = functools.singledispatch(lambda _: None)
_dispatching = _generic.__code__


def is_generic(function: Any) -> bool:
    """Whether it is a function of ``functools.singledispatch``."""
    return function.__code__ is _dispatching


def reduce_generic_function(function: types.FunctionType) -> Any:
    """How a function of ``functools.singledispatch`` is pickled; None if it is none."""
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
    return functools.singledispatch(lambda _: None)


def _fill_generic_function(function: Any, state: tuple[Any, ...]) -> Any:
    implementations, attributes, parts = state
    for kind, implementation in implementations.items():
        function.register(kind, implementation)
    vars(function).update(attributes)
    for name, value in parts.items():
        setattr(function, name, value)
    return function
