"""A pickle in two forms: for nodes of the program's own minor version of Python, and for those of others.

Arguments are pickled before it is known which node runs the job. While the nodes of a cluster are not known to run
the program's version, a pickle with functions or classes by value is made twice: with compiled code, and with
references into sources (``by_value.portable``). The receiver opens the one that it can run. Pickles without such code
are the same for all versions.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from dispy.errors import PicklingError
from dispy.payload import versions
from dispy.payload.blocks import PROTOCOL, Collector
from dispy.payload.versions import HERE, Version


class Twin(NamedTuple):
    """The form of a pickle for other minor versions.

    Attributes:
        made: What was pickled; None if it could not be.
        refusal: Why it could not be; empty if it was.
    """

    made: Any
    refusal: str


def portable_twin(make: Callable[[], Any]) -> Twin:
    """Returns what ``make`` returns in portable form; what it raises becomes the ``refusal``."""
    try:
        with versions.wanted():
            return Twin(make(), "")
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause.__cause__, PicklingError):
            cause = cause.__cause__  # the first one names function, file and line
        return Twin(None, str(cause) or type(cause).__name__)


def chosen(version: Version, compiled: Any, twin: tuple[Any, str]) -> Any:
    """Returns which of two forms this process can open.

    Args:
        version: Version of Python that has made them.
        compiled: The form for this version.
        twin: Parts of the ``Twin`` for others.

    Raises:
        PicklingError: This is another version, and there is no form for it. The text is that of ``refusal``.
    """
    if version == HERE:
        return compiled
    versions.meet(version)
    made, refusal = twin
    if refusal:
        raise PicklingError(f"{refusal} (this is Python {versions.text_of(HERE)})")
    return made


def loads(data: bytes, buffers: Any = ()) -> Any:
    """Unpickle; errors that versions of Python may be the reason of name both (``versions.explained``)."""
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as error:
        told = versions.explained(error)
        if told is error:
            raise
        raise told from error


Packed = tuple[bytes, Collector]
"""A pickle, and the large buffers that it refers to, in order."""


def dump_both(compiled: Packed, twin: Twin, buffers: Collector) -> bytes:
    """Returns a pickle of two forms, for ``pickle.loads``; puts the buffers that it refers to into ``buffers``.

    ``twin``: its ``made`` is ``Packed``.
    """
    data, own = compiled
    other, theirs = twin.made or (b"", own)
    shared = len(own) == len(theirs) and all(
        one.obj is another.obj and one.nbytes == another.nbytes
        for one, another in zip(own, theirs, strict=True)
    )
    stand_in = _Both(data, _sent(own), other, None if shared else _sent(theirs), twin.refusal)
    buffers.clear()
    return pickle.dumps(stand_in, PROTOCOL, buffer_callback=buffers.take)


def _sent(buffers: Collector) -> list[pickle.PickleBuffer]:
    """Returns buffers as they stay beside a pickle."""
    return [pickle.PickleBuffer(buffer) for buffer in buffers]


class _Both:
    """Stand-in for a value in two forms: it unpickles to the value (``_open``). Arguments are those of ``_open``."""

    def __init__(self, *parts: Any) -> None:
        self._parts = HERE, *parts

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _open, self._parts


def _open(
    version: Version, data: bytes, buffers: list[Any], other: bytes, others: list[Any] | None, refusal: str
) -> Any:
    """Returns the value of the form that this process can open. Pickles call this.

    Args:
        version: Version of Python that has made both.
        data: Pickle for that version.
        buffers: Large buffers that it refers to.
        other: Pickle for other versions.
        others: Large buffers that ``other`` refers to; None: the same.
        refusal: Why there is no ``other``; empty if there is one.
    """
    form = chosen(version, (data, buffers), ((other, buffers if others is None else others), refusal))
    return loads(*form)


class Noted(NamedTuple):
    """A computation, as the journal of a program has it.

    Attributes:
        version: Version of Python of the program.
        code: The computation for nodes of this version.
        portable: The computation for nodes of others.
    """

    version: Version
    code: bytes
    portable: bytes


def pack_code(noted: Noted) -> bytes:
    """Returns the bytes that a journal keeps of a computation."""
    return pickle.dumps(tuple(noted), PROTOCOL)


def unpack_code(data: bytes) -> Noted:
    """Returns the computation of ``pack_code``; empty parts if a short journal has noted none."""
    return Noted(*pickle.loads(data)) if data else Noted(HERE, b"", b"")
