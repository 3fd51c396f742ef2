"""Pickles within the pickle: definitions of classes, and functions that jobs return, kept until they change."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from dispy.payload.by_value import change_stamps, classes, scopes
from dispy.payload.by_value.bytecode import Imported
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.by_value.code_pickler import CodePickler

PickleInline = Callable[[Any], tuple[bytes, CodePickler]]
"""Pickles a value with the definitions of its classes in the same pickle; returns that, and the pickler."""


class Definition(NamedTuple):
    """A class, pickled by itself."""

    data: bytes
    digest: bytes
    modules: set[str]
    imports: set[Imported]
    sources: dict[str, str]


_definitions: dict[str, tuple[Watch, Definition]] = {}
"""By identity, the oldest first."""

_DEFINITIONS_MAX = 1000


def definition_of(cls: type, pickle_inline: PickleInline) -> Definition:
    """The class as it is now; made anew when something of it, or of what it uses, has changed."""
    identity = change_stamps.identity_of(cls)
    known = _definitions.get(identity)
    # What a worker sends is for a program that has the class; others take what they get.
    if known is not None and (scopes.is_worker or known[0].is_same()):
        return known[1]
    data, pickler = pickle_inline(cls)
    sink = change_stamps.Sink(sys.maxsize)
    sink.write(data)
    found = Definition(data, sink.digest(), pickler.modules, pickler.imports, pickler.sources)
    classes.keep(cls)
    while len(_definitions) >= _DEFINITIONS_MAX:
        del _definitions[next(iter(_definitions))]
    _definitions[identity] = (pickler.watch, found)
    return found


_functions: dict[str, bytes] = {}


def function_data(function: types.FunctionType, pickle_inline: PickleInline) -> bytes:
    """A function of the script that a job returns, by value, for a program that does not have it."""
    identity = change_stamps.identity_of(function)
    data = _functions.get(identity)
    if data is None:
        data = _functions[identity] = pickle_inline(function)[0]
    return data
