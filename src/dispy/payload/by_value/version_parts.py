"""Parts of classes that a version of Python makes for itself: left out for another one, and made there anew.

``dataclasses``, ``collections.namedtuple``, ``enum`` and ``typing`` write methods into the classes that they make,
or keep notes there. These belong to their version: the methods have no source, and the notes have other names. The
sender leaves them out and sends a *recipe* instead, a kind and what that kind needs to know; the receiver makes the
parts with its own library. Methods that the user has written are attributes like others, and stay.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from dispy.payload.by_value import portable

Recipe = tuple[str, Any]
"""Kind of the parts (key of ``_MAKERS``), and what making them needs."""

_OF_VERSION = frozenset({"__static_attributes__", "__firstlineno__"})
"""Notes of Python 3.13 and later in each class."""


def split(cls: type, attributes: dict[str, Any]) -> tuple[dict[str, Any], list[Recipe]]:
    """Returns the attributes of a class without those of this version of Python, and recipes for the latter.

    Args:
        cls: The class.
        attributes: Its attributes (``change_stamps.attributes_of``).
    """
    kept = {name: value for name, value in attributes.items() if name not in _OF_VERSION}
    recipes: list[Recipe] = [("line", vars(cls).get("__firstlineno__") or _first_line(cls))]
    for find in (_dataclass, _named_tuple, _enumeration, _protocol, _typed_dict):
        found = find(cls)
        if found is not None:
            names, recipe = found
            kept = {name: value for name, value in kept.items() if name not in names}
            recipes.append(recipe)
    return kept, recipes


def is_generated(cls: type, name: str) -> bool:
    """True if this version of Python has made an attribute of a class, which each other version makes for itself."""
    return name not in split(cls, {name: vars(cls)[name]})[0]


def make(cls: type, recipes: list[Recipe], *, is_early: bool) -> None:
    """Give a class that has arrived the parts of this version of Python.

    Args:
        cls: The class.
        recipes: Recipes of ``split``.
        is_early: True: those that objects of the class need while they arrive, once its methods are there. False: the
            others, once all its attributes are there.
    """
    for kind, known in recipes:
        if (kind in _EARLY) is is_early:
            _MAKERS[kind](cls, known)


def _first_line(cls: type) -> int:
    """Returns the number of the first line of a class, which Python 3.13 keeps; 0 if it is not known."""
    lines = {
        line
        for function in (getattr(value, "__func__", value) for value in vars(cls).values())
        if isinstance(function, types.FunctionType) and function.__module__ == cls.__module__
        for line in portable.lines_of(function.__code__, cls.__qualname__)
    }
    return lines.pop() if len(lines) == 1 else 0


def _make_line(cls: type, line: int) -> None:
    """Note the first line of a class, where this version does: ``inspect.getsource`` reads it there."""
    if sys.version_info >= (3, 13) and line:
        type.__setattr__(cls, "__firstlineno__", line)


def _home_of(value: Any) -> str:
    """Returns the module whose code a method runs; ``<string>`` if it was generated from a text; else empty."""
    function = getattr(value, "__func__", value)
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType):
        return ""
    if function.__code__.co_filename == "<string>":
        return "<string>"
    return str(function.__globals__.get("__name__", ""))


_Found = tuple[set[str], Recipe] | None
"""Names of attributes that are left out, and the recipe for them; None for a class that has none of the kind."""


# Data classes.

_DATA_METHODS = (
    "__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__",
    "__hash__", "__replace__",
)  # fmt: skip
"""Methods that ``dataclasses`` generates, unless the class has its own."""

_FLAGS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
"""Parameters of ``dataclasses.dataclass`` that say which methods are generated."""

_FIELD_OPTIONS = ("init", "repr", "hash", "compare", "kw_only")
"""Parameters of ``dataclasses.field`` that are attributes of the field by the same names."""


def _dataclass(cls: type) -> _Found:
    """Returns the parts of a data class: generated methods, and notes about its fields."""
    if "__dataclass_params__" not in vars(cls):
        return None
    given: Any = vars(cls)["__dataclass_params__"]
    names = {name for name in _DATA_METHODS if _home_of(vars(cls).get(name)) in ("<string>", "dataclasses")}
    own = vars(cls).get("__annotations__", {})
    fields = []
    for field in vars(cls)["__dataclass_fields__"].values():
        if field.name not in own:
            continue  # of a base class
        options = {name: getattr(field, name) for name in _FIELD_OPTIONS}
        for name in ("default", "default_factory"):
            if getattr(field, name) is not dataclasses.MISSING:
                options[name] = getattr(field, name)
        if field.metadata:
            options["metadata"] = dict(field.metadata)
        fields.append((field.name, field._field_type.name, field.type, options))
    flags = {name: getattr(given, name) for name in _FLAGS} | {"match_args": "__match_args__" in vars(cls)}
    notes = {
        name: getattr(given, name) for name in ("kw_only", "slots", "weakref_slot") if hasattr(given, name)
    }
    left_out = names | {"__dataclass_params__", "__dataclass_fields__"}
    return left_out, ("dataclass", (fields, flags, notes))


def _make_dataclass(cls: Any, known: tuple[Any, ...]) -> None:
    """Decorate a class again; what its attributes of the names of fields are stays.

    ``known``: name, kind, type and options of each of its own fields; parameters of the decorator; and further ones,
    which had their effect before the class was sent.
    """
    fields, flags, notes = known
    before = {name: vars(cls)[name] for name, *_ in fields if name in vars(cls)}
    annotations = vars(cls).get("__annotations__", {})
    is_generating = "__init__" not in vars(cls)
    for name, _, _, options in fields:
        type.__setattr__(cls, name, dataclasses.field(**options))
    # Texts need not be understood again, for which the module may be missing: kinds of fields are known.
    kinds = {"_FIELD_CLASSVAR": typing.ClassVar, "_FIELD_INITVAR": dataclasses.InitVar[object]}
    texts = {name for name, _, of_type, _ in fields if isinstance(of_type, str)}
    told = {
        name: kinds.get(kind, object) if name in texts else of_type for name, kind, of_type, _ in fields
    }
    type.__setattr__(cls, "__annotations__", told)
    try:
        dataclasses.dataclass(**flags)(cls)
    finally:
        type.__setattr__(cls, "__annotations__", annotations)
        for name, *_ in fields:
            if name in before:
                type.__setattr__(cls, name, before[name])
            elif name in vars(cls):
                type.__delattr__(cls, name)
    hints = getattr(vars(cls).get("__init__"), "__annotations__", {}) if is_generating else {}
    for name, _, of_type, _ in fields:
        cls.__dataclass_fields__[name].type = of_type
        if name in texts and name in hints:
            hints[name] = of_type
    for name, value in notes.items():
        if hasattr(cls.__dataclass_params__, name):
            setattr(cls.__dataclass_params__, name, value)


# Named tuples.

_TUPLE_METHODS = ("__new__", "_make", "_replace", "__repr__", "_asdict", "__getnewargs__", "__replace__")
"""Methods that ``collections.namedtuple`` generates."""


def _named_tuple(cls: type) -> _Found:
    """Returns the generated methods of a class that ``namedtuple`` or ``typing.NamedTuple`` has made."""
    if tuple not in cls.__bases__ or "_field_defaults" not in vars(cls):
        return None
    names = {
        name for name in _TUPLE_METHODS if _home_of(vars(cls).get(name)) in ("<string>", "collections")
        or _home_of(vars(cls).get(name)).startswith("namedtuple_")
    }  # fmt: skip
    known: Any = cls
    return names, ("named tuple", (names, known._fields, tuple(known._field_defaults.values())))


def _make_named_tuple(cls: Any, known: tuple[set[str], tuple[str, ...], tuple[Any, ...]]) -> None:
    """Give a named tuple its methods: those that were left out, and those that only this version has.

    ``known``: names of the former; names of the fields; defaults of the last of them.
    """
    names, fields, defaults = known
    make_twin: Any = collections.namedtuple  # checkers want names that are known when they look
    twin = make_twin(cls.__name__, fields, rename=True, defaults=defaults, module=cls.__module__)
    vars(twin)["__new__"].__func__.__annotations__ = dict(vars(cls).get("__annotations__", {}))
    for name in _TUPLE_METHODS:
        if name in vars(twin) and (name in names or name not in vars(cls)):
            type.__setattr__(cls, name, vars(twin)[name])


# Enumerations.

_ENUM_NOTES = {"_unhashable_values_map_", "_hashable_values_"}
"""Notes about values that only some versions keep."""

_VALUE_REPR = "_value_repr_"
"""Attribute of enumerations: the ``__repr__`` of their values, which ``dataclasses`` may have generated."""


class _Probe(enum.Enum):
    """Tells which notes enumerations have in this version."""

    ONE = 1


def _enumeration(cls: type) -> _Found:
    """Returns the notes of an enumeration about its values that only this version keeps."""
    if not isinstance(cls, enum.EnumMeta):
        return None
    is_found = isinstance(vars(cls).get(_VALUE_REPR), types.FunctionType)
    return _ENUM_NOTES | ({_VALUE_REPR} if is_found else set()), ("enumeration", is_found)


def _make_enumeration(cls: Any, finds_repr: bool) -> None:
    """Give an enumeration the notes about its values that this version looks at.

    ``finds_repr``: its values have a ``__repr__`` of their class, which is looked for.
    """
    if finds_repr:
        type.__setattr__(cls, _VALUE_REPR, type(cls)._find_data_repr_(cls.__name__, cls.__bases__))
    by_name: dict[str, list[Any]] = {}
    hashable = []
    for name, member in vars(cls).get("_member_map_", {}).items():
        try:
            hash(member._value_)
            hashable.append(member._value_)
        except TypeError:
            by_name.setdefault(name, []).append(member._value_)
    for name, value in (("_unhashable_values_map_", by_name), ("_hashable_values_", hashable)):
        if name in vars(_Probe):
            type.__setattr__(cls, name, value)


# Types for checkers.

_PROTOCOL_NOTES = {
    "__protocol_attrs__", "__callable_proto_members_only__", "__non_callable_proto_members__",
}  # fmt: skip
"""Notes in protocols that only some versions keep."""


def _protocol(cls: type) -> _Found:
    """Returns the parts of a ``typing.Protocol``: its test for subclasses, and notes about its members."""
    if not vars(cls).get("_is_protocol"):
        return None
    made = {name for name in ("__subclasshook__", "__init__") if _home_of(vars(cls).get(name)) == "typing"}
    return _PROTOCOL_NOTES | made, ("protocol", bool(vars(cls).get("_is_runtime_protocol")))


def _make_protocol(cls: Any, is_runtime: bool) -> None:
    """Make a class a protocol of this version; ``is_runtime``: ``isinstance`` asks it."""
    initialize: Any = vars(typing.Protocol)["__init_subclass__"]
    initialize.__func__(cls)
    members = getattr(typing, "_get_protocol_attrs", None)
    if sys.version_info >= (3, 12) and members is not None:
        type.__setattr__(cls, "__protocol_attrs__", members(cls))
        only = all(callable(getattr(cls, name, None)) for name in cls.__protocol_attrs__)
        if sys.version_info < (3, 13):
            type.__setattr__(cls, "__callable_proto_members_only__", only)
    if is_runtime:
        typing.runtime_checkable(cls)


_DICT_NOTES = {"__readonly_keys__", "__mutable_keys__"}
"""Notes in ``typing.TypedDict`` that only some versions keep."""


def _typed_dict(cls: type) -> _Found:
    """Returns the notes of a ``typing.TypedDict`` that only this version keeps."""
    if not typing.is_typeddict(cls):
        return None
    return _DICT_NOTES, ("typed dict", vars(cls).get("__readonly_keys__", frozenset()))


def _make_typed_dict(cls: Any, readonly: frozenset[str]) -> None:
    """Give a ``typing.TypedDict`` the notes of this version; ``readonly``: its keys that are not to be changed."""
    if sys.version_info >= (3, 13):
        keys = cls.__required_keys__ | cls.__optional_keys__
        type.__setattr__(cls, "__readonly_keys__", readonly)
        type.__setattr__(cls, "__mutable_keys__", frozenset(keys - readonly))


_MAKERS: dict[str, Callable[[Any, Any], None]] = {
    "dataclass": _make_dataclass,
    "enumeration": _make_enumeration,
    "line": _make_line,
    "named tuple": _make_named_tuple,
    "protocol": _make_protocol,
    "typed dict": _make_typed_dict,
}
"""By kind of recipe: the function that makes the parts in a class."""

_EARLY = frozenset({"dataclass", "named tuple"})
"""Kinds of recipes that make methods which objects of the class may need while they arrive."""
