"""Stamps that tell whether the program has changed a global, a class or a function since it was sent.

Stamps of a value are equal as long as the value is unchanged. A small plain value is its own stamp. The stamp of a
class is its *identity*, that of a function its identity with that of its code and the stamp of its defaults and
cells, that of a module its name, and that of any other value a digest of its pickle. A ``Watch`` answers quickly,
before each job, whether anything that a pickle of code depends on has changed.
"""

from __future__ import annotations

import functools
import io
import itertools
import operator
import os
import sys
import types
import weakref
from typing import Any

import cloudpickle

from dispy.payload.blocks import PROTOCOL
from dispy.payload.digest import blake2b
from dispy.payload.modules.origins import lies_with_packages

STAMPED_MAX = 1024 * 1024
"""Size of a value (bytes, pickled) up to which it has a stamp. A larger one counts as changed whenever it is sent."""

WATCHED_MAX = 64 * 1024
"""Size of a value (bytes, pickled) up to which a ``Watch`` compares its content, which takes 50 us at this size.

That is done before each job whose arguments name functions or classes of the script. A larger value is not compared:
changes of it in place are not noticed.
"""

_SMALL = 64
"""Longest text (characters) or bytes that is its own stamp; a longer one has a digest."""

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
"""Types of values that cannot change and hold no other object."""

_names = itertools.count(1)
"""Counter for identities (``identity_of``) of objects of this process: an identity is ``_program``, which no other
process has, a hyphen and the next number."""

_program = os.urandom(16).hex()
"""Random name of this process (32 hexadecimal digits): the first part of its identities."""

_identities: dict[int, tuple[weakref.ref[Any], str]] = {}
"""Identities by address of the object, each with a weak reference to the object.

The reference tells whether another object has the address by now, and drops the entry when the object is gone.
"""


def identity_of(obj: Any) -> str:
    """Returns the identity of a function, its code, a class or a type parameter; gives it one if it has none.

    An identity is a text that no other object has or had, in any program. It lasts as long as the object.
    """
    known = _identities.get(id(obj))
    if known is not None and known[0]() is obj:
        return known[1]
    name = f"{_program}-{next(_names)}"
    give_identity(obj, name)
    return name


def give_identity(obj: Any, name: str) -> None:
    """Give an object that has arrived the identity (``name``) that it has in the program it comes from.

    When the object is sent back, its own program knows it by the identity. The entry goes when the object is gone.
    """
    address = id(obj)

    def forget(_: object) -> None:
        _identities.pop(address, None)

    _identities[address] = (weakref.ref(obj, forget), name)


class TooLarge(Exception):
    """More bytes were written to a ``Sink`` or ``Limited`` than it takes: the pickle in the making is given up."""


class Sink(io.RawIOBase):
    """File for a pickle that keeps only a digest of what is written to it; a write beyond ``limit`` bytes fails."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._digest = blake2b(digest_size=16)
        self._left = limit

    def write(self, data: Any) -> int:
        """Add bytes to the digest; returns their number.

        Raises:
            TooLarge: All bytes together exceed the limit.
        """
        size = len(data)
        self._left -= size
        if self._left < 0:
            raise TooLarge
        self._digest.update(data)
        return size

    def digest(self) -> bytes:
        """Returns the digest of all bytes that were written (16 bytes)."""
        return self._digest.digest()


class Limited(io.BytesIO):
    """File in memory; a write that would make it larger than ``limit`` bytes fails before anything is copied."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        """Append bytes; returns their number.

        Raises:
            TooLarge: All bytes together exceed the limit.
        """
        if self.tell() + len(data) > self._limit:
            raise TooLarge
        return super().write(data)


class _Stamper(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """Pickles a value for comparison, not to be loaded: functions and classes by identity, modules by name."""

    def reducer_override(self, obj: Any) -> Any:
        """Returns how an object is pickled: a function, class or module as a text (``_name_of``), or NotImplemented.

        NotImplemented leaves the object to cloudpickle. Part of the protocol of ``pickle``.
        """
        if isinstance(obj, (types.FunctionType, type, types.ModuleType)):
            return sys.intern, (
                _name_of(obj),
            )  # neither a function of Python nor a class, which would come here
        return NotImplemented


def _name_of(obj: Any) -> str:
    """Returns the name of a module, or the identity of a function or class."""
    return str(obj.__name__) if isinstance(obj, types.ModuleType) else identity_of(obj)


def is_atom(value: Any) -> bool:
    """True if a value cannot change and holds no other object."""
    return type(value) in _ATOMS


def _state_of(function: types.FunctionType) -> tuple[Any, ...]:
    """Returns defaults, keyword defaults, contents of cells, attributes of a function; None for each it lacks."""
    cells = function.__closure__
    closed = None if cells is None else tuple([_content(cell) for cell in cells])
    return function.__defaults__, function.__kwdefaults__, closed, vars(function) or None


def _content(cell: types.CellType) -> Any:
    """Returns the value of a cell (a variable that functions share); None if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def of(value: Any, limit: int = STAMPED_MAX) -> Any:
    """Returns the stamp of a value, equal at each call as long as the value is unchanged.

    A stamp is a tuple, a text or a digest of 16 bytes, and can be pickled. None if the value is too large or cannot
    be pickled: such a value counts as changed whenever it is sent.

    Args:
        value: Anything.
        limit: Size (bytes, pickled) beyond which the stamp is None.
    """
    kind = type(value)
    if kind in _ATOMS and (kind not in (str, bytes) or len(value) <= _SMALL):
        return kind.__name__, value
    if isinstance(value, types.FunctionType):
        state = _state_of(value)
        if state == (None, None, None, None):
            return identity_of(value), identity_of(value.__code__)
        return identity_of(value), identity_of(value.__code__), of(state)
    if isinstance(value, (type, types.ModuleType)):
        return _name_of(value)
    sink = Sink(limit)
    try:
        _Stamper(sink, protocol=PROTOCOL).dump(value)
    except Exception:  # it is too large, or cannot be pickled, and the pickle of the code says why
        return None
    return sink.digest()


class Watch:
    """Functions, globals and classes that must not change for a pickle of their code to stay right.

    Add them when they are pickled, and ask ``is_same`` before the pickle is used again. The objects are held, so that
    no address is used again.
    """

    __slots__ = (
        "_attributes",
        "_classes",
        "_contents",
        "_functions",
        "_globals",
        "_kept",
        "_noted",
        "_parts",
    )

    def __init__(self) -> None:
        self._functions: list[tuple[types.FunctionType, Any, tuple[Any, ...]]] = []
        """Functions, each with its code and state (``_state_of``) when it was added."""
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        """Globals: the dictionary that each is in, its name, and its value when it was added."""
        self._classes: list[tuple[type, tuple[Any, ...]]] = []
        """Classes, each with the values of all its attributes, in order: a quick comparison."""
        self._attributes: dict[int, dict[str, Any]] = {}
        """Attributes by name (``attributes_of``), by address of the class: compared if the quick comparison fails."""
        self._noted: set[int | tuple[int, str]] = set()
        """Addresses of values, and for globals address of dictionary and name: those that are watched already."""
        self._kept: list[Any] = []
        """Values whose addresses are in ``_noted``, held so that no other value gets their addresses."""
        self._contents: list[tuple[Any, Any]] = []
        """Values that may change in place, each with its stamp; without those that have none (``_add_content``)."""
        self._parts: list[Watch] = []
        """Watches of pickles within this one, such as of a class that is pickled by itself."""

    def add_function(self, function: types.FunctionType) -> None:
        """Watch a function: its code, defaults, cells and attributes.

        Of a function of the user's the contents of defaults and cells are watched, too.
        """
        state = _state_of(function)
        self._functions.append((function, function.__code__, state))
        if _is_of_library(function.__code__.co_filename):
            return  # a method that dataclasses or the like have made: what it holds does not change
        for value in (*(state[0] or ()), *(state[1] or {}).values(), *(state[2] or ())):
            self._add_content(value)

    def add_global(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        """Watch a global: the object that it is, and its content."""
        if (id(namespace), name) not in self._noted:
            self._noted.add((id(namespace), name))
            self._globals.append((namespace, name, value))
            self._add_content(value)

    def add_class(self, cls: type) -> None:
        """Watch a class: its attributes, and their contents."""
        self._classes.append((cls, tuple(vars(cls).values())))
        self._attributes[id(cls)] = attributes_of(cls)
        for name, value in list(vars(cls).items()):
            if not (name.startswith("__") and name.endswith("__")):
                self._add_content(value)

    def add_part(self, part: Watch) -> None:
        """Watch all that another watch does: it is of a pickle that goes into this one."""
        if not any(known is part for known in self._parts):
            self._parts.append(part)

    def _add_content(self, value: Any) -> None:
        """Watch the content of a value, unless it cannot change.

        A value larger than ``WATCHED_MAX``, or one that cannot be pickled, is not watched either.
        """
        if type(value) in _ATOMS or isinstance(value, _LASTING) or id(value) in self._noted:
            return
        self._noted.add(id(value))
        self._kept.append(value)
        stamp = of(value, WATCHED_MAX)
        if stamp is not None:
            self._contents.append((value, stamp))

    def is_empty(self) -> bool:
        """True if nothing is watched: all code in the pickle goes by name."""
        return not (self._functions or self._globals or self._classes or self._contents or self._parts)

    def is_same(self) -> bool:
        """True if nothing that is watched has changed; takes 0.1 us for each function, global and class.

        Each value that may change in place takes longer: its stamp is made anew.
        """
        for namespace, name, value in self._globals:
            if namespace.get(name, _MISSING) is not value:
                return False
        for place, (cls, values) in enumerate(self._classes):
            now = tuple(vars(cls).values())
            if len(now) != len(values) or not all(map(operator.is_, now, values)):
                before, after = self._attributes[id(cls)], attributes_of(cls)
                if before.keys() != after.keys() or not all(
                    map(operator.is_, after.values(), before.values())
                ):
                    return False
                self._classes[place] = cls, now  # a library has put something there, such as slot names
        for function, code, state in self._functions:
            if function.__code__ is not code or not _is_same_state(_state_of(function), state):
                return False
        if not all(of(value, WATCHED_MAX) == stamp for value, stamp in self._contents):
            return False
        return all(part.is_same() for part in self._parts)


@functools.cache
def _is_of_library(filename: str) -> bool:
    """True if code of this file name was generated, as by ``dataclasses``, or is that of an installed package.

    What such a function holds is not watched: it does not change.
    """
    return filename == "<string>" or (os.path.isabs(filename) and lies_with_packages(filename))


def _is_same_state(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """True if a function's state (``_state_of``) has not changed.

    Defaults and cells must hold the very objects of before; keyword defaults and attributes must be equal.
    """
    if now[0] is not before[0] or (now[2] is None) != (before[2] is None):
        return False
    if now[2] is not None and not all(map(operator.is_, now[2], before[2])):
        return False
    for ours, theirs in ((now[1], before[1]), (now[3], before[3])):
        if ours is not theirs and ours != theirs:
            return False
    return True


_MISSING = object()
"""Stands for the value of a global that was deleted: ``Watch.is_same`` then takes the global for changed."""

_LASTING = (
    types.FunctionType, type, types.ModuleType, types.BuiltinFunctionType, types.MemberDescriptorType,
    types.GetSetDescriptorType, classmethod, staticmethod, property, types.WrapperDescriptorType,
)  # fmt: skip
"""Types whose values ``Watch`` makes no stamps of: they do not change in place, or are watched by themselves."""

LEFT_OUT = frozenset({
    "__dict__", "__weakref__", "_abc_impl", "__slotnames__", "__annotate_func__", "__annotations_cache__",
})  # fmt: skip
"""Attributes of classes that each process makes for itself: they are neither sent nor compared."""


def attributes_of(cls: type) -> dict[str, Any]:
    """Returns the attributes of a class that are sent and set where it arrives, by name, in the order of definition.

    Left out are attributes that each empty class has (``LEFT_OUT``, slots, the names of module and class), and those
    with a special name (``__x``) that cannot be pickled, such as a library's decoder for the class.
    """
    found = {}
    for name, value in list(vars(cls).items()):
        if name in LEFT_OUT or name in ("__module__", "__qualname__"):
            continue
        if (
            isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))
            and value.__objclass__ is cls
        ):
            continue  # slots come with the class
        if name.startswith("__") and not isinstance(value, _LASTING) and not can_be_pickled(value):
            continue  # an object of a library for itself, such as a decoder for the class
        found[name] = value
    return found


def can_be_pickled(value: Any) -> bool:
    """True if a value can be pickled; functions, classes and modules in it count as picklable, and are not tried."""
    if type(value) in _ATOMS:
        return True
    try:
        _Stamper(Sink(sys.maxsize), protocol=PROTOCOL).dump(value)
        return True
    except Exception:
        return False
