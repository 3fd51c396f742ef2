"""Any value: results, objects that are put, exceptions."""

from __future__ import annotations

import pickle
from typing import Any

from dispy.errors import PicklingError, RemoteTraceback
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
from dispy.payload.by_value import dump_by_value
from dispy.payload.culprits import find_culprit
from dispy.payload.installed import local_modules
from dispy.payload.references import take_used

STACK_GLOBAL = b"\x93"
"""The opcode by which protocol 4 and later name any class or function. Its absence proves that a
pickle consists of built-in values; in its presence (or that of a byte that looks so) we look closer."""

_STRINGS = (b"\x8c", b"X", b"\x8d")
"""The opcodes for strings."""


def dump(value: Any) -> bytes | Parts:
    """Pickle any value; code of the user's own goes by value."""
    value = out_of_band(value)
    buffers = Collector()
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.take)
        is_whole = not names_local(data)
    except Exception:
        # A lambda, a local class, a class that was itself received by value, …
        is_whole = False
    if not is_whole:
        buffers.clear()
        data = dump_by_value(value, buffers)
    return Parts(data, buffers) if buffers else data


def names_local(data: bytes) -> bool:
    """Whether a pickle may name code of the user's own."""
    return STACK_GLOBAL in data and any(name in data for name in local_modules())


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


def dump_object(value: Any) -> Buffer:
    """Pickle what many jobs will read, as it is now.

    Raises:
        PicklingError: Names what in it cannot be sent.
    """
    take_used()
    try:
        return whole(dump(value))
    except Exception as error:
        culprit = find_culprit(value, "the object") or str(error)
        raise PicklingError(f"an object cannot be put: {culprit}", hint="put plain data") from error


def dump_exception(error: BaseException, text: str) -> bytes:
    """Pickle an exception for the client; empty if it cannot be pickled or not be rebuilt."""
    try:
        bare = error.with_traceback(None)
        bare.__cause__ = bare.__context__ = None
        data = bytes(whole(dump(bare)))
        load(data)
    except Exception:
        return b""
    return data


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
