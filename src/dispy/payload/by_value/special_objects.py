"""Objects that code holds and that pickles cannot copy as usual.

Sentinels (``MISSING = object()``) must stay one object, and go by name. Objects that delegate attributes fail when
the pickler asks them for some. Caches, weak dictionaries and context managers of the standard library hold parts that
cannot be pickled. Exceptions may take other arguments than ``Exception`` keeps.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from dispy.errors import PicklingError
from dispy.payload.by_value import annotation_types, scopes
from dispy.payload.by_value.code_pickler import CodePickler, Reducer
from dispy.payload.modules.origins import Origin, origin_of, own_modules, value_modules

# Objects that are found by name.


def named(module: str, name: str) -> Any:
    """Returns the value of a name, which may have dots, in a module, which is imported if need be. Pickles call this.

    Raises:
        PicklingError: The module has nothing of this name.
        Exception: The import of the module has raised it.
    """
    home = sys.modules.get(module)
    if home is None:
        home = scopes.import_module(module)
    found = home
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise PicklingError(f"module {module} has no {name!r} here") from None
    return found


def singleton(module: str, name: str, kind: type) -> Any:
    """Returns a sentinel of a module that goes by value: the one that the module has here, or a new one.

    A worker puts a new one into the module, so that later pickles get it. Pickles call this.

    Args:
        module: Name of the module.
        name: Name of the sentinel in the module.
        kind: Class of the sentinel.
    """
    known = scopes.attribute_of(sys.modules.get(module), name)
    if type(known) is kind and not getattr(known, "__dict__", None):
        return known
    made: Any = object.__new__(kind)
    if scopes.is_worker:
        vars(scopes.module_of_value(module, {"__name__": module})).setdefault(name, made)
    return made


def is_bare(obj: Any, kind: Any) -> bool:
    """True if an object is a sentinel such as ``MISSING = object()``: it holds nothing, and a copy would differ."""
    return _is_bare(kind) and not (kind.__dictoffset__ and object.__getattribute__(obj, "__dict__"))


def find_bare() -> dict[int, tuple[str, str]]:
    """Returns module and name of each sentinel that a loaded module holds, by address of the sentinel.

    A sentinel that could be given attributes counts only if its name is that of a constant (upper case): jobs may
    change the objects in other variables.
    """
    found: dict[int, tuple[str, str]] = {}
    for module_name in (*own_modules(), "__main__", *value_modules(), *sys.modules):
        module = sys.modules.get(module_name)
        is_installed = origin_of(module_name) is Origin.INSTALLED
        for name, value in list(getattr(module, "__dict__", {}).items()):
            kind: Any = type(value)
            if kind is object or (
                kind.__module__ == module_name if is_installed else not isinstance(value, type)
            ):
                if is_bare(value, kind) and (name.isupper() or not hasattr(value, "__dict__")):
                    found.setdefault(id(value), (module_name, name))
    return found


def _is_bare(kind: Any) -> bool:
    """True if instances of a class may be sentinels: they hold a dictionary at most, no slots and no plain value."""
    known = _bare_kinds.get(kind)
    if known is None:
        known = not (
            kind.__basicsize__ > _BARE_SIZE or kind.__itemsize__ or kind.__new__ is not object.__new__
        ) and not any(
            isinstance(value, types.MemberDescriptorType)
            for base in kind.__mro__
            for value in vars(base).values()
        )
        _bare_kinds[kind] = known
    return known


def has_attributes_alone(kind: Any) -> bool:
    """True if objects of a class consist of a dictionary of attributes: one can be made equal to another in place."""
    return kind.__basicsize__ <= _BARE_SIZE and bool(kind.__dictoffset__) and not kind.__itemsize__


_bare_kinds: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
"""Answers of ``_is_bare``, by class."""

_BARE_SIZE = type("Bare", (), {}).__basicsize__
"""Size (bytes) of an object with nothing but a dictionary and weak references: a larger one holds something more."""


def reduce_named(pickler: CodePickler, obj: Any) -> Any:
    """Returns how an object of the script is pickled whose ``__reduce__`` returns its name; else NotImplemented.

    The object travels as a sentinel (``singleton``) of its module, with its attributes.
    """
    if not isinstance(type(obj).__reduce__, types.FunctionType):
        return NotImplemented
    name = obj.__reduce__()
    if not isinstance(name, str):
        return NotImplemented
    return singleton, (type(obj).__module__, name, type(obj)), dict(vars(obj)) if vars(obj) else None


def is_delegating(kind: Any) -> bool:
    """True if objects of a class cannot be made empty and asked for their attributes, as pickles do.

    Such a class delegates attributes that its objects lack (``__getattr__``), or needs arguments to make an object,
    and does not say how its objects are pickled.
    """
    known = _delegating_kinds.get(kind)
    if known is None:
        names = {name for base in kind.__mro__[:-1] for name in vars(base)}
        is_asking = "__getattr__" in names or _wants_arguments(kind.__new__)
        known = is_asking and not names & _PICKLING and _is_of_python(kind)
        _delegating_kinds[kind] = known
    return known


def _wants_arguments(make: Any) -> bool:
    """True if ``__new__`` of a class, written in Python, takes arguments without defaults besides the class."""
    code = getattr(make, "__code__", None)
    return code is not None and code.co_argcount - len(make.__defaults__ or ()) > 1


_PICKLING = frozenset({"__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__"})
"""Names of methods by which a class says how its objects are pickled: such a class is left to pickle itself."""


def _is_of_python(kind: Any) -> bool:
    """True if objects of a class consist of a dictionary and slots, and hold nothing that only C code can copy."""
    slots = sum(
        isinstance(value, types.MemberDescriptorType)
        for base in kind.__mro__
        for value in vars(base).values()
    )
    return kind.__basicsize__ <= _BARE_SIZE + 8 * slots and not kind.__itemsize__


_delegating_kinds: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
"""Answers of ``is_delegating``, by class."""


def reduce_delegating(obj: Any) -> Any:
    """Returns how an object that delegates attributes is pickled: it is asked for none before it is complete."""
    kind: Any = type(obj)
    state = dict(object.__getattribute__(obj, "__dict__")) if kind.__dictoffset__ else {}
    for base in kind.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    state[name] = value.__get__(obj, kind)
    return _delegating, (kind,), state, None, None, _fill_delegating


def _delegating(kind: Any) -> Any:
    """Returns an empty object of a class that delegates attributes, for ``_fill_delegating``. Pickles call this."""
    return object.__new__(kind)


def _fill_delegating(obj: Any, state: dict[str, Any]) -> Any:
    """Set attributes and slots of an object, by name; its own ``__setattr__`` is not called. Returns the object."""
    for name, value in state.items():
        object.__setattr__(obj, name, value)
    return obj


# Exceptions.


class Rebuilt:
    """Stand-in for an exception whose class takes other arguments than ``Exception`` keeps: its usual pickle fails.

    ``error``: the exception; the stand-in unpickles to a copy of it.
    """

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _rebuild, (type(self._error), self._error.args, dict(vars(self._error)))


def _rebuild(kind: Any, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """Returns an exception with its arguments and attributes; ``__init__`` is not called a second time.

    Pickles of ``Rebuilt`` call this.
    """
    error: BaseException = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(attributes)
    return error


# Objects of the standard library that hold what cannot be sent.


def _reduce_cache(pickler: CodePickler, function: Any) -> Any:
    """Returns how a function with a cache (``functools.lru_cache``) is pickled: without the results in the cache.

    NotImplemented if it goes by name.
    """
    if not pickler.is_by_value(function):
        return NotImplemented
    attributes = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    return _cached, (function.__wrapped__, function.cache_parameters()), attributes


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Returns a function with a new, empty cache of these parameters (``maxsize``, ``typed``); pickles call this."""
    return functools.lru_cache(**parameters)(function)


def _reduce_cached_property(pickler: CodePickler, obj: Any) -> Any:
    """Returns how a ``functools.cached_property`` is pickled if this version, or the other side's, has a lock in it.

    Versions before 3.12 have one, which cannot be pickled. NotImplemented if neither has one.
    """
    if sys.version_info >= (3, 12) and not pickler.is_portable:
        return NotImplemented
    return _cached_property, (), (obj.func, obj.attrname, obj.__doc__), None, None, _fill_cached_property


def _cached_property() -> Any:
    """Returns a new ``functools.cached_property``, for ``_fill_cached_property``. Pickles call this."""
    return functools.cached_property(lambda _: None)


def _fill_cached_property(obj: Any, state: tuple[Any, ...]) -> Any:
    """Give a ``functools.cached_property`` function, name and text of documentation (``state``); returns it."""
    obj.func, obj.attrname, obj.__doc__ = state
    return obj


def _reduce_generic_method(pickler: CodePickler, method: Any) -> Any:
    """Returns how a ``functools.singledispatchmethod`` is pickled: made empty, and filled with its functions."""
    return _generic_method, (), (method.dispatcher, method.func), None, None, _fill_generic_method


def _generic_method() -> Any:
    """Returns a new ``functools.singledispatchmethod``; ``_fill_generic_method`` fills it. Pickles call this."""
    return functools.singledispatchmethod(lambda *_: None)


def _fill_generic_method(method: Any, state: tuple[Any, Any]) -> Any:
    """Give a ``functools.singledispatchmethod`` its dispatcher and its function (``state``); returns it."""
    method.dispatcher, method.func = state
    return method


def _reduce_weak(pickler: CodePickler, table: Any) -> Any:
    """Returns how a weak dictionary is pickled: with the items that it has now.

    Where it arrives, objects that nothing else in the pickle holds vanish from it at once.
    """
    return type(table), (), None, None, iter(list(table.items()))


def _is_begun(generator: types.GeneratorType[Any, Any, Any] | types.AsyncGeneratorType[Any, Any]) -> bool:
    """True if a generator, asynchronous or not, has run up to a ``yield`` or to its end: it cannot be copied then."""
    if isinstance(generator, types.GeneratorType):
        return inspect.getgeneratorstate(generator) != inspect.GEN_CREATED
    if sys.version_info >= (3, 12):
        return inspect.getasyncgenstate(generator) != inspect.AGEN_CREATED
    # Python 3.11 does not tell. A frame that has not begun stands at the instruction that made the generator.
    frame = generator.ag_frame
    return frame is None or frame.f_code.co_code[frame.f_lasti] != dis.opmap["RETURN_GENERATOR"]


def _reduce_context_manager(pickler: CodePickler, manager: Any) -> Any:
    """Returns how a manager of ``contextlib.contextmanager`` or ``asynccontextmanager`` is pickled: as the call that
    made it.

    Raises:
        PicklingError: The manager was entered, so that its generator runs or has ended.
    """
    if _is_begun(manager.gen):
        raise PicklingError("it is a context manager that has been entered")
    return type(manager), (manager.func, manager.args, manager.kwds)


REDUCERS: dict[type, Reducer] = {
    **annotation_types.REDUCERS,
    functools._lru_cache_wrapper: _reduce_cache,  # pyright: ignore[reportPrivateUsage]  # no public name
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_generic_method,
    weakref.WeakKeyDictionary: _reduce_weak,
    weakref.WeakValueDictionary: _reduce_weak,
    contextlib._GeneratorContextManager: _reduce_context_manager,  # pyright: ignore[reportPrivateUsage]  # no public name
    contextlib._AsyncGeneratorContextManager: _reduce_context_manager,  # pyright: ignore[reportPrivateUsage]  # no public name
}
"""By type: the function that returns how its instances are pickled. Instances of subclasses are not looked up."""
