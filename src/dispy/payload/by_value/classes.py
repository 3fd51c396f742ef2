"""Classes by value: copied, not made again.

A class is made empty and given its attributes one by one. Hooks of the user's own do not run a second time:
``__init_subclass__``, a metaclass and ``__set_name__`` have run in the program, and their effects are attributes. A
class keeps an identity, so that an instance that comes back is of the class that it left with.
"""

from __future__ import annotations

import abc
import enum
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec

from dispy.payload.by_value import change_stamps, scopes
from dispy.payload.by_value.bytecode import named_in
from dispy.payload.by_value.change_stamps import attributes_of, give_identity, identity_of
from dispy.payload.by_value.code_pickler import CodePickler
from dispy.payload.by_value.functions import functions_in, is_code, is_generic
from dispy.payload.modules.origins import Origin, origin_of

EnumType = enum.EnumMeta

_by_identity: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
"""Classes that were sent or have arrived."""

_digests: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
"""Digests of the definitions that classes here were made, or changed, by."""

_MAKE = ("__module__", "__qualname__", "__slots__")
"""Attributes that a class is made with."""

# In the program.


def keep(cls: type) -> None:
    """Have a class found by its identity when it comes back."""
    _by_identity[identity_of(cls)] = cls


def reduce_definition(pickler: CodePickler, cls: type) -> Any:
    """How a class is pickled: made empty, then filled."""
    identity = identity_of(cls)
    keep(cls)
    bases = cls.__bases__
    meta = type(cls)
    namespace = {name: vars(cls)[name] for name in _MAKE if name in vars(cls)}
    namespace.setdefault("__module__", cls.__module__)
    namespace["__qualname__"] = cls.__qualname__
    attributes = attributes_of(cls)
    make: tuple[Any, ...] = make_class, (identity, meta, cls.__name__, bases, namespace)
    if not _is_plain_metaclass(meta):
        namespace.pop("__slots__", None)
        keywords: dict[str, Any] = {}
        if issubclass(cls, msgspec.Struct):
            struct, attributes, keywords = _struct_parts(cls, attributes)
            namespace |= struct
        else:
            given = {name: value for name, value in attributes.items() if not is_code(value)}
            attributes = {name: value for name, value in attributes.items() if name not in given}
            namespace |= given
        make = make_by_metaclass, (identity, meta, cls.__name__, bases, namespace, keywords)
    registered = abc._get_dump(cls)[0] if isinstance(cls, abc.ABCMeta) else ()  # type: ignore[attr-defined]
    subclasses = [found for found in (each() for each in registered) if found is not None]
    home = sys.modules.get(cls.__module__)
    values: list[Any] = []
    scope = None
    if home is not None and origin_of(cls.__module__) is not Origin.INSTALLED:
        names = named_in(vars(cls).get("__annotations__"), vars(home))
        if vars(home).get(cls.__name__) is cls and cls.__qualname__ == cls.__name__:
            names = [cls.__name__, *[name for name in names if name != cls.__name__]]
        scope = pickler.scope_of(vars(home)) if names else None
        values = pickler.stamped(vars(home), names) if pickler.goes_along(vars(home)) else []
    if home is not None:
        attributes = pickler.shared_in(vars(home), attributes)
    functions = [
        function
        for value in attributes.values()
        for function in functions_in(value)
        if pickler.is_by_value(function) and not is_generic(function)
    ]
    # Those first that may be called when objects of the class arrive, as keys of a dictionary say.
    later = pickler.later(sorted(functions, key=lambda function: not function.__name__.startswith("__")))
    first = {name: value for name, value in attributes.items() if _is_first(name, value)}
    rest = {name: value for name, value in attributes.items() if name not in first}
    state = First(cls, first), later, rest, subclasses, scope, values
    return *make, state, None, None, fill_class


class First:
    """Gives a class its methods and the like before anything arrives that may hold objects of it."""

    __slots__ = ("_attributes", "_cls")

    def __init__(self, cls: type, attributes: dict[str, Any]) -> None:
        self._cls = cls
        self._attributes = attributes

    def __reduce__(self) -> tuple[Any, tuple[type, dict[str, Any]]]:
        return set_first, (self._cls, self._attributes)


def set_first(cls: type, attributes: dict[str, Any]) -> dict[str, Any]:
    """Where a class arrives that is new there: set its methods and the like."""
    if cls in _unfilled:
        _set(cls, attributes)
    return attributes


def _is_first(name: str, value: Any) -> bool:
    return is_code(value) or change_stamps.is_atom(value) or (name.startswith("__") and name.endswith("__"))


def _is_plain_metaclass(meta: type) -> bool:
    """Whether ``type`` itself can make classes of a metaclass; those written in C make their own."""
    for base in meta.__mro__:
        if base is type:
            return True
        if isinstance(vars(base).get("__new__"), types.BuiltinFunctionType):
            return False
    return True


def _struct_parts(
    cls: type, attributes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of a ``msgspec.Struct``: what it is made of, what it is given afterwards, and its keywords."""
    struct: Any = cls
    own = vars(cls).get("__annotations__", {})
    fields: dict[str, Any] = {"__annotations__": own}
    defaults = struct.__struct_defaults__
    for name, default in zip(
        struct.__struct_fields__[-len(defaults) :] if defaults else (), defaults, strict=True
    ):
        if name in own and isinstance(default, _FACTORY):
            fields[name] = FactoryField(default.factory)
        elif name in own and default is not msgspec.NODEFAULT:
            fields[name] = default
    keywords = {name: getattr(struct.__struct_config__, name) for name in _STRUCT_OPTIONS}
    if own and not any(name in struct.__match_args__ for name in own):
        keywords["kw_only"] = True
    encoded = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    rename = {name: other for name, other in encoded.items() if name != other}
    if rename:
        keywords["rename"] = rename
    rest = {
        name: value
        for name, value in attributes.items()
        if not name.startswith("__struct_")
        and name not in (*own, "__match_args__", "__annotations__", "__slots__")
    }
    return fields, rest, keywords


_STRUCT_OPTIONS = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields",
    "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip


class FactoryField(NamedTuple):
    """A field of a ``msgspec.Struct`` whose default is made anew for each; what msgspec has for it cannot be sent."""

    factory: Any


_FACTORY = type(
    msgspec.defstruct("Probe", [("a", list, msgspec.field(default_factory=list))]).__struct_defaults__[0]
)


# Where classes arrive.


def make_class(
    identity: str, meta: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
) -> type:
    """The class of this identity, empty if it is new here."""
    known = _by_identity.get(identity)
    if known is not None:
        return known
    with _without_hooks(bases):
        cls: type = type.__new__(meta, name, bases, namespace)
    if isinstance(cls, abc.ABCMeta):
        abc._abc_init(cls)  # type: ignore[attr-defined]
    return _note(cls, identity)


def make_by_metaclass(
    identity: str, meta: Any, name: str, bases: tuple[type, ...], namespace: dict[str, Any], keywords: Any
) -> type:
    """The class of this identity, made by a metaclass that is written in C."""
    known = _by_identity.get(identity)
    if known is not None:
        return known
    for key, value in namespace.items():
        if isinstance(value, FactoryField):
            namespace[key] = msgspec.field(default_factory=value.factory)
    with _without_hooks(bases):
        cls: type = meta(name, bases, namespace, **keywords)
    return _note(cls, identity)


def _note(cls: type, identity: str) -> type:
    _by_identity[identity] = cls
    give_identity(cls, identity)
    _unfilled.add(cls)
    return cls


_unfilled: set[type] = set()
"""Classes that a definition being loaded has made and not filled yet."""

_hooks = threading.RLock()
"""Guards classes whose ``__init_subclass__`` is away."""

_quiet = classmethod(lambda *_, **__: None)


@contextmanager
def _without_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Have no ``__init_subclass__`` run: it has, with keywords that nobody knows any more."""
    owners = {owner for base in bases for owner in base.__mro__ if "__init_subclass__" in vars(owner)} - {
        object
    }
    if not owners:
        yield
        return
    with _hooks:
        before = [(owner, vars(owner)["__init_subclass__"]) for owner in owners]
        try:
            for owner, _ in before:
                type.__setattr__(owner, "__init_subclass__", _quiet)
            yield
        finally:
            for owner, hook in before:
                type.__setattr__(owner, "__init_subclass__", hook)


def fill_class(cls: type, state: tuple[Any, ...]) -> type:
    """Give a class its attributes; one that is here already keeps its own."""
    first, _, rest, subclasses, scope, values = state
    if cls in _unfilled:
        _unfilled.discard(cls)
        _set(cls, rest)
        for other in subclasses:
            cls.register(other)  # type: ignore[attr-defined]
    elif _changing is cls:
        _change(cls, {**first, **rest})
    if scope is not None and scopes.is_worker:
        scopes.fill_scope(scope, values)
    return cls


def _set(cls: type, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    # Python 3.13 drops the line of a class when attributes of it are set.
    if "__firstlineno__" in attributes:
        type.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])


_changing: type | None = None
"""The class that a definition being loaded changes."""


def _change(cls: type, attributes: dict[str, Any]) -> None:
    """Have a class as the program has it now; put back after the job, if it is one of the computation's."""
    before = attributes_of(cls)

    def put_back() -> None:
        for name in set(attributes_of(cls)) - set(before):
            type.__delattr__(cls, name)
        _set(cls, before)

    scopes.note_change(put_back)
    for name in set(before) - set(attributes):
        type.__delattr__(cls, name)
    _set(cls, attributes)


def resolve(identity: str, digest: bytes, module: str, qualname: str, definition: bytes) -> type:
    """A class that came by value: the one that is here, as it is now in the program that has sent it.

    A program that loads results has its own class, which nothing that comes back changes. One that was started anew
    finds its class again in what an earlier run left.
    """
    global _changing
    known = _by_identity.get(identity)
    if known is None and not scopes.is_worker:
        known = _find_class(module, qualname)
    if known is not None and (not scopes.is_worker or _digests.get(known) == digest):
        return known
    before, _changing = _changing, known
    changes = len(scopes.changes)
    try:
        cls: type = pickle.loads(definition)
    finally:
        _changing = before
    if len(scopes.changes) > changes:
        # What it has brought besides is put back after the job, so that the next one has to bring it again.
        scopes.note_change(partial(_forget_digest, cls, _digests.get(cls)))
    _digests[cls] = digest
    return cls


def _forget_digest(cls: type, digest: bytes | None) -> None:
    if digest is None:
        _digests.pop(cls, None)
    else:
        _digests[cls] = digest


def _find_class(module: str, qualname: str) -> type | None:
    if origin_of(module) is Origin.INSTALLED:
        return None
    found = scopes.attribute_of(sys.modules.get(module), qualname)
    return found if isinstance(found, type) else None


# Members of enumerations.


def reduce_member(member: enum.Enum) -> Any:
    """How a member of an enumeration is pickled whose class goes by value: by its name, once the class is there."""
    cls: Any = type(member)
    name = member._name_
    if name is None or cls._member_map_.get(name) is not member:
        # Flags of several bits.
        return _composite, (cls, member._value_), dict(vars(member)), None, None, _fill_member
    base: Any = cls._member_type_
    arguments: tuple[Any, ...] = ()
    if base is not object:
        arguments = _underlying(member, base)
    return _member, (cls, name, base, arguments), dict(vars(member)), None, None, _fill_member


def _underlying(member: Any, base: Any) -> tuple[Any, ...]:
    """Arguments that make the plain value below a member, such as the number of an ``IntEnum``."""
    arguments = getattr(base, "__getnewargs__", None)
    if arguments is not None:
        return tuple(arguments(member))
    if base.__new__ is object.__new__:
        return ()
    return tuple(base.__reduce__(member)[1])


def _member(cls: Any, name: str, base: Any, arguments: tuple[Any, ...]) -> Any:
    found = vars(cls).get("_member_map_", {}).get(name)
    if found is not None:
        return found
    # The class is being filled. One object for each name, whoever comes first.
    pending = _pending.setdefault(cls, {})
    if name not in pending:
        pending[name] = base.__new__(cls, *arguments)
    return pending[name]


_pending: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()


def _fill_member(member: Any, state: dict[str, Any]) -> Any:
    if "_value_" not in vars(member):
        vars(member).update(state)
    return member


def _composite(cls: Any, value: Any) -> Any:
    if cls not in _unfilled:
        return cls(value)
    base = _base_of(cls)
    return base.__new__(cls, value) if base is not object else object.__new__(cls)


def _base_of(cls: type) -> type:
    """The type whose values the members of an enumeration are."""
    return int if issubclass(cls, int) else object
