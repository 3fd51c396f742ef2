"""Values of payloads whose makers are not trusted: built-in values, dates, decimals, arrays, and nothing else.

Theory of operation. A pickle is a program for a machine with a stack. The machine of the standard library is used, as
it is quick, but it gets nothing to call:

- ``_check_opcodes`` looks through the pickle first, and refuses opcodes that picklers of protocol 5 do not write:
  those of old protocols, by which ten bytes take any amount of memory; extension codes, whose objects the machine
  takes from a cache without asking; persistent ids; and texts that are longer than the payload.
- A name (``find_class``) gives a ``_Name``, if it is on a list; otherwise reading ends. No module is imported, and no
  class or function is ever on the stack.
- Calling a ``_Name`` (REDUCE) gives a ``_Made``, which notes name and arguments. Setting its state (BUILD) notes the
  state. Neither can be changed, indexed or extended. NEWOBJ and NEWOBJ_EX need a class, and there is none.

So the machine leaves built-in values and ``_Made`` objects. If there are names or buffers, ``_Making`` goes through
them, makes what the ``_Made`` stand for by functions of ours (``MAKERS``), which check each argument, and refuses all
else.

A payload may lie in memory that a node can still write to. The pickle is therefore copied before it is read; the
content of arrays is not, as any content is an array.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from dispy.errors import NotPlainError
from dispy.payload.blocks import MAGIC, Buffer, open_block
from dispy.payload.plain import arrays

Maker = Callable[[tuple[Any, ...], Any], Any]
"""Function that makes a value from arguments and state, both made already; state is None if the pickle sets none."""

_SCALARS = frozenset({type(None), bool, int, float, str, bytes, bytearray})
"""Classes of values that are plain and have no parts."""

_BY_VALUE = "dispy.payload.by_value."
"""Beginning of the names of modules whose functions stand for code of the program's own."""


def load_plain(payload: Buffer, more: Mapping[str, Maker] | None = None) -> Any:
    """Returns the value of a payload, whoever made it; no code runs but that of this package and of numpy.

    Arrays lie in the memory of the payload, without a copy.

    Args:
        payload: A pickle, or a block.
        more: Makers besides ``MAKERS``, by the names that pickles use.

    Raises:
        NotPlainError: The payload has something else than plain data, and the text says what; or it is damaged.
    """
    makers = {**MAKERS, **more} if more else MAKERS
    try:
        data: Buffer = payload
        buffers: list[memoryview] = []
        if payload[:1] == MAGIC[:1]:
            data, buffers = open_block(memoryview(payload))
        data = bytes(data)
        is_special = _check_opcodes(data)
        reader = _Machine(io.BytesIO(data), buffers=buffers)
        reader.makers = makers
        value = reader.load()
        return _Making(makers).made(value) if is_special else value
    except NotPlainError:
        raise
    except RecursionError:
        raise NotPlainError("data that is nested too deeply") from None
    except Exception as error:
        raise NotPlainError(f"damaged data ({type(error).__name__}: {str(error)[:200]})") from None


# The opcodes.

_SHORT_MAX = 48
"""Bytes of texts and bytes that ``_RUN`` matches; the more lengths it knows, the longer it looks for each."""

_SHORT = b"|".join([b"\\x%02x.{%d}" % (size, size) for size in range(_SHORT_MAX + 1)])

_RUN = re.compile(
    rb"(?:[()}\]Natesubs01R\x81\x85-\x89\x8f-\x92\x94]|[Kh\x80].|M..|[Jj].{4}|[G\x95].{8}"
    rb"|[C\x8c](?:" + _SHORT + rb"))*+",
    re.DOTALL,
)
"""Matches a run of opcodes: numbers, containers, names, calls, references, short texts."""

_SIZES = {
    **dict.fromkeys((b"C", b"\x8c", b"\x8a"), 1),
    **dict.fromkeys((b"B", b"X", b"\x8b"), 4),
    **dict.fromkeys((b"\x8d", b"\x8e", b"\x96"), 8),
}
"""Bytes of the size behind an opcode, after which come as many bytes: texts, bytes, bytearrays, large numbers."""


_SPECIAL = frozenset({b"\x93", b"\x97", b"\x98"})
"""Opcodes that leave something else than built-in values: a name, a buffer, a view of bytes."""


def _check_opcodes(data: bytes) -> bool:
    """Check that a pickle consists of opcodes that picklers of protocol 5 write, up to its end (STOP).

    Returns:
        True if it has one of ``_SPECIAL``.

    Raises:
        ValueError: Another opcode, or something that is longer than the pickle.
    """
    place = 0
    is_special = False
    while True:
        place = _RUN.match(data, place).end()  # type: ignore[union-attr]  # also matches nothing
        opcode = data[place : place + 1]
        if opcode in _SPECIAL:
            is_special = True
            place += 1
            continue
        width = _SIZES.get(opcode)
        if width is None:
            if opcode == b".":
                return is_special
            raise ValueError(f"opcode {opcode!r} at byte {place}")
        begin = place + 1 + width
        place = begin + int.from_bytes(data[place + 1 : begin], "little")
        if place > len(data):
            raise ValueError("it is cut off")


# The machine, and what it leaves.


class _Made:
    """Value that a pickle describes by a call: name, arguments, and a state if it sets one."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """Class or function that a pickle names, such as "numpy.dtype": a call of it gives a ``_Made``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> _Made:
        if self.name.startswith(_BY_VALUE):
            raise NotPlainError(_of_program(self.name, arguments))
        return _Made(self.name, arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise NotPlainError(f"a changed {self.name}")


def _of_program(name: str, arguments: tuple[Any, ...]) -> str:
    """Returns what a pickle has of the program's own code, in words: a class by its name, other code without one."""
    texts = [text for text in arguments[2:4] if type(text) is str]
    if name == f"{_BY_VALUE}classes.resolve" and len(texts) == 2:
        return f"an object of the class {'.'.join(texts)[:200]}"
    return "a function or class of the program"


class _Machine(pickle.Unpickler):
    """The machine of the standard library, without any name that it could call."""

    makers: Mapping[str, Maker]
    """Makers, by the names that may stand in the pickle."""

    def find_class(self, module: str, name: str) -> _Name:
        """Returns a stand-in for a name.

        Raises:
            NotPlainError: The name is on no list.
        """
        full = f"{module}.{name}"
        if full in self.makers or full == _ARRAY or full.startswith(_BY_VALUE):
            return _Name(full)
        raise NotPlainError(f"an object that needs {full[:200]}")


# What is made of that.


class _Making:
    """Makes values from what the machine has left.

    Args:
        makers: Makers, by name.
    """

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = makers
        self._known: dict[int, tuple[Any, Any]] = {}
        """Parts that the machine left, each with its value, by identity of the part: kept so that none is freed."""
        self._pending: set[int] = set()
        """Identities of values that are being made, and that cannot be parts of themselves."""

    def made(self, left: Any) -> Any:
        """Returns the value of what the machine has left. Lists, dictionaries and sets are changed in place.

        Raises:
            NotPlainError: A part is not plain, or its arguments are none that it can have.
        """
        kind = type(left)
        if kind in _SCALARS:
            return left
        known = self._known.get(id(left))
        if known is not None:
            return known[1]
        if kind is list:
            self._known[id(left)] = left, left
            left[:] = self._each(left)
            return left
        if kind is dict:
            self._known[id(left)] = left, left
            items = [(self.made(key), self.made(value)) for key, value in left.items()]
            left.clear()
            left.update(items)
            return left
        if kind is set:
            self._known[id(left)] = left, left
            items = self._each(left)
            left.clear()
            left.update(items)
            return left
        if id(left) in self._pending:
            raise NotPlainError("data that contains itself")
        self._pending.add(id(left))
        value = self._value(kind, left)
        self._known[id(left)] = left, value
        self._pending.discard(id(left))
        return value

    def _each(self, parts: Any) -> list[Any]:
        """Returns the values of all parts; what has no parts itself costs no call."""
        scalars = _SCALARS
        return [part if type(part) in scalars else self.made(part) for part in parts]

    def _value(self, kind: type, left: Any) -> Any:
        """Returns the value of something that cannot be changed in place. ``kind`` is its class."""
        if kind is tuple:
            return tuple(self._each(left))
        if kind is frozenset:
            return frozenset(self._each(left))
        if kind is _Made:
            arguments = tuple([self._argument(part) for part in left.arguments])
            return self._makers[left.name](arguments, self._argument(left.state))
        raise NotPlainError(f"a bare {left.name}" if kind is _Name else f"an object of {kind.__name__}")

    def _argument(self, part: Any) -> Any:
        """Returns the value of an argument, which may be a buffer, or the text of a name."""
        if type(part) is memoryview:
            return part
        return part.name if type(part) is _Name else self.made(part)


def _bytes(arguments: tuple[Any, ...], state: Any) -> bytes:
    return bytes(_buffer(arguments, state))


def _bytearray(arguments: tuple[Any, ...], state: Any) -> bytearray:
    return bytearray(_buffer(arguments, state))


def _buffer(arguments: tuple[Any, ...], state: Any) -> Buffer:
    """Returns the only argument, a buffer: a number would be the size of as many zeros."""
    (buffer,) = _of_types(arguments, state, (bytes, bytearray, memoryview))
    data: Buffer = buffer
    return data


def _complex(arguments: tuple[Any, ...], state: Any) -> complex:
    return complex(*_of_types(arguments, state, (float,), (float,)))


def _range(arguments: tuple[Any, ...], state: Any) -> range:
    return range(*_of_types(arguments, state, (int,), (int,), (int,)))


def _decimal(arguments: tuple[Any, ...], state: Any) -> decimal.Decimal:
    return decimal.Decimal(*_of_types(arguments, state, (str,)))


def _timedelta(arguments: tuple[Any, ...], state: Any) -> datetime.timedelta:
    return datetime.timedelta(*_of_types(arguments, state, (int,), (int,), (int,)))


def _timezone(arguments: tuple[Any, ...], state: Any) -> datetime.timezone:
    names: tuple[tuple[type, ...], ...] = ((str,),) if len(arguments) > 1 else ()
    return datetime.timezone(*_of_types(arguments, state, (datetime.timedelta,), *names))


def _date(arguments: tuple[Any, ...], state: Any) -> datetime.date:
    (data,) = _of_types(arguments, state, (bytes,))
    high, low, month, day = data
    return datetime.date(high * 256 + low, month, day)


def _time(arguments: tuple[Any, ...], state: Any) -> datetime.time:
    data, zone = _with_zone(arguments, state)
    hour, minute, second, *rest = data
    micros = int.from_bytes(_exactly(bytes(rest), 3), "big")
    return datetime.time(hour & 127, minute, second, micros, zone, fold=hour >> 7)


def _datetime(arguments: tuple[Any, ...], state: Any) -> datetime.datetime:
    data, zone = _with_zone(arguments, state)
    high, low, month, day, hour, minute, second, *rest = data
    micros = int.from_bytes(_exactly(bytes(rest), 3), "big")
    year = high * 256 + low
    return datetime.datetime(
        year, month & 127, day, hour, minute, second, micros, zone, fold=month >> 7
    )  # checks each number; what pickles call does not


def _with_zone(arguments: tuple[Any, ...], state: Any) -> tuple[bytes, datetime.timezone | None]:
    """Returns bytes and time zone of a time; None: it has none."""
    zones: tuple[tuple[type, ...], ...] = ((datetime.timezone,),) if len(arguments) > 1 else ()
    data, *zone = _of_types(arguments, state, (bytes,), *zones)
    return data, zone[0] if zone else None


def _exactly(data: bytes, size: int) -> bytes:
    """Returns ``data``, which must have ``size`` bytes; raises ValueError otherwise."""
    if len(data) != size:
        raise ValueError("a time of the wrong length")
    return data


def _of_types(arguments: tuple[Any, ...], state: Any, *kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Returns arguments, each checked to be of one of the exact classes for its place, with no state behind them.

    Raises:
        TypeError: They are not.
    """
    if state is not None or len(arguments) != len(kinds):
        raise TypeError("arguments that it cannot have")
    for argument, allowed in zip(arguments, kinds, strict=True):
        if type(argument) not in allowed:
            raise TypeError(f"an argument of the type {type(argument).__name__}")
    return arguments


_ARRAY = "numpy.ndarray"
"""Name of the class of arrays, which is an argument and is never called."""

MAKERS: dict[str, Maker] = {
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.range": _range,
    "datetime.date": _date,
    "datetime.datetime": _datetime,
    "datetime.time": _time,
    "datetime.timedelta": _timedelta,
    "datetime.timezone": _timezone,
    "decimal.Decimal": _decimal,
    "numpy.dtype": arrays.make_type,
    # Where numpy 2 has these functions, and where numpy 1 has them.
    "numpy._core.numeric._frombuffer": arrays.make_from_buffer,
    "numpy.core.numeric._frombuffer": arrays.make_from_buffer,
    "numpy._core.multiarray._reconstruct": arrays.make_reconstructed,
    "numpy.core.multiarray._reconstruct": arrays.make_reconstructed,
    "numpy._core.multiarray.scalar": arrays.make_scalar,
    "numpy.core.multiarray.scalar": arrays.make_scalar,
}
"""Makers of plain data, by the names that pickles use. Each checks what it is given, and runs no code of others."""
