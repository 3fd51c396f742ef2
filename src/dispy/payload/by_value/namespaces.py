"""Globals of functions: the module or package that they belong to, and functions whose globals are used."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from typing import Any

from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.by_value.scopes import attribute_of
from dispy.payload.modules.origins import MAINS


def package_of(namespace: Namespace) -> str:
    """Returns the name of the package that relative imports in code with these globals start from; empty for none."""
    package = namespace.get("__package__")
    if package is None:
        name = namespace.get("__name__") or ""
        package = name if "__path__" in namespace else name.rpartition(".")[0]
    return str(package)


def module_of(namespace: Namespace) -> str | None:
    """Returns the name of the module whose globals these are; None if they belong to no module."""
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if getattr(module, "__dict__", None) is namespace else None


def about(namespace: Namespace) -> dict[str, Any]:
    """Returns name, package, file and the like of a module that goes by value, by attribute (``__name__``, …).

    For a script that was started by ``python -m`` the name of its module is there, too, as ``spec``.
    """
    found = {
        name: namespace[name]
        for name in ("__name__", "__package__", "__file__", "__path__", "__doc__")
        if isinstance(namespace.get(name), (str, list))
    }
    spec = namespace.get("__spec__")
    if spec is not None and namespace.get("__name__") in MAINS:
        found["spec"] = spec.name
    return found


def functions_of(item: Any) -> Iterable[types.FunctionType]:
    """Yields the functions whose globals a computation or dependency uses.

    ``item``: a function (yielded itself, and then the function that it wraps), a class (its methods, in the order of
    definition), or any other callable (the function that it holds, else methods of its class). Nothing is yielded
    for built-in ones.
    """
    if isinstance(item, types.MethodType):
        item = item.__func__
    if isinstance(item, (functools._lru_cache_wrapper, functools.partial)):  # pyright: ignore[reportPrivateUsage]  # no public name
        item = getattr(item, "__wrapped__", None) or item.func  # type: ignore[union-attr]
    if isinstance(item, types.FunctionType):
        yield item
        wrapped = getattr(item, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            yield wrapped
    elif isinstance(item, type):
        for value in vars(item).values():
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType):
                yield function
    elif not isinstance(item, types.BuiltinFunctionType) and not isinstance(item, types.ModuleType):
        yield from functions_of(type(item)) if type(item).__module__ != "builtins" else ()


def is_global(obj: Any) -> bool:
    """True if a function or class is found under its own name in its module, so that a pickle can name it."""
    return attribute_of(sys.modules.get(obj.__module__), obj.__qualname__) is obj
