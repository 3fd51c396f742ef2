"""Any value: results, objects that are put, exceptions."""

from __future__ import annotations

import io
import pickle
from typing import Any

from dispy.errors import PicklingError, RemoteTraceback
from dispy.payload import known_parts as known_module
from dispy.payload.blocks import (
    MAGIC,
    OUT_OF_BAND,
    PROTOCOL,
    Buffer,
    Collector,
    Parts,
    Ready,
    large_bytes,
    open_block,
    out_of_band,
    whole,
)
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.by_value.special_objects import Rebuilt
from dispy.payload.code import add_modules, pack_modules, sent_modules
from dispy.payload.known_parts import Known
from dispy.payload.modules.origins import local_modules
from dispy.payload.object_references import take_used
from dispy.payload.unsendable import find_culprit

STACK_GLOBAL = b"\x93"
"""The opcode by which protocol 4 and later name any class or function. Its absence proves that a
pickle consists of built-in values; in its presence (or that of a byte that looks so) we look closer."""

_STRINGS = (b"\x8c", b"X", b"\x8d")
"""The opcodes for strings."""


_LONE = b"\x8c\x06object"
"""Names ``object``, of which an instance may be a sentinel that is to stay one."""


def dump(value: Any, known: Known | None = None) -> bytes | Parts:
    """Pickle any value; code of the user's own that cannot be imported goes by value.

    Args:
        value: Anything.
        known: What is there already, where a worker is to load it. Modules that are not go with it.
    """
    value = out_of_band(value)
    buffers = Collector()
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.take)
        # The common case without another call: it is on the path of every job.
        if STACK_GLOBAL not in data or not names_local(data, known or known_module.here):
            return Parts(data, buffers) if buffers else data
    except Exception:
        pass  # a lambda, a local class, a class that was itself received by value, …
    return dump_with_code(value, known or known_module.here)


def dump_with_code(value: Any, known: Known | None) -> bytes | Parts:
    """Pickle a value of which is known that it refers to code of the user's own."""
    buffers = Collector()
    data = _dump_by_value(value, buffers, known)
    return Parts(data, buffers) if buffers else data


def _dump_by_value(value: Any, buffers: Collector, known: Known | None) -> bytes:
    stream = io.BytesIO()
    pickler = Pickler(stream, buffers=buffers, known=known)
    pickler.dump(value)
    data = stream.getvalue()
    if known is not None and known is not known_module.here and not pickler.modules <= known.modules:
        sent, _ = sent_modules(pickler)
        missing = [module for module in sent if module.name not in known.modules]
        carried = _Carried(pack_modules(missing, pickler.sources), data, list(buffers))
        buffers.clear()
        data = pickle.dumps(carried, PROTOCOL, buffer_callback=buffers.take)
    return data


class _Carried:
    """A pickle that needs modules, which go with it."""

    def __init__(self, modules: bytes, data: bytes, buffers: list[memoryview]) -> None:
        self._parts = modules, data, [pickle.PickleBuffer(buffer) for buffer in buffers]

    def __reduce__(self) -> tuple[Any, tuple[bytes, bytes, list[pickle.PickleBuffer]]]:
        return _load_carried, self._parts


def _load_carried(modules: bytes, data: bytes, buffers: list[Any]) -> Any:
    add_modules(modules)
    return pickle.loads(data, buffers=buffers)


def names_local(data: bytes, known: Known | None) -> bool:
    """Whether a pickle may name code of the user's own that is not imported where it is loaded."""
    if STACK_GLOBAL not in data:
        return False
    if _LONE in data:
        return True
    names = local_modules()
    if known is not None:
        return any(name in data for name in names if name not in known.tops)
    return any(name in data for name in names)


def load(payload: Buffer | Ready) -> Any:
    """Unpickle what ``dump`` made. Arrays in it lie where the payload lies, and are writable if that is."""
    if isinstance(payload, Ready):
        return payload.value
    if payload[:1] != MAGIC[:1]:
        return pickle.loads(payload)
    data, buffers = open_block(memoryview(payload))
    return pickle.loads(data, buffers=buffers)


def is_plain(payload: Buffer | Ready) -> bool:
    """Whether unpickling it runs nobody's code and takes no time: it holds built-in values only."""
    if len(payload) >= OUT_OF_BAND:
        # Bytes are only copied, by whoever asks for them.
        return isinstance(payload, Ready) or large_bytes(payload) is not None
    assert not isinstance(payload, Ready)
    # The byte may be part of a number; a name that the opcode takes is a string, which has an opcode, too.
    return STACK_GLOBAL not in payload or not any(opcode in payload for opcode in _STRINGS)


def dump_object(value: Any, known: Known | None = None) -> Buffer:
    """Pickle what many jobs will read, as it is now.

    Args:
        value: Anything.
        known: What is there already.

    Raises:
        PicklingError: Names what in it cannot be sent.
    """
    take_used()
    try:
        return whole(dump(value, known))
    except Exception as error:
        culprit = find_culprit(value, "the object") or str(error)
        raise PicklingError(f"an object cannot be put: {culprit}", hint="put plain data") from error


def dump_exception(error: BaseException, text: str) -> bytes:
    """Pickle an exception for the client; empty if it cannot be pickled or not be rebuilt."""
    try:
        bare = error.with_traceback(None)
        bare.__cause__ = bare.__context__ = None
    except Exception:
        return b""
    for value in (bare, Rebuilt(bare)):
        try:
            data = bytes(whole(dump(value)))
            load(data)
            return data
        except Exception:
            continue
    return b""


def load_exception(payload: bytes, text: str) -> BaseException | None:
    """The exception that a job raised, with the remote traceback as its cause; None if it cannot be had."""
    try:
        error = load(payload)
    except Exception:
        return None
    if not isinstance(error, BaseException):
        return None
    error.__cause__ = RemoteTraceback(text)
    return error
