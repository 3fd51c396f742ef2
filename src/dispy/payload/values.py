"""Any value to bytes and back: results, objects that are put, exceptions.

A worker pickles the result of a job with ``dump``. The client unpickles it with ``load``: a plain result
(``is_plain``) in the thread that asks the job for it (``client.job``), any other, which may run code of the user's,
on the loader's thread when it arrives (``client.session.completion``), and the results of a chunk of a ``map`` in the
thread that takes them (``client.map``). Arguments have a path of their own (``calls``).

``dump`` first tries the C pickler alone. A pickle that may name code of the user's own which the other side does not
have, or that cannot be made that way, is made by the pickler of code (``by_value.pickler``) instead.
"""

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
from dispy.payload.forms import dump_both, loads, portable_twin
from dispy.payload.known_parts import Known
from dispy.payload.modules.origins import local_modules
from dispy.payload.object_references import take_used
from dispy.payload.plain.decoder import load_plain
from dispy.payload.plain.exceptions import load_plain_exception
from dispy.payload.unsendable import find_culprit
from dispy.payload.versions import explained

STACK_GLOBAL = b"\x93"
"""Opcode by which protocol 4 and later name any class or function. A pickle without this byte consists of built-in
values; a pickle with it is looked at more closely, as the byte may stand for something else."""

_STRINGS = (b"\x8c", b"X", b"\x8d")
"""Opcodes before a string in a pickle: the string's length follows in 1, 4 or 8 bytes.

A pickle that has none of these bytes holds no string, and so names no class (``is_plain``).
"""


_LONE = b"\x8c\x06object"
"""Name of the class ``object`` in a pickle: an instance of it may be a sentinel, which must stay one object.

A value whose pickle has this name is pickled again by the pickler of code, which knows sentinels.
"""


def dump(value: Any, known: Known | None = None, *, is_kept: bool = False) -> bytes | Parts:
    """Pickle any value, such as the result of a job; code of the user's that cannot be imported goes by value.

    Args:
        value: Anything.
        known: Parts of the program that the other side has, if that is a worker; other modules go along. None in a
            worker, whose results go to the program.
        is_kept: True if nodes that come later are sent the pickle, too: code in it is in both forms in any case.

    Returns:
        The pickle; or ``Parts`` if there are large buffers beside it, which are still those of ``value``.

    Raises:
        Exception: The value cannot be pickled; see ``find_culprit``.
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
    return dump_with_code(value, known or known_module.here, is_kept=is_kept)


def dump_int(value: int) -> bytes:
    """Pickle an integer: what ``dump`` does, at a fifth of its price. Ids of jobs are pickled so in workers."""
    return pickle.dumps(value, PROTOCOL)


def dump_with_code(value: Any, known: Known | None, *, is_kept: bool = False) -> bytes | Parts:
    """Pickle a value by the pickler of code, as it may refer to code of the user's own.

    Arguments and result are those of ``dump``.

    Raises:
        Exception: The value cannot be pickled.
    """
    buffers = Collector()
    data = _dump_by_value(value, buffers, known, is_kept=is_kept)
    return Parts(data, buffers) if buffers else data


def _dump_by_value(value: Any, buffers: Collector, known: Known | None, *, is_kept: bool) -> bytes:
    """Returns the pickle of a value with its code; adds its large buffers to ``buffers``.

    If the other side is a worker that lacks modules, the pickle brings them (``_Carried``).
    """
    data, has_code = _dump_once(value, buffers, known)
    if (
        has_code
        and known is not None
        and known is not known_module.here
        and (is_kept or known.takes_both())
    ):
        twin = portable_twin(lambda: _dump_twin(value, known))
        data = dump_both((data, buffers), twin, buffers)
    return data


def _dump_twin(value: Any, known: Known) -> tuple[bytes, Collector]:
    """Returns the pickle of a value, and its large buffers: in the form that this thread is making."""
    buffers = Collector()
    return _dump_once(value, buffers, known)[0], buffers


def _dump_once(value: Any, buffers: Collector, known: Known | None) -> tuple[bytes, bool]:
    """Returns the pickle of a value in one form, and True if code by value may be in it.

    Arguments are those of ``_dump_by_value``.
    """
    stream = io.BytesIO()
    pickler = Pickler(stream, buffers=buffers, known=known)
    pickler.dump(value)
    data = stream.getvalue()
    has_code = pickler.has_code
    if known is not None and known is not known_module.here and not pickler.modules <= known.modules:
        has_code = True  # the modules may hold some
        sent, _ = sent_modules(pickler)
        missing = [module for module in sent if module.name not in known.modules]
        carried = _Carried(pack_modules(missing, pickler.sources), data, list(buffers))
        buffers.clear()
        data = pickle.dumps(carried, PROTOCOL, buffer_callback=buffers.take)
    return data, has_code


class _Carried:
    """Stand-in for the value of a pickle: brings the modules that it needs, which are added before it is loaded.

    Args:
        modules: The modules, from ``pack_modules``.
        data: Pickle of the value.
        buffers: Large buffers to which ``data`` refers, in the order in which it does.
    """

    def __init__(self, modules: bytes, data: bytes, buffers: list[memoryview]) -> None:
        self._parts = modules, data, [pickle.PickleBuffer(buffer) for buffer in buffers]

    def __reduce__(self) -> tuple[Any, tuple[bytes, bytes, list[pickle.PickleBuffer]]]:
        return _load_carried, self._parts


def _load_carried(modules: bytes, data: bytes, buffers: list[Any]) -> Any:
    """Add the modules of a ``_Carried`` and return the value of its pickle; called by the pickle around it."""
    add_modules(modules)
    return loads(data, buffers)


def names_local(data: bytes, known: Known | None) -> bool:
    """True if a pickle may name code of the user's own that the other side does not have (``known``; None: nothing).

    Names of modules are looked for as bytes. A text that contains one counts as well, and costs time but no error.
    """
    if STACK_GLOBAL not in data:
        return False
    if _LONE in data:
        return True
    names = local_modules()
    if known is not None:
        return any(name in data for name in names if name not in known.tops)
    return any(name in data for name in names)


def load(payload: Buffer | Ready) -> Any:
    """Unpickle a payload that ``dump`` made.

    Arrays lie in the memory of the payload, without a copy, and are writable if that is. The memory lives as long as
    one of them.

    Raises:
        Exception: The payload cannot be unpickled; code of the user's may raise anything.
    """
    if isinstance(payload, Ready):
        return payload.read()
    try:
        if payload[:1] != MAGIC[:1]:
            return pickle.loads(payload)
        data, buffers = open_block(memoryview(payload))
        return pickle.loads(data, buffers=buffers)
    except Exception as error:
        told = explained(error)
        if told is error:
            raise
        raise told from error


class PlainOnly(Ready):
    """A payload of a node that is not trusted with code: ``load`` reads plain data from it, and nothing else.

    Args:
        payload: The payload as it came.
    """

    __slots__ = ()

    def __init__(self, payload: Buffer | Ready) -> None:
        self.value: Any = payload

    def read(self) -> Any:
        """Returns the value; raises NotPlainError if it is not plain."""
        return self.value.value if isinstance(self.value, Ready) else load_plain(self.value)


def is_plain(payload: Buffer | Ready) -> bool:
    """True if a payload that ``dump`` made certainly holds built-in values only: ``load`` runs no code of the user's.

    Whoever wants to can make others of which this is True; what they may not do is read by ``PlainOnly``.

    From ``OUT_OF_BAND`` bytes on it is True for large bytes alone: to load other large values may take long.
    """
    if len(payload) >= OUT_OF_BAND:
        # Large bytes are only copied, when the program asks for them.
        return isinstance(payload, Ready) or large_bytes(payload) is not None
    assert not isinstance(payload, Ready)
    # The byte may be part of a number; a name that the opcode takes is a string, which has an opcode, too.
    return STACK_GLOBAL not in payload or not any(opcode in payload for opcode in _STRINGS)


def dump_object(value: Any, known: Known | None = None) -> Buffer:
    """Returns the payload of an object that is put, as it is now: many jobs read it.

    Args:
        value: Anything.
        known: Parts of the program that nodes have; other modules go along.

    Raises:
        PicklingError: The object cannot be sent; the text names the part of it that cannot.
    """
    take_used()
    try:
        return whole(dump(value, known, is_kept=True))
    except Exception as error:
        culprit = find_culprit(value, "the object") or str(error)
        raise PicklingError(f"an object cannot be put: {culprit}", hint="put plain data") from error


def dump_exception(error: BaseException) -> bytes:
    """Returns an exception, pickled for the client; empty if it cannot be pickled, or not rebuilt from the pickle.

    ``error`` itself loses its traceback, cause and context.
    """
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


def load_exception(payload: bytes | PlainOnly, text: str) -> BaseException | None:
    """Unpickle the exception that a job raised.

    Args:
        payload: The pickle, from ``dump_exception``. Of a ``PlainOnly`` exceptions of Python and of dispy are read.
        text: Text of the traceback in the job.

    Returns:
        The exception, with a ``RemoteTraceback`` of the text as its cause; None if it cannot be unpickled.
    """
    try:
        error = load_plain_exception(payload.value) if isinstance(payload, PlainOnly) else load(payload)
    except Exception:
        return None
    if not isinstance(error, BaseException):
        return None
    error.__cause__ = RemoteTraceback(text)
    return error


def repack(data: Any) -> memoryview | None:
    """Pickle a result again that was unpickled already (``data`` is a ``Ready``), and return the bytes.

    None if ``data`` is still pickled: its bytes can be copied as they are.
    """
    if type(data) is Ready:
        return memoryview(whole(dump(data.value)))
    return None
