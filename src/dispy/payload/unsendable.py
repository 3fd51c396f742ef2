"""Search for the innermost part of a value that cannot be pickled, which the text of an error names."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from dispy.errors import PicklingError
from dispy.payload.by_value.bytecode import global_names
from dispy.payload.by_value.pickler import dump_by_value


def find_culprit(value: Any, where: str, depth: int = 0, seen: set[int] | None = None) -> str:
    """Returns words that name the innermost part of a value that cannot be pickled, and why; empty if all can be.

    Args:
        value: Anything.
        where: Words for the value, such as "argument 1".
        depth: Number of values around this one; parts more than 8 deep are not looked at.
        seen: Addresses of values that were looked at already, which are skipped; None at the outermost call.
    """
    seen = seen if seen is not None else set()
    if id(value) in seen or depth > 8:
        return ""
    seen.add(id(value))
    try:
        dump_by_value(value)
        return ""
    except RecursionError:
        return f"{where} is nested too deeply"
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, PicklingError) and "__reduce__" in vars(type(value)):
            return f"{where}: {reason}"  # the class says itself why not
    for part, name in _parts(value, where):
        inner = find_culprit(part, name, depth + 1, seen)
        if inner:
            return inner
    return f"{where} (of type {type(value).__module__}.{type(value).__qualname__}): {reason}"


def _parts(value: Any, where: str) -> Iterable[tuple[Any, str]]:
    """Yields the parts that a pickle of a value holds (items, attributes, globals, defaults), with words for each.

    ``where``: words for the value, such as "argument 1"; those for a part end with them ("item 0 of argument 1").
    """
    if isinstance(value, types.MethodType):
        yield value.__func__, where
        yield value.__self__, f"the object of {where}"
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield cell.cell_contents, f"variable {name!r} that {where} closes over"
            except ValueError:
                continue
        for name in sorted(global_names(value.__code__)):
            if name in value.__globals__:
                yield value.__globals__[name], f"global {name!r} that {where} uses"
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield default, f"a default of {where}"
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__, where  # pyright: ignore[reportFunctionMemberAccess]
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, f"key {key!r:.60} of {where}"
            yield item, f"item {key!r:.60} of {where}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield item, f"item {index} of {where}"
    elif isinstance(value, type):
        for name, item in vars(value).items():
            if not (name.startswith("__") and name.endswith("__")) or name == "__init__":
                yield item, f"attribute {name!r} of {where}"
    elif hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            yield item, f"attribute {name!r} of {where}"


def blame(args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any, error: Exception) -> PicklingError:
    """Returns the error that names the part of a job that cannot be sent.

    Args:
        args: Positional arguments of the job.
        kwargs: Keyword arguments of the job.
        job_id: Id of the job, if the program gave one; else None.
        error: Error that was raised when the job was pickled; its text is used if each part by itself can be sent.
    """
    parts = [(value, f"argument {place}") for place, value in enumerate(args, 1)]
    parts += [(value, f"argument {name!r}") for name, value in kwargs.items()]
    for value, where in [*parts, (job_id, "the job's id")]:
        culprit = find_culprit(value, where)
        if culprit:
            return PicklingError(
                f"a job cannot be sent: {culprit}",
                hint="pass plain data, or create the object in the job",
            )
    return PicklingError(f"a job cannot be sent: {error}")
