"""Stamps by which it is seen that the program has changed a global, a class or a function since it was sent."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sys
import types
import weakref
from typing import Any

import cloudpickle

from dispy.payload.blocks import PROTOCOL

STAMPED_MAX = 1024 * 1024
"""Bytes of a value up to which its content is compared. What is larger counts as changed each time."""

_SMALL = 64

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})

_names = itertools.count(1)
_program = os.urandom(16).hex()

_identities: dict[int, tuple[weakref.ref[Any], str]] = {}


def identity_of(obj: Any) -> str:
    """A name for a function, class or module that no other one has or had, in any program."""
    known = _identities.get(id(obj))
    if known is not None and known[0]() is obj:
        return known[1]
    name = f"{_program}-{next(_names)}"
    give_identity(obj, name)
    return name


def give_identity(obj: Any, name: str) -> None:
    """Have an object that arrived known under the name that it has where it comes from."""
    address = id(obj)

    def forget(_: object) -> None:
        _identities.pop(address, None)

    _identities[address] = (weakref.ref(obj, forget), name)


class TooLarge(Exception):
    """More was written than is compared."""


class Sink(io.RawIOBase):
    """A file that keeps a digest of what is written to it, and refuses more than so many bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._digest = hashlib.blake2b(digest_size=16)
        self._left = limit

    def write(self, data: Any) -> int:
        """Take bytes.

        Raises:
            TooLarge: They are too many.
        """
        size = len(data)
        self._left -= size
        if self._left < 0:
            raise TooLarge
        self._digest.update(data)
        return size

    def digest(self) -> bytes:
        """Of all that was written."""
        return self._digest.digest()


class _Stamper(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """Pickles content for comparison; functions, classes and modules by identity."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (types.FunctionType, type, types.ModuleType)):
            return sys.intern, (
                _name_of(obj),
            )  # neither a function of Python nor a class, which would come here
        return NotImplemented


def _name_of(obj: Any) -> str:
    return str(obj.__name__) if isinstance(obj, types.ModuleType) else identity_of(obj)


def is_atom(value: Any) -> bool:
    """Whether a value cannot change in itself and holds nothing else."""
    return type(value) in _ATOMS


def of(value: Any) -> Any:
    """The stamp of a value: equal where nothing has changed; None where that is not known."""
    kind = type(value)
    if kind in _ATOMS and (kind not in (str, bytes) or len(value) <= _SMALL):
        return kind.__name__, value
    if isinstance(value, (types.FunctionType, type, types.ModuleType)):
        return _name_of(value)
    sink = Sink(STAMPED_MAX)
    try:
        _Stamper(sink, protocol=PROTOCOL).dump(value)
    except Exception:  # it is too large, or the pickle that it is for says why it cannot be sent
        return None
    return sink.digest()


def can_be_pickled(value: Any) -> bool:
    """Whether a value can be pickled, whatever becomes of the code that it refers to."""
    if type(value) in _ATOMS:
        return True
    try:
        _Stamper(Sink(sys.maxsize), protocol=PROTOCOL).dump(value)
        return True
    except Exception:
        return False
