"""Functions that jobs of an executor call: pickled once by the program, kept by workers until their globals change.

Theory of operation. The computation of an executor is ``CALL``: the first argument of each job is the function.
Pickling a function of the script takes some 100 us, so the program does that once and puts the same bytes into each
call, as long as a ``Watch`` finds the function unchanged. A worker knows functions by these bytes: one that it has
loaded is not unpickled again.

Functions that arrive this way are part of the computation: globals that they bring stay, as those of ``JobCluster``'s
function do, and what jobs make of them is left alone. If a function brings another value of a global than the one
here, the program has changed the global, and all functions that were loaded before are loaded again when they are
next called (``scopes.count_changes``): a job that was submitted before the change finds the value of before.
"""

from __future__ import annotations

import io
import operator
import pickle
import types
import zlib
from collections.abc import Callable
from typing import Any

from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import scopes
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.code import add_modules, pack_modules, sent_modules
from dispy.payload.forms import chosen, loads, portable_twin
from dispy.payload.known_parts import Known
from dispy.payload.object_references import Reference, take_used
from dispy.payload.versions import HERE

CALL: Callable[..., Any] = operator.call
"""Computation of an executor: calls its first argument with the others. In C: no frame of ours is in tracebacks."""


def initialize(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """Call the ``initializer`` of an executor, as a ``setup`` whose result does not matter."""
    initializer(*initargs)


LOADED_MAX = 256
"""Functions that a worker keeps; all are forgotten when there are more, as a program that submits lambdas never uses
most of them again."""


class SentFunction:
    """A function on its way: stand-in for it among the arguments of a job, where a worker finds the function itself.

    Args:
        data: The function, from ``dump_function``.
        reference: Reference to a ``SentFunction`` that was put; its number then goes into calls instead of ``data``.
            None: ``data`` goes into each call.
    """

    __slots__ = ("data", "marks", "reference")

    def __init__(self, data: bytes, reference: Reference | None = None) -> None:
        self.data = data
        self.reference = reference
        self.marks = data.count(b"\x93")
        """Bytes of ``data`` that are as the opcode by which pickles name code: those that a call has more than it
        should are looked at (``calls.dump_call``)."""

    def __reduce__(self) -> tuple[type[SentFunction], tuple[bytes]]:
        return SentFunction, (self.data,)


def dump_function(function: Callable[..., Any], known: Known) -> tuple[bytes, Watch] | None:
    """Pickle a function, by name if nodes can import it, with the modules that it needs.

    Args:
        function: A function; its closure, defaults and globals are taken as they are now.
        known: Parts of the program that nodes have.

    Returns:
        The pickle, compressed, and a watch that tells whether it is still right. None if the function holds a
        reference to an object that was put: the caller then sends it as an argument, which keeps the object on nodes.

    Raises:
        Exception: The function cannot be pickled.
    """
    take_used()
    form, pickler = _dump_form(function, known)
    if take_used():
        return None
    forms: tuple[Any, ...] = form
    if (pickler.has_code or form[0]) and known.takes_both():
        twin = portable_twin(lambda: _dump_form(function, known)[0])
        forms = (HERE, form, tuple(twin))
        take_used()
    # Compressed also because names of modules in it would send each call to the slower pickler (``names_local``).
    return zlib.compress(pickle.dumps(forms, PROTOCOL), 1), pickler.watch


def _dump_form(function: Callable[..., Any], known: Known) -> tuple[tuple[bytes, bytes], Pickler]:
    """Returns a function in one form, pickled: the modules that it needs (packed) and itself; and the pickler."""
    stream = io.BytesIO()
    pickler = Pickler(stream, known=known)
    pickler.dump(function)
    packed = b""
    if not pickler.modules <= known.modules:
        sent, _ = sent_modules(pickler)
        packed = pack_modules(
            [module for module in sent if module.name not in known.modules], pickler.sources
        )
    return (packed, stream.getvalue()), pickler


_loaded: dict[bytes, Callable[..., Any]] = {}
"""Functions that this worker has loaded, by their bytes."""

_changes = 0
"""Value of ``scopes.count_changes`` that the functions in ``_loaded`` are right for."""


def load_function(data: bytes) -> Callable[..., Any]:
    """Returns the function of a pickle of ``dump_function``: the one that was loaded before, if nothing has changed.

    Raises:
        Exception: The function cannot be unpickled.
    """
    global _changes
    if _changes != scopes.count_changes():
        _loaded.clear()
    function = _loaded.get(data)
    if function is None:
        forms = pickle.loads(zlib.decompress(data))
        packed, pickled = forms if len(forms) == 2 else chosen(*forms)
        if packed:
            add_modules(packed)
        before = scopes.count_changes()
        with scopes.lasting():
            function = loads(pickled)
        if len(_loaded) >= LOADED_MAX or scopes.count_changes() != before:
            _loaded.clear()
        _loaded[data] = function
    _changes = scopes.count_changes()
    return function


def function_of(sent: bytes | SentFunction) -> Callable[..., Any]:
    """Returns the function of a call: ``sent`` is its bytes, or the ``SentFunction`` that was put."""
    return load_function(sent if type(sent) is bytes else sent.data)  # type: ignore[union-attr]


def is_watchable(function: Any) -> bool:
    """True if a ``Watch`` tells all changes of a callable: it is a function, not an object with a state."""
    return type(function) in (types.FunctionType, types.BuiltinFunctionType) and (
        getattr(function, "__self__", None) is None or isinstance(function.__self__, types.ModuleType)
    )
