"""Classes by value: copied, not made again.

A class is made empty and given its attributes one by one. Hooks of the user's own do not run a second time:
``__init_subclass__``, a metaclass and ``__set_name__`` have run in the program, and their effects are attributes. A
class has an identity, which goes along, so that an instance that comes back is of the class that it left with.

Where a class arrives | its identity is known here | then
--- | --- | ---
worker | no | the class is made and filled
worker | yes, from a definition of the same digest | the class is used, and the definition not opened
worker | yes, with another digest | the class is changed, which is undone after the job (``scopes.changes``)
program | yes, or a class of the name is there | that class is used, whatever the definition says
program | no | the class is made and filled
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
from typing import Any

from dispy.payload.by_value import change_stamps, scopes, struct_classes, version_parts
from dispy.payload.by_value.bytecode import named_in
from dispy.payload.by_value.change_stamps import attributes_of, give_identity, identity_of
from dispy.payload.by_value.code_pickler import CodePickler
from dispy.payload.by_value.functions import functions_in, is_code, is_generic
from dispy.payload.by_value.version_parts import Recipe
from dispy.payload.modules.origins import Origin, origin_of

EnumType = enum.EnumMeta
"""Metaclass of enumerations, by the name that it has from Python 3.11 on."""

_by_identity: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
"""Classes that were sent or have arrived, by identity (``change_stamps.identity_of``), while they are in use.

A class that was sent and comes back is the same object again, and not a copy.
"""

_digests: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
"""Digests (16 bytes) by class: of the definition by which the class was made here or last changed.

A definition that arrives with the same digest need not be opened (``resolve``).
"""

_MAKE = ("__module__", "__qualname__", "__slots__")
"""Attributes that an empty class is made with: ``__slots__`` has no effect when it is set later."""

# In the program.


def keep(cls: type) -> None:
    """Store a class that is sent by its identity: an instance that comes back is then of this class, not a copy."""
    _by_identity[identity_of(cls)] = cls


def reduce_definition(pickler: CodePickler, cls: type) -> Any:
    """Returns how a class is pickled: a call that makes it empty, and a state that fills it (``fill_class``)."""
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
        if struct_classes.is_struct(cls):
            struct, attributes, keywords = struct_classes.parts_of(cls, attributes)
            namespace |= struct
        else:
            given = {name: value for name, value in attributes.items() if not is_code(value)}
            attributes = {name: value for name, value in attributes.items() if name not in given}
            namespace |= given
        make = make_by_metaclass, (identity, meta, cls.__name__, bases, namespace, keywords)
    home = sys.modules.get(cls.__module__)
    values: list[Any] = []
    scope = None
    if home is not None and origin_of(cls.__module__) is not Origin.INSTALLED:
        names = named_in(vars(cls).get("__annotations__"), vars(home))
        if vars(home).get(cls.__name__) is cls and cls.__qualname__ == cls.__name__:
            names = [cls.__name__, *[name for name in names if name != cls.__name__]]
        scope = pickler.scope_of(vars(home)) if names else None
        values = pickler.stamped(vars(home), names) if pickler.goes_along(vars(home)) else []
    attributes, recipes = version_parts.split(cls, attributes) if pickler.is_portable else (attributes, [])
    if home is not None:
        attributes = pickler.shared_in(vars(home), attributes)
    functions = [
        function
        for value in attributes.values()
        for function in functions_in(value)
        if pickler.is_by_value(function) and not is_generic(function)
    ]
    # Special methods first: they may be called while objects of the class arrive, such as keys of a dictionary.
    later = pickler.later(sorted(functions, key=lambda function: not function.__name__.startswith("__")))
    first = {name: value for name, value in attributes.items() if _is_first(name, value)}
    rest = {name: value for name, value in attributes.items() if name not in first}
    registered = abc._get_dump(cls)[0] if isinstance(cls, abc.ABCMeta) else ()  # type: ignore[attr-defined]
    subclasses = [found for found in (each() for each in registered) if found is not None]
    state = First(cls, first), later, rest, subclasses, scope, values
    if pickler.is_portable:
        return *make, (state[0], Remade(cls, recipes), state[1:]), None, None, fill_portable_class
    return *make, state, None, None, fill_class


class First:
    """Stand-in that gives a class its first attributes before anything arrives that may hold objects of it.

    Such an object may need methods while it arrives: a key of a dictionary is hashed. The stand-in unpickles to the
    attributes.

    Args:
        cls: The class.
        attributes: The first attributes (``_is_first``: methods, plain values, special names), by name.
    """

    __slots__ = ("_attributes", "_cls")

    def __init__(self, cls: type, attributes: dict[str, Any]) -> None:
        self._cls = cls
        self._attributes = attributes

    def __reduce__(self) -> tuple[Any, tuple[type, dict[str, Any]]]:
        return set_first, (self._cls, self._attributes)


def set_first(cls: type, attributes: dict[str, Any]) -> dict[str, Any]:
    """Set the first attributes of a class, if it is new here; returns them. Pickles of ``First`` call this."""
    if cls in _unfilled:
        _set(cls, attributes)
    return attributes


def _is_first(name: str, value: Any) -> bool:
    """True if an attribute of a class is set before the others: code, a plain value, or one with a special name.

    Others may hold objects of the class, which need these.
    """
    return is_code(value) or change_stamps.is_atom(value) or (name.startswith("__") and name.endswith("__"))


def _is_plain_metaclass(meta: type) -> bool:
    """True if ``type`` itself can make classes of a metaclass; one written in C is called (``make_by_metaclass``)."""
    for base in meta.__mro__:
        if base is type:
            return True
        if isinstance(vars(base).get("__new__"), types.BuiltinFunctionType):
            return False
    return True


# Called by pickles that are loaded.


def make_class(
    identity: str, meta: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
) -> type:
    """Returns the class of an identity: a new, empty one if there is none here; ``fill_class`` fills it.

    Args:
        identity: Identity of the class.
        meta: Its metaclass, which is not called.
        name: Name of the class.
        bases: Base classes, in order.
        namespace: Attributes that the class is made with, by name (``_MAKE``).
    """
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
    """Returns the class of an identity: a new one, made by a metaclass written in C, if there is none here.

    ``fill_class`` then gives it the rest. Arguments are those of ``make_class``, and ``keywords`` of the definition
    (such as ``frozen``), by name.
    """
    known = _by_identity.get(identity)
    if known is not None:
        return known
    struct_classes.restore_defaults(namespace)
    with _without_hooks(bases):
        cls: type = meta(name, bases, namespace, **keywords)
    return _note(cls, identity)


def _note(cls: type, identity: str) -> type:
    """Note a class that was made here, with its identity, as one that ``fill_class`` is to fill; returns it."""
    _by_identity[identity] = cls
    give_identity(cls, identity)
    _unfilled.add(cls)
    return cls


_unfilled: set[type] = set()
"""Classes that a pickle that is being loaded has made and not filled yet: only these get attributes from it."""

_hooks = threading.RLock()
"""Lock, held while ``_quiet`` stands for ``__init_subclass__`` of base classes.

Another thread that makes a class waits for it. Without the lock it could take ``_quiet`` for the hook, and put that
back for good.
"""

_quiet = classmethod(lambda *_, **__: None)
"""Hook that does nothing, in place of ``__init_subclass__``."""


@contextmanager
def _without_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Have no ``__init_subclass__`` run in the block: it has run in the program, with keywords that are lost."""
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
    """Give a new class its attributes, or change the class that is being changed; any other keeps its own.

    Args:
        cls: The class.
        state: First attributes, by name (``First``); the functions of its methods, filled by now; other attributes,
            by name; classes registered as subclasses; the dictionary of its module's globals (None: none to set);
            name, stamp and value of each global to set there, which only a worker does.

    Returns:
        The class.
    """
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


class Remade:
    """Stand-in for recipes that has a new class get methods before objects of it arrive, as ``First`` does.

    Args:
        cls: The class.
        recipes: What it unpickles to (``version_parts``).
    """

    __slots__ = ("_parts",)

    def __init__(self, cls: type, recipes: list[Recipe]) -> None:
        self._parts = cls, recipes

    def __reduce__(self) -> tuple[Any, tuple[type, list[Recipe]]]:
        return remake_first, self._parts


def remake_first(cls: type, recipes: list[Recipe]) -> list[Recipe]:
    """Make the generated methods of a class, if it is new here; returns the recipes. Pickles call this."""
    if cls in _unfilled:
        version_parts.make(cls, recipes, is_early=True)
    return recipes


def fill_portable_class(cls: type, state: tuple[Any, ...]) -> type:
    """Give a class its attributes as ``fill_class`` does, and those that each version of Python makes for itself.

    ``state``: first attributes, recipes of ``version_parts``, and the other parts of the state of ``fill_class``.
    """
    first, recipes, others = state
    is_new, is_changed = cls in _unfilled, _changing is cls
    fill_class(cls, (first, *others))
    if is_changed:
        version_parts.make(cls, recipes, is_early=True)
    if is_new or is_changed:
        version_parts.make(cls, recipes, is_early=False)
    return cls


def _set(cls: type, attributes: dict[str, Any]) -> None:
    """Set attributes of a class, by name; a ``__setattr__`` of its metaclass is not called."""
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    # Python 3.13 drops the line of a class when attributes of it are set.
    if "__firstlineno__" in attributes:
        type.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])


_changing: type | None = None
"""Class that exists here and that the definition being loaded changes; None if the definition makes a new class."""


def _change(cls: type, attributes: dict[str, Any]) -> None:
    """Give a class exactly the attributes that it has in the program now; undone after the job.

    Other attributes are deleted. While the computation is being loaded, the change stays.
    """
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
    """Returns a class that came by value: the one that is here, in a worker as the program has it now.

    If none is here, it is made from the definition. Pickles call this; what loading the definition raises passes.

    A program has its own class, which no result changes. A program that was started anew finds its class, by module
    and name, for results that an earlier run of it has left.

    Args:
        identity: Identity of the class.
        digest: Digest of the definition (16 bytes).
        module: Name of the module of the class.
        qualname: Name of the class in its module, which may have dots.
        definition: The class, pickled by itself; only opened if no class is here, or a worker's has another digest.
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
        # Globals that it has brought are undone after the job: forget the digest, so that they are set again next
        # time.
        scopes.note_change(partial(_forget_digest, cls, _digests.get(cls)))
    _digests[cls] = digest
    return cls


def _forget_digest(cls: type, digest: bytes | None) -> None:
    """Put back the digest that a class had before it was changed (None: none); called when the job has ended."""
    if digest is None:
        _digests.pop(cls, None)
    else:
        _digests[cls] = digest


def _find_class(module: str, qualname: str) -> type | None:
    """Returns the user's own class of this name that is loaded here; None if there is none."""
    if origin_of(module) is Origin.INSTALLED:
        return None
    found = scopes.attribute_of(sys.modules.get(module), qualname)
    return found if isinstance(found, type) else None


# Members of enumerations.


def reduce_member(member: enum.Enum) -> Any:
    """Returns how a member of an enumeration by value is pickled: by name; flags of several bits by their value."""
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
    """Returns the arguments that make the plain value of a member, such as the number of an ``IntEnum``.

    ``base``: class of the plain value, such as ``int``.
    """
    arguments = getattr(base, "__getnewargs__", None)
    if arguments is not None:
        return tuple(arguments(member))
    if base.__new__ is object.__new__:
        return ()
    return tuple(base.__reduce__(member)[1])


def _member(cls: Any, name: str, base: Any, arguments: tuple[Any, ...]) -> Any:
    """Returns the member of a name; a new object while the class is being filled. Pickles call this.

    Args:
        cls: The enumeration.
        name: Name of the member.
        base: Class of its plain value; ``object`` if it has none.
        arguments: Arguments that make the plain value.
    """
    found = vars(cls).get("_member_map_", {}).get(name)
    if found is not None:
        return found
    # The class is being filled: one object for each name, made when the first pickle of it is met.
    pending = _pending.setdefault(cls, {})
    if name not in pending:
        pending[name] = base.__new__(cls, *arguments)
    return pending[name]


_pending: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()
"""Members by name, by enumeration that is being filled: one object for each name, however often it is pickled."""


def _fill_member(member: Any, state: dict[str, Any]) -> Any:
    """Give a new member its attributes (``state``, by name); one that has them is left alone. Pickles call this."""
    if "_value_" not in vars(member):
        vars(member).update(state)
    return member


def _composite(cls: Any, value: Any) -> Any:
    """Returns the member of an enumeration of flags that has several bits set (``value``); pickles call this.

    While the enumeration is being filled, a new object, which ``_fill_member`` gives its attributes.
    """
    if cls not in _unfilled:
        return cls(value)
    base = _base_of(cls)
    return base.__new__(cls, value) if base is not object else object.__new__(cls)


def _base_of(cls: type) -> type:
    """Returns the type whose ``__new__`` makes members of flags: ``int`` for ``IntFlag``, ``object`` for ``Flag``."""
    return int if issubclass(cls, int) else object
