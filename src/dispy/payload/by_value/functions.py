"""Functions by value: made first, filled when all that they may refer to is there."""

from __future__ import annotations

import importlib
import types
from typing import Any

from dispy.payload.by_value import special_objects
from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.by_value.scopes import fill_scope

PARTS = (
    "__qualname__", "__annotations__", "__kwdefaults__", "__defaults__", "__module__", "__doc__", "__type_params__",
)  # fmt: skip


def content_of(cell: types.CellType) -> Any:
    """Value of a variable that functions share; ``EMPTY`` if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return special_objects.EMPTY


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
        special_objects.fill_cell(cell, value)
    vars(function).update(attributes)
    for name, value in about.items():
        setattr(function, name, value)
    return function


def fill_module(module: types.ModuleType, state: tuple[Any, ...]) -> types.ModuleType:
    """Give a module that came by value its attributes; those that could not be sent say so when they are used."""
    values, reasons = state
    fill_scope(vars(module), values)
    special_objects.explain_missing(module, reasons)
    return module
