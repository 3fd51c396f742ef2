"""Code of the user's own, by value.

A class is sent with an identity, so that an instance that comes back is one of the very class that it left as.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import importlib
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _cloud

from dispy.payload.blocks import PROTOCOL, Collector
from dispy.payload.installed import is_installed

Namespace = dict[str, Any]

sent_directory = ""
"""Where files lie that came with the code; empty in a program, which has its modules itself."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """cloudpickle that takes code of the user's own modules by value, and classes with an identity.

    Args:
        file: Where the pickle goes.
        shared: Namespace for the functions of ``explicit`` and all that is defined beside them.
        explicit: The computation and its dependencies.
        buffers: Takes large buffers; without it they go into the pickle.
    """

    def __init__(
        self,
        file: io.BytesIO,
        *,
        shared: Namespace | None = None,
        explicit: Iterable[Any] = (),
        buffers: Collector | None = None,
    ) -> None:
        super().__init__(
            file, protocol=PROTOCOL, buffer_callback=buffers.take if buffers is not None else None
        )
        self.global_names: set[str] = set()
        self.imports: set[str] = set()
        """Names of modules that functions import when they run."""
        self.has_code = False
        """There is something in it that was compiled."""
        self._explicit = {id(item) for item in explicit}
        self._is_definition = False
        if shared is not None:
            for item in explicit:
                for function in functions_of(item):
                    if not is_installed(function.__module__):
                        self.globals_ref[id(function.__globals__)] = shared
                        shared.setdefault("__name__", function.__globals__.get("__name__", "__main__"))
            shared.setdefault("__name__", "__main__")

    def _dynamic_function_reduce(self, func: Any) -> Any:
        self.has_code = True
        self.imports |= _imports(func.__code__, func.__globals__)
        return super()._dynamic_function_reduce(func)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            if not is_installed(obj.__module__):
                self.global_names |= code_names(obj.__code__)
                return self._dynamic_function_reduce(obj)
        elif isinstance(obj, type):
            if not is_installed(obj.__module__) or obj in _cloud._DYNAMIC_CLASS_TRACKER_BY_CLASS:
                self.has_code = True
                if self._is_definition or id(obj) in self._explicit:
                    return _reduce_definition(obj)
                reduced, imports = _reduce_class(obj)
                self.imports |= imports
                return reduced
        elif isinstance(obj, functools._lru_cache_wrapper) and not is_installed(obj.__module__):
            attributes = {name: value for name, value in vars(obj).items() if name != "__wrapped__"}
            return _cached, (obj.__wrapped__, obj.cache_parameters()), attributes
        elif isinstance(obj, types.ModuleType) and not is_installed(obj.__name__):
            state = {name: value for name, value in vars(obj).items() if name not in _MODULE_PRIVATE}
            return types.ModuleType, (obj.__name__,), state
        return super().reducer_override(obj)


_MODULE_PRIVATE = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})


def dump_by_value(value: Any, buffers: Collector | None = None) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, buffers=buffers).dump(value)
    return stream.getvalue()


_class_blobs: dict[str, tuple[type, bytes, set[str]]] = {}


def _reduce_class(cls: type) -> tuple[Any, set[str]]:
    """A class of the user's own: its identity, its definition for those who do not know it, and what it imports."""
    identity = _cloud._get_or_create_tracker_id(cls)
    known = _class_blobs.get(identity)
    if known is None:
        stream = io.BytesIO()
        pickler = Pickler(stream, explicit=(cls,))
        pickler._is_definition = True
        pickler.dump(cls)
        known = _class_blobs[identity] = (cls, stream.getvalue(), pickler.imports)
    return (_resolve_class, (identity, cls.__module__, cls.__qualname__, known[1])), known[2]


_unfilled: set[type] = set()
"""Classes that a definition being loaded has made and not filled yet."""


def _reduce_definition(cls: type) -> Any:
    """A class by value; where it is known already its definition changes nothing."""
    make, args, state, *_ = _cloud._dynamic_class_reduce(cls)
    attributes = state[0]
    if attributes.get("__slots__") and not issubclass(cls, enum.Enum):
        # Slots have to be there when the class is made; their descriptors come with them.
        args[3]["__slots__"] = attributes.pop("__slots__")
        for name in [n for n, value in attributes.items() if isinstance(value, types.MemberDescriptorType)]:
            del attributes[name]
    return _make_class, (make, args), state, None, None, _fill_class


def _make_class(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    known: type | None = _cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known
    cls = make(*args)
    _unfilled.add(cls)
    return cls


def _fill_class(cls: type, state: Any) -> type:
    if cls in _unfilled:
        _unfilled.discard(cls)
        _cloud._class_setstate(cls, state)
    return cls


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function with a cache of its own, as empty as a fresh one."""
    return functools.lru_cache(**parameters)(function)


def _resolve_class(identity: str, module: str, qualname: str, definition: bytes) -> Any:
    known = _cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
    if known is not None:
        return known
    found = _find_class(module, qualname)
    if found is None:
        return pickle.loads(definition)
    if sent_directory:
        # Not in a program, where every isolated job would leave an identity of its own.
        _cloud._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = found
    return found


def _find_class(module: str, qualname: str) -> type | None:
    """A class of the user's own that is here already: in the program, or on a node in a file that came with the code.

    A program that was started anew finds its own class again in what an earlier run left.
    """
    found: Any = sys.modules.get(module)
    if found is None and sent_directory:
        top = f"{sent_directory}/{module.partition('.')[0]}"
        if os.path.isfile(f"{top}.py") or os.path.isdir(top):
            with contextlib.suppress(Exception):  # who needs it imports it, and is told
                found = importlib.import_module(module)
    if found is None or is_installed(module):
        return None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def functions_of(item: Any) -> Iterable[types.FunctionType]:
    """The functions whose globals a computation or dependency brings along."""
    if isinstance(item, types.MethodType):
        item = item.__func__
    if isinstance(item, types.FunctionType):
        yield item
        wrapped = getattr(item, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            yield wrapped
    elif isinstance(item, type):
        for value in vars(item).values():
            if isinstance(value, types.FunctionType):
                yield value
    elif hasattr(item, "func") and isinstance(item.func, types.FunctionType):
        yield item.func


def code_names(code: types.CodeType) -> set[str]:
    """Globals and attributes that a function names, and those within it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= code_names(constant)
    return names


def _imports(code: types.CodeType, namespace: Namespace) -> set[str]:
    """Names of the modules that a function imports when it runs, and those within it."""
    found = set()
    if _IMPORT_NAME in code.co_code[::2]:
        before: list[Any] = [None, None]  # level and names, pushed before each import
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                package = namespace.get("__package__") or namespace.get("__name__") or ""
                found.add(package if before[0] else instruction.argval)
            before = [before[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _imports(constant, namespace)
    return found


_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
