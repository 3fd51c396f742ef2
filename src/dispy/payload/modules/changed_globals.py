"""Globals of imported modules that the program has changed: ``helpers.N = args.n`` holds in jobs, too.

A module is imported on the node from its file, and its globals have the values that this gives. The program sends
its own values, and of its classes the attributes: those that differ are set, containers and plain objects in place,
so that whoever shares them goes on sharing them. What the module's own code has made is not sent: functions
of its code, and what its import statements bind.
"""

from __future__ import annotations

import abc
import collections
import enum
import logging
import marshal
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import bytecode, special_objects
from dispy.payload.by_value.bytecode import Imported
from dispy.payload.by_value.change_stamps import Limited, Sink, TooLarge, attributes_of
from dispy.payload.by_value.functions import functions_in, is_code, is_generic
from dispy.payload.by_value.namespaces import package_of
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.modules.loaded_code import code_of
from dispy.payload.modules.origins import Origin, origin_of

logger = logging.getLogger("dispy.client")

COMPARED_MAX = 1024 * 1024
"""Bytes of an object up to which it is sent to be compared; plain values are sent whatever their size."""

_ATOMS = frozenset({
    "builtins.NoneType", "builtins.bool", "builtins.int", "builtins.float", "builtins.complex", "builtins.str",
    "builtins.bytes", "builtins.ellipsis", "builtins.range", "decimal.Decimal", "fractions.Fraction", "datetime.date",
    "datetime.time", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "uuid.UUID", "re.Pattern",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
})  # fmt: skip
"""Types of plain values, by name: most need not be imported to know that nothing is of them."""

_CONTAINERS = (list, dict, set, frozenset, tuple, collections.deque)

_GENERATED = ("<string>", "<attrs", "<array_function")
"""How file names of methods begin that libraries make of a class."""


class Configured(NamedTuple):
    """Values of a module's globals in the program, pickled.

    Attributes:
        data: For ``settle``; empty for nothing.
        modules: The user's own modules that it needs.
        imports: Import statements of functions in it.
    """

    data: bytes
    modules: set[str]
    imports: set[Imported]


def dump_globals(name: str) -> Configured:
    """Pickle those globals of a loaded module that may differ from what importing it gives."""
    module = sys.modules[name]
    code = code_of(name)
    assert code is not None
    constants = bytecode.constant_assignments(code)
    assigned = bytecode.assigned(code)
    made = set(bytecode.nested(code))
    imported = bytecode.bound_by_import(code, package_of(vars(module)))
    plain: dict[str, Any] = {}
    parts = _Parts()
    foreign: set[str] = set()
    for key, value in list(vars(module).items()):
        if key.startswith("__") and key.endswith("__"):
            continue
        if key in constants and type(constants[key]) is type(value) and constants[key] == value:
            continue
        if key in imported and _is_bound(value, *imported[key]):
            continue
        is_foreign = key not in assigned or key in constants
        if is_foreign and isinstance(value, types.ModuleType) and value.__name__ == f"{name}.{key}":
            continue  # a submodule
        if isinstance(value, type) and value.__module__ == name:
            parts.add(key, _class_values(value, made), COMPARED_MAX)
        elif isinstance(value, types.FunctionType) and value.__module__ == name and is_generic(value):
            parts.add(key, _registrations(value, made), COMPARED_MAX)
        elif isinstance(value, types.FunctionType) and value.__code__ in made:
            continue
        elif _is_plain(value):
            plain[key] = value
        else:
            reason = parts.add(key, value, sys.maxsize if is_foreign else COMPARED_MAX)
            if is_foreign:
                foreign.add(key)
            if reason and is_foreign and key not in _set_in_functions(code):
                logger.warning("global %s of module %s is not as it is here in jobs: %s", key, name, reason)
    if not plain and not parts.pickles:
        return Configured(b"", set(), set())
    return Configured(pickle.dumps((plain, parts.pickles, foreign), PROTOCOL), parts.modules, parts.imports)


class _Parts:
    """Values that are pickled each by itself, so that one that fails on the node does not take the others along."""

    def __init__(self) -> None:
        self.pickles: dict[str, bytes] = {}
        self.modules: set[str] = set()
        self.imports: set[Imported] = set()

    def add(self, key: str, value: Any, limit: int) -> str:
        """Pickle a value; says why that is not possible."""
        if value is None:
            return ""
        stream = Limited(limit)
        pickler = Pickler(stream)
        try:
            pickler.dump(value)
        except TooLarge:
            return "it is too large"
        except Exception as error:
            return str(error) or type(error).__name__
        self.pickles[key] = stream.getvalue()
        self.modules |= pickler.modules
        self.imports |= pickler.imports
        return ""


def _is_bound(value: Any, module: str, attribute: str) -> bool:
    """Whether a global is still what an import statement has bound."""
    source = sys.modules.get(module)
    if source is None:
        return False
    if not attribute:
        return isinstance(value, types.ModuleType) and (
            value is source or module.startswith(f"{value.__name__}.")
        )
    return getattr(source, attribute, None) is value or sys.modules.get(f"{module}.{attribute}") is value


class ClassValues:
    """Attributes of a class that may differ from those it is made with.

    Args:
        values: By name.
        registered: Classes that were registered as subclasses.
    """

    __slots__ = ("registered", "values")

    def __init__(self, values: dict[str, Any], registered: list[type]) -> None:
        self.values = values
        self.registered = registered

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any], list[type]]]:
        return ClassValues, (self.values, self.registered)


class Registrations:
    """Implementations of a function of ``functools.singledispatch`` that its own module has not registered.

    Args:
        implementations: By class.
    """

    __slots__ = ("implementations",)

    def __init__(self, implementations: dict[Any, Any]) -> None:
        self.implementations = implementations

    def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
        return Registrations, (self.implementations,)


def _registrations(function: Any, made: set[types.CodeType]) -> Registrations | None:
    found = {
        kind: implementation
        for kind, implementation in function.registry.items()
        if getattr(implementation, "__code__", None) not in made
    }
    return Registrations(found) if found else None


def _class_values(cls: type, made: set[types.CodeType]) -> ClassValues | None:
    if issubclass(cls, enum.Enum):
        return None  # its members are made by its own module
    values = {}
    for name, value in attributes_of(cls).items():
        if name.startswith("__") and not is_code(value):
            continue
        if isinstance(value, type) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            value = _class_values(value, made)
            if value is not None:
                values[name] = value
        elif is_code(value):
            if any(_is_patched(function, made) for function in functions_in(value)):
                values[name] = value
        elif _is_plain(value) or not _why_not(value):
            values[name] = value
    registered = abc._get_dump(cls)[0] if isinstance(cls, abc.ABCMeta) else ()  # type: ignore[attr-defined]
    subclasses = [found for found in (each() for each in registered) if found is not None]
    return ClassValues(values, subclasses) if values or subclasses else None


def _is_patched(function: types.FunctionType, made: set[types.CodeType]) -> bool:
    return function.__code__ not in made and not function.__code__.co_filename.startswith(_GENERATED)


def _why_not(value: Any) -> str:
    if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType, types.ModuleType)):
        return "it is of the interpreter"
    try:
        Pickler(Sink(COMPARED_MAX)).dump(value)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _set_in_functions(code: types.CodeType) -> set[str]:
    """Globals that functions of a module set: each process fills those for itself, such as a connection."""
    found: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= bytecode.assigned(constant) | _set_in_functions(constant)
    return found


def _is_plain(value: Any, depth: int = 0) -> bool:
    kind = type(value)
    if _name_of(kind) in _ATOMS:
        return True
    if isinstance(value, enum.Enum):
        return origin_of(kind.__module__) is Origin.INSTALLED
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


# On the node.


def settle(module: types.ModuleType, data: bytes, warn: Callable[[str], None]) -> None:
    """Set what differs from the program's.

    Args:
        module: Imported here.
        data: From ``dump_globals``.
        warn: Called with a sentence about each global that the program has set and that cannot be set here.
    """
    plain, pickles, foreign = pickle.loads(data)
    namespace = vars(module)
    for key, value in plain.items():
        _set(namespace, key, value)
    for key, pickled in pickles.items():
        try:
            value = pickle.loads(pickled)
            if isinstance(value, ClassValues):
                _settle_class(namespace.get(key), value)
            elif isinstance(value, Registrations):
                for kind, implementation in value.implementations.items():
                    namespace[key].register(kind, implementation)
            else:
                _set(namespace, key, value)
        except Exception as error:
            if key not in foreign:
                continue  # what importing has made of it stays
            warn(
                f"global {key} of module {module.__name__} is as importing it gives, and not as in the program: "
                f"{type(error).__name__}: {error}"
            )


def _set(namespace: dict[str, Any], key: str, value: Any) -> None:
    mine = namespace.get(key, _MISSING)
    if not _is_same(mine, value):
        namespace[key] = _taken_over(mine, value)


def _settle_class(cls: Any, values: ClassValues) -> None:
    if not isinstance(cls, type):
        return
    for name, value in values.values.items():
        mine = vars(cls).get(name, _MISSING)
        if isinstance(value, ClassValues):
            _settle_class(mine, value)
        elif not _is_same(mine, value):
            taken = _taken_over(mine, value)
            if taken is not mine:
                type.__setattr__(cls, name, taken)
    for subclass in values.registered:
        cls.register(subclass)  # type: ignore[attr-defined]


_MISSING = object()


def _is_same(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    if type(mine) is not type(theirs):
        return False
    try:
        if bool(mine == theirs):
            return True
    except Exception:  # arrays, and what the user has written
        pass
    try:
        return pickle.dumps(mine, PROTOCOL) == pickle.dumps(theirs, PROTOCOL)
    except Exception:
        return False


def _taken_over(mine: Any, theirs: Any) -> Any:
    """The program's value; in the object that is here, where that can hold it."""
    kind = type(mine)
    if kind is not type(theirs):
        return theirs
    if isinstance(mine, list):
        mine[:] = theirs
    elif isinstance(mine, dict):
        mine.clear()
        mine.update(theirs)
    elif isinstance(mine, set):
        mine.clear()
        mine |= theirs
    elif not special_objects.has_attributes_alone(kind) or isinstance(mine, enum.Enum):
        return theirs
    if kind.__dictoffset__:
        attributes = vars(mine)
        attributes.clear()
        attributes.update(vars(theirs))
    return mine
