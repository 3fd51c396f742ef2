"""Modules that go by value as objects, since a function or another module names them.

Globals of theirs that cannot be sent are left out; code that asks for one gets an error that says why.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from dispy.payload.by_value.scopes import fill_scope

PRIVATE = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})
"""Attributes of modules that are not sent: each process has its own."""


def sendable_part(
    values: dict[str, Any], where: str, try_to_pickle: Callable[[Any], object]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Split attributes of a module into those that can be sent and, for the others, reasons by name.

    Args:
        values: The attributes, by name.
        where: Words for the module in the reasons, such as "module helpers".
        try_to_pickle: Raises an exception if a value cannot be pickled.

    Returns:
        Attributes that can be sent, by name; and for each of the others a sentence that says why not, by name.
        Special names (``__x__``) are in neither.
    """
    sendable, reasons = {}, {}
    for name, value in values.items():
        if name.startswith("__") and name.endswith("__"):
            continue
        if not isinstance(value, (types.FunctionType, type, types.ModuleType)):
            try:
                try_to_pickle(value)
            except Exception as error:
                reasons[name] = f"{where} was sent without its global {name!r}: {error}"
                continue
        sendable[name] = value
    return sendable, reasons


def explain_missing(module: types.ModuleType, reasons: dict[str, str]) -> None:
    """Have a module say why it lacks a global when code asks for it: AttributeError with the reason.

    ``reasons``: sentences, by name of the global. A ``__getattr__`` of the module's own is left alone.
    """
    if not reasons or "__getattr__" in vars(module):
        return

    def missing(name: str) -> Any:
        raise AttributeError(reasons.get(name, f"module {module.__name__!r} has no attribute {name!r}"))

    vars(module)["__getattr__"] = missing


def fill_module(module: types.ModuleType, state: tuple[Any, ...]) -> types.ModuleType:
    """Give a module that came by value its attributes; returns it. Pickles call this.

    ``state``: name, stamp and value of each attribute; and by name the reasons why others could not be sent.
    """
    values, reasons = state
    fill_scope(vars(module), values)
    explain_missing(module, reasons)
    return module
