"""Globals of imported modules that the program has set: ``helpers.N = args.n`` holds in jobs, too.

A module is imported on the node from its file, and its globals have the values that this gives. The program sends the
values that they have there: those that differ are set, containers and plain objects in place, so that whoever shares
them goes on sharing them.
"""

from __future__ import annotations

import collections
import enum
import io
import logging
import marshal
import pickle
import sys
import types
from typing import Any

from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import bytecode
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.by_value.stamps import Sink, TooLarge
from dispy.payload.modules import sending
from dispy.payload.modules.origins import Origin, origin_of

logger = logging.getLogger("dispy.client")

COMPARED_MAX = 1024 * 1024
"""Bytes of a container with objects in it up to which it is sent; plain values are sent whatever their size."""

_ATOMS = frozenset({
    "builtins.NoneType", "builtins.bool", "builtins.int", "builtins.float", "builtins.complex", "builtins.str",
    "builtins.bytes", "builtins.ellipsis", "builtins.range", "decimal.Decimal", "fractions.Fraction", "datetime.date",
    "datetime.time", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "uuid.UUID", "re.Pattern",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
})  # fmt: skip
"""Types of plain values, by name: most need not be imported to know that nothing is of them."""

_RECORDS = frozenset({"types.SimpleNamespace", "argparse.Namespace"})

_CONTAINERS = (list, dict, set, frozenset, tuple, collections.deque)


def dump_globals(name: str) -> bytes:
    """Pickle those globals of a loaded module that may differ from what importing it gives; empty for none."""
    module = sys.modules[name]
    code = sending.code_of(name)
    assert code is not None
    constants = bytecode.constant_assignments(code)
    assigned = bytecode.assigned(code)
    found: dict[str, Any] = {}
    for key, value in list(vars(module).items()):
        if key.startswith("__") and key.endswith("__"):
            continue
        if key in constants and type(constants[key]) is type(value) and constants[key] == value:
            continue
        is_foreign = key not in assigned or key in constants
        if is_foreign and key not in assigned and _is_submodule(module, key, value):
            continue
        if _is_plain(value):
            found[key] = value
        elif isinstance(value, type) and value.__module__ == name:
            plain = {
                attribute: item for attribute, item in vars(value).items() if _is_attribute(attribute, item)
            }
            if plain:
                found[key] = ClassValues(plain)
        elif isinstance(value, _CONTAINERS) or _is_record(value) or is_foreign or _is_of_script(value):
            reason = _why_not(value, sys.maxsize if is_foreign else COMPARED_MAX)
            if not reason:
                found[key] = value
            elif is_foreign and key not in _set_in_functions(code):
                logger.warning("global %s of module %s is not as it is here in jobs: %s", key, name, reason)
    if not found:
        return b""
    stream = io.BytesIO()
    Pickler(stream).dump(found)
    return stream.getvalue()


class ClassValues:
    """Plain attributes of a class of the module.

    Args:
        values: By name.
    """

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return ClassValues, (self.values,)


def _set_in_functions(code: types.CodeType) -> set[str]:
    """Globals that functions of a module set: each process fills those for itself, such as a connection."""
    found: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= bytecode.assigned(constant) | _set_in_functions(constant)
    return found


def _is_submodule(module: types.ModuleType, key: str, value: Any) -> bool:
    return isinstance(value, types.ModuleType) and value.__name__ == f"{module.__name__}.{key}"


def _is_attribute(name: str, value: Any) -> bool:
    return (
        not (name.startswith("__") and name.endswith("__"))
        and not name.startswith("_abc_")
        and _is_plain(value)
    )


def _is_plain(value: Any, depth: int = 0) -> bool:
    kind = type(value)
    if _name_of(kind) in _ATOMS:
        return True
    if isinstance(value, enum.Enum):
        return origin_of(kind.__module__) is not Origin.VALUE
    if kind not in _CONTAINERS or depth > 20:
        return False
    try:
        marshal.dumps(value)  # at the speed of C, where all of it is built in
        return True
    except ValueError:
        pass
    if kind is dict:
        return all(_is_plain(key, depth + 1) and _is_plain(item, depth + 1) for key, item in value.items())
    return all(_is_plain(item, depth + 1) for item in value)


def _name_of(kind: type) -> str:
    module = kind.__module__.removesuffix("._local")  # of pathlib, in Python 3.13
    return f"{module}.{kind.__qualname__}"


def _is_record(value: Any) -> bool:
    """Whether a value is an object with plain attributes, as settings are."""
    kind = type(value)
    is_ours = _name_of(kind) in _RECORDS or origin_of(kind.__module__) is Origin.OWN
    return is_ours and bool(getattr(value, "__dict__", None)) and all(map(_is_plain, vars(value).values()))


def _is_of_script(value: Any) -> bool:
    """Whether the program has put a function or class of its script into the module."""
    is_code = isinstance(value, (types.FunctionType, type))
    return is_code and origin_of(value.__module__) is Origin.VALUE


def _why_not(value: Any, limit: int) -> str:
    try:
        Pickler(Sink(limit)).dump(value)
    except TooLarge:
        return "it is too large"
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


# On the node.


def settle(module: types.ModuleType, data: bytes) -> None:
    """Set the globals of a module that differ from the program's."""
    values: dict[str, Any] = pickle.loads(data)
    namespace = vars(module)
    for key, value in values.items():
        if isinstance(value, ClassValues):
            cls = namespace.get(key)
            if isinstance(cls, type):
                for name, item in value.values.items():
                    if not _is_same(vars(cls).get(name, _MISSING), item):
                        type.__setattr__(cls, name, item)
        elif not _is_same(namespace.get(key, _MISSING), value):
            namespace[key] = _taken_over(namespace.get(key), value)


_MISSING = object()


def _is_same(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    if type(mine) is not type(theirs):
        return False
    try:
        if bool(mine == theirs):
            return True
    except Exception:  # of the user's own
        return False
    if _has_plain_attributes(mine) and vars(mine).keys() == vars(theirs).keys():
        return all(_is_same(value, vars(theirs)[name]) for name, value in vars(mine).items())
    try:
        return pickle.dumps(mine, PROTOCOL) == pickle.dumps(theirs, PROTOCOL)  # not-a-number
    except Exception:
        return False


def _has_plain_attributes(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(
        value, (type, types.FunctionType, types.ModuleType)
    )


def _taken_over(mine: Any, theirs: Any) -> Any:
    """The program's value; in the object that is here, where that can hold it."""
    kind = type(mine)
    if kind is not type(theirs):
        return theirs
    if kind is list:
        mine[:] = theirs
    elif isinstance(mine, dict):
        mine.clear()
        mine.update(theirs)
    elif kind is set:
        mine.clear()
        mine |= theirs
    elif _has_plain_attributes(mine) and not hasattr(kind, "__slots__") and not isinstance(mine, enum.Enum):
        vars(mine).clear()
        vars(mine).update(vars(theirs))
    else:
        return theirs
    return mine
