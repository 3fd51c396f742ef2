"""What a computation consists of: functions and classes, in one namespace."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from dispy.errors import PicklingError
from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import Namespace, Pickler, code_names
from dispy.payload.culprits import find_culprit
from dispy.payload.references import take_used

STANDARD_MODULES = frozenset({
    "argparse", "copy", "errno", "glob", "hashlib", "io", "marshal", "multiprocessing", "os", "pickle",
    "platform", "re", "shutil", "signal", "socket", "stat", "struct", "subprocess", "sys", "tempfile",
    "threading", "time", "traceback",
})  # fmt: skip
"""What code may use without importing it; a node imports those of them that code names."""

CALLED_FIRST = "init_depends"
"""A dependency of this name is called where it arrives, before anything that comes after it is defined."""

_VERSION = sys.version_info[:2]
"""Bytecode is another in each minor version of Python, and running that of another ends in a crash at best."""


class Code:
    """What a computation consists of, as it arrives where it runs.

    Attributes:
        function: The computation.
        namespace: The globals that it shares with setup, cleanup and the explicit dependencies.
        modules: Names of standard modules that the code uses without importing them.
        setup: Called before any job; None for nothing.
        cleanup: Called after all jobs; None for nothing.
        setup_args: What both are called with, pickled; they are loaded in the namespace of the user's code.
    """

    __slots__ = ("cleanup", "function", "modules", "namespace", "setup", "setup_args")

    def __init__(
        self,
        function: Callable[..., Any],
        namespace: Namespace,
        modules: list[str],
        setup: Callable[..., Any] | None,
        cleanup: Callable[..., Any] | None,
        setup_args: tuple[Any, ...],
    ) -> None:
        self.function = function
        self.namespace = namespace
        self.modules = modules
        self.setup = setup
        self.cleanup = cleanup
        self.setup_args = setup_args


def dump_code(
    function: Callable[..., Any],
    depends: Iterable[Any],
    setup: Callable[..., Any] | None = None,
    cleanup: Callable[..., Any] | None = None,
    imports: set[str] | None = None,
) -> bytes:
    """Pickle a function and the functions and classes it depends on, by value.

    All of them share one namespace on the other side; helpers that they refer to in other modules
    of the user's own keep one per module.

    Args:
        function: Any callable.
        depends: Functions and classes that the function finds by name. One called ``init_depends`` is called before
            all else is defined.
        setup: Called before any job, in the namespace of the computation: jobs see the globals that it sets.
        cleanup: Called after all jobs.
        imports: Takes the names of modules that the code imports when it runs.

    Raises:
        PicklingError: Names the global, closure variable or default that cannot be sent.
    """
    depends = list(depends)
    around = [item.func if isinstance(item, functools.partial) else item for item in (setup, cleanup)]
    explicit = [function, *depends, *[item for item in around if item is not None]]
    shared: Namespace = {}
    stream = io.BytesIO()
    pickler = Pickler(stream, shared=shared, explicit=explicit)
    firsts, names = definitions(depends)
    take_used()
    try:
        pickler.dump((shared, firsts, function, names, setup, cleanup))
        if take_used():
            raise PicklingError("it refers to an object that was put")
    except Exception as error:
        label = getattr(function, "__qualname__", repr(function))
        culprit = next(filter(None, (find_culprit(item, describe(item)) for item in explicit)), str(error))
        raise PicklingError(
            f"computation {label!r} cannot be sent: {culprit}",
            hint="import or create it inside the function, or pass it as an argument",
        ) from error
    modules = sorted(pickler.global_names & STANDARD_MODULES)
    version = _VERSION if pickler.has_code else ()
    if imports is not None:
        imports |= pickler.imports
    return pickle.dumps((stream.getvalue(), modules, b"", version), PROTOCOL)


def with_setup_args(code: bytes, args: tuple[Any, ...]) -> bytes:
    """What ``dump_code`` made, with arguments for setup and cleanup.

    Raises:
        PicklingError: An argument that cannot be sent.
    """
    data, modules, _, version = pickle.loads(code)
    stream = io.BytesIO()
    try:
        Pickler(stream).dump(args)
    except Exception as error:
        raise PicklingError(
            f"setup_args cannot be sent: {find_culprit(args, 'setup_args') or error}"
        ) from error
    return pickle.dumps((data, modules, stream.getvalue(), version), PROTOCOL)


def load_code(payload: bytes) -> Code:
    """Rebuild what ``dump_code`` made.

    Raises:
        PicklingError: It was made by another version of Python.
    """
    data, modules, args, version = pickle.loads(payload)
    if version and version != _VERSION:
        theirs, ours = (".".join(map(str, each)) for each in (version, _VERSION))
        raise PicklingError(
            f"the program runs on Python {theirs}, and this node on Python {ours}; functions travel compiled, and "
            "no version runs what another has compiled",
            hint=f"start dispynode with Python {theirs}, or the program with Python {ours}",
        )
    shared, _, function, names, setup, cleanup = pickle.loads(data)
    for name, item in names.items():
        shared.setdefault(name, item)
    name = getattr(function, "__name__", "")
    if name.isidentifier():
        shared.setdefault(name, function)
    return Code(function, shared, modules, setup, cleanup, pickle.loads(args) if args else ())


def _name_of(item: Any) -> str:
    name: str = getattr(item, "__name__", "")
    return name


def describe(item: Any) -> str:
    """A function or class, as errors name it."""
    return f"{'class' if isinstance(item, type) else 'function'} {getattr(item, '__qualname__', item)!r}"


def definitions(depends: Iterable[Any]) -> tuple[list[_Call], dict[str, Any]]:
    """What is to be called first of dependencies, and the others by name."""
    firsts: list[_Call] = []
    names = {}
    for item in depends:
        if isinstance(item, types.FunctionType) and item.__name__ == CALLED_FIRST:
            firsts.append(_Call(item))
        else:
            names[_name_of(item)] = item
    return firsts, names


class _Call:
    """A call of a function, made where it is unpickled."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, tuple[types.FunctionType]]:
        return _call_first, (self._function,)


def _call_first(function: types.FunctionType) -> None:
    import_named(function)
    function()


def import_named(function: types.FunctionType) -> None:
    """Have a function find the standard modules that it names without importing them."""
    for name in code_names(function.__code__) & STANDARD_MODULES:
        if name not in function.__globals__:
            function.__globals__[name] = importlib.import_module(name)
