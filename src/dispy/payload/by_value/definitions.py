"""Pickles within pickles: definitions of classes, and functions that jobs return.

They are kept, so that a class or function that is sent again need not be pickled again.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from dispy.payload import versions
from dispy.payload.by_value import change_stamps, classes, scopes
from dispy.payload.by_value.bytecode import Imported
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.by_value.code_pickler import CodePickler

PickleInline = Callable[[Any], tuple[bytes, CodePickler]]
"""Pickles a value with the definitions of its classes in the same pickle.

Returns the pickle, and the pickler that made it, which knows the modules that the other side needs.
"""


class Definition(NamedTuple):
    """A class, pickled by itself.

    Attributes:
        data: The pickle.
        digest: Digest of the pickle (16 bytes): a worker that has a class of this digest does not open the pickle.
        modules: Names of the user's own modules that the process that loads the pickle has to import.
        imports: Import statements of functions of the class: the modules that they name are to be sent, too.
        sources: Texts of the files of code in the pickle, by file name, for tracebacks.
        watch: Tells whether the class, and what it uses, is still as it was when it was pickled.
    """

    data: bytes
    digest: bytes
    modules: set[str]
    imports: set[Imported]
    sources: dict[str, str]
    watch: Watch


_definitions: dict[tuple[str, bool], Definition] = {}
"""Definitions by identity of the class, and whether they are in portable form; the oldest first.

When the ``watch`` of one finds a change, a program pickles the class anew.
"""

_DEFINITIONS_MAX = 1000
"""Number of definitions that are kept. The oldest goes first; if it is needed again, its class is pickled anew."""


def definition_of(cls: type, pickle_inline: PickleInline) -> Definition:
    """Returns the definition of a class: in a program a new one if the class, or what it uses, has changed.

    A worker returns the first definition that it has made, whatever has changed: the program has the class itself.
    """
    identity = change_stamps.identity_of(cls), versions.is_wanted()
    known = _definitions.get(identity)
    # A worker uses its first definition again: results go to a program that has the class itself.
    if known is not None and (scopes.is_worker or known.watch.is_same()):
        return known
    data, pickler = pickle_inline(cls)
    sink = change_stamps.Sink(sys.maxsize)
    sink.write(data)
    found = Definition(
        data, sink.digest(), pickler.modules, pickler.imports, pickler.sources, pickler.watch
    )
    classes.keep(cls)
    while len(_definitions) >= _DEFINITIONS_MAX:
        del _definitions[next(iter(_definitions))]
    _definitions[identity] = found
    return found


_functions: dict[str, bytes] = {}
"""Pickles of functions of the script that jobs have returned, by identity of the function; kept for good."""


def function_data(function: types.FunctionType, pickle_inline: PickleInline) -> bytes:
    """Returns the pickle, by value, of a function of the script that a job returns: a program that lacks it opens it.

    It is made once for each function; later changes of the function are not in it.
    """
    identity = change_stamps.identity_of(function)
    data = _functions.get(identity)
    if data is None:
        data = _functions[identity] = pickle_inline(function)[0]
    return data
