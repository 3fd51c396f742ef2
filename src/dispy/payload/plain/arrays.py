"""Arrays, scalars and data types of numpy, made anew from what a pickle says of them: none of its calls is made.

Whoever may call what a pickle of an array names can do anything: ``dtype.__setstate__`` takes a layout in which bytes
of the pickle stand for pointers to objects. So a data type is made here from a text of a fixed form, or from fields
of such types, and an array is a view of bytes whose number was counted. There is no data type of objects.

numpy is imported when the first array comes; a program without numpy refuses arrays.
"""

from __future__ import annotations

import math
import re
import sys
from types import ModuleType
from typing import Any

from dispy.errors import NotPlainError

_TYPE = re.compile(
    r"(?:b1|[iu][1248]|f(?:[248]|1[026])|c(?:8|16|2[04]|32)|[SU][0-9]{1,9}|[mM]8|V[0-9]{1,9})"
)
"""Texts of the data types that are plain: numbers, texts and bytes of fixed length, dates, and ``V`` for fields."""

_UNIT = re.compile(r"Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as|generic")
"""Units of dates and durations."""

_DIMENSIONS_MAX = 64
"""Largest number of dimensions of an array in numpy."""

_FIELDS_MAX = 10_000
"""Largest number of fields of a data type: to make one takes 1 us for each."""

_DEPTH_MAX = 32
"""Largest number of data types inside each other."""

Arguments = tuple[Any, ...]
"""Arguments of a call that a pickle asks for, made already: numbers, texts, buffers, data types."""


def make_type(arguments: Arguments, state: Any) -> Any:
    """Returns a data type (``numpy.dtype``).

    Args:
        arguments: Text of the type, and two flags that change nothing here.
        state: Version, byte order, subarray, names and fields, size, alignment, flags, and units of dates; None for
            the text alone.

    Raises:
        NotPlainError: The type has objects in it, or is none that numpy's own pickles describe.
    """
    numpy = _numpy()
    text = arguments[0]
    if type(text) is not str or len(arguments) > 3:
        raise NotPlainError("an array with a data type that nobody knows")
    if text.startswith("O"):
        raise NotPlainError("an array of objects (dtype object)")
    if not _TYPE.fullmatch(text):
        raise NotPlainError(f"an array of the data type {text[:40]!r}")
    if state is None:
        return numpy.dtype(text)
    if type(state) is not tuple or len(state) < 8:
        raise NotPlainError("an array whose data type has no proper description")
    order, subarray, names, fields = state[1:5]
    if order not in ("<", ">", "|", "="):
        raise NotPlainError("an array whose data type has no proper byte order")
    if subarray is not None:
        return _subarray(numpy, subarray)
    if names is not None:
        return _structure(numpy, names, fields, int(text[1:]) if text[0] == "V" else -1)
    if text[0] in "mM":
        return numpy.dtype(f"{order}{text}{_unit(state)}")
    return numpy.dtype(text if order == "|" else order + text)


def _subarray(numpy: ModuleType, described: Any) -> Any:
    """Returns the data type of a field that is an array: ``described`` has the type of its elements and its shape."""
    base, shape = described
    shape = (shape,) if type(shape) is int else shape
    return _shallow(numpy, numpy.dtype((_type(numpy, base), _shape(shape))))


def _structure(numpy: ModuleType, names: Any, fields: Any, size: int) -> Any:
    """Returns a data type with fields.

    Args:
        numpy: The module.
        names: Names of the fields, in order.
        fields: Data type and offset (bytes) of each field, by name.
        size: Size of the whole (bytes).
    """
    if type(names) is not tuple or type(fields) is not dict or not len(names) == len(fields) <= _FIELDS_MAX:
        raise NotPlainError("an array whose data type has no proper fields")
    if any(type(name) is not str or len(fields[name]) != 2 for name in names):
        raise NotPlainError("an array whose fields have titles")
    formats = [_type(numpy, fields[name][0]) for name in names]
    offsets = [fields[name][1] for name in names]
    if any(type(offset) is not int or offset < 0 for offset in offsets):
        raise NotPlainError("an array whose fields have no proper places")
    # numpy checks that all fields lie in the whole.
    layout = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
    return _shallow(numpy, numpy.dtype(layout))


def _unit(state: tuple[Any, ...]) -> str:
    """Returns the unit of dates or durations, as numpy's texts have it: "[25ns]"; empty without one."""
    described = state[8] if len(state) > 8 else None
    if described is None:
        return ""
    unit, number = described[1][:2]
    unit = bytes(unit).decode("ascii")
    if not _UNIT.fullmatch(unit) or type(number) is not int or not 0 < number < 1 << 31:
        raise NotPlainError("an array of dates in a unit that nobody knows")
    return "" if unit == "generic" else f"[{number}{unit}]"


def make_from_buffer(arguments: Arguments, state: Any) -> Any:
    """Returns an array over a buffer, without a copy (``numpy._core.numeric._frombuffer``).

    ``arguments``: buffer, data type, shape, order.
    """
    buffer, kind, shape, order = arguments[:4]
    _check_no_state(state)
    return _array(buffer, kind, shape, order)


def make_reconstructed(arguments: Arguments, state: Any) -> Any:
    """Returns an array of its own memory (``numpy._core.multiarray._reconstruct``).

    ``arguments``: class, shape and type of the empty array that ``state`` would fill. ``state``: version, shape, data
    type, True if columns come first, content.
    """
    if arguments[0] != "numpy.ndarray":
        raise NotPlainError(f"an array of the class {str(arguments[0])[:100]}")
    _, shape, kind, is_fortran, content = state
    if type(content) is list:
        raise NotPlainError("an array of objects (dtype object)")
    return _array(content, kind, shape, "F" if is_fortran else "C").copy(order="K")


def make_scalar(arguments: Arguments, state: Any) -> Any:
    """Returns a number, text or date of numpy's (``numpy._core.multiarray.scalar``): data type and content."""
    _check_no_state(state)
    kind, *content = arguments
    return _array(content[0] if content else b"", kind, (), "C")[()]


def _array(buffer: Any, kind: Any, shape: Any, order: Any) -> Any:
    """Returns an array over a buffer.

    Args:
        buffer: The content.
        kind: Data type.
        shape: Number of elements in each dimension.
        order: "C": rows come first; "F": columns.

    Raises:
        NotPlainError: Content and shape do not fit, or the content is none of the type.
    """
    numpy = _numpy()
    shape = _shape(shape)
    kind = _type(numpy, kind)
    if type(buffer) not in (bytes, bytearray, memoryview) or order not in ("C", "F"):
        raise NotPlainError("an array without proper content")
    size = memoryview(buffer).nbytes
    if math.prod(shape) * kind.itemsize != size:
        raise NotPlainError(f"an array whose {size} bytes are not those of its shape")
    if size == 0:
        return numpy.zeros(shape, kind, order)
    if kind.subdtype is not None:
        raise NotPlainError("an array whose elements are arrays")
    array = numpy.frombuffer(buffer, numpy.uint8).view(kind)
    _check_content(numpy, array)
    return array.reshape(shape, order=order)


def _check_content(numpy: ModuleType, array: Any) -> None:
    """Refuse truth values that are neither 0 nor 1, and characters that do not exist: numpy does not expect them.

    All other types have a value for any bytes. ``array``: without gaps; of its fields copies are looked at.
    """
    kind = array.dtype
    if kind.kind == "b" and array.view(numpy.uint8).max() > 1:
        raise NotPlainError("an array of truth values that are neither true nor false")
    if (
        kind.kind == "U"
        and array.view(numpy.dtype("u4").newbyteorder(kind.byteorder)).max() > sys.maxunicode
    ):
        raise NotPlainError("an array of characters that do not exist")
    for name in kind.names or ():
        field = numpy.ascontiguousarray(array[name])
        if field.size and field.dtype.itemsize:
            _check_content(numpy, field)


def _type(numpy: ModuleType, kind: Any) -> Any:
    """Returns ``kind`` if it is a data type that was made here."""
    if not isinstance(kind, numpy.dtype):
        raise NotPlainError("an array without a data type")
    return kind


def _shallow(numpy: ModuleType, kind: Any) -> Any:
    """Returns a data type unless too many lie inside each other: numpy goes through them by recursion."""
    level, depth = [kind], 0
    while level:
        depth += 1
        if depth > _DEPTH_MAX or len(level) > _FIELDS_MAX:
            raise NotPlainError("an array whose data type is nested too deeply")
        inner = [one.subdtype[0] for one in level if one.subdtype]
        level = inner + [field[0] for one in level for field in (one.fields or {}).values()]
    return kind


def _shape(shape: Any) -> tuple[int, ...]:
    """Returns the numbers of elements in each dimension, checked."""
    is_shape = type(shape) is tuple and len(shape) <= _DIMENSIONS_MAX
    if not is_shape or any(type(count) is not int or not 0 <= count < 1 << 62 for count in shape):
        raise NotPlainError("an array without a proper shape")
    checked: tuple[int, ...] = shape
    return checked


def _check_no_state(state: Any) -> None:
    """Refuse a state for what is whole without one."""
    if state is not None:
        raise NotPlainError("an array that is described twice")


def _numpy() -> ModuleType:
    """Returns numpy.

    Raises:
        NotPlainError: It is not installed here.
    """
    try:
        import numpy
    except ImportError as error:
        raise NotPlainError(f"an array of numpy, which cannot be imported here ({error}),") from None
    return numpy
