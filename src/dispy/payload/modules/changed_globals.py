"""Globals of imported modules that the program has changed: ``helpers.N = args.n`` holds in jobs, too.

Theory of operation. A node imports a module from its file, and its globals have the values that the top level gives
them. The program sends the values that globals have there, and attributes of the module's classes (``dump_globals``),
except those that the module's own code has certainly made: functions of its code, constants, and what its import
statements bind. The node sets the values that differ (``settle``): containers and plain objects in place, so that
everything that shares them goes on sharing them.
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

from dispy.payload import versions
from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import bytecode, special_objects, version_parts
from dispy.payload.by_value.bytecode import Imported
from dispy.payload.by_value.change_stamps import Limited, Sink, TooLarge, attributes_of
from dispy.payload.by_value.functions import functions_in, is_code, is_generic
from dispy.payload.by_value.namespaces import package_of
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.modules.loaded_code import code_of
from dispy.payload.modules.origins import Origin, origin_of

logger = logging.getLogger("dispy.client")

COMPARED_MAX = 1024 * 1024
"""Size (bytes, pickled) up to which an object is sent to be compared with the one on the node.

A larger one is not sent: the node keeps what importing gives. Plain values are sent at any size, and so are globals
that other code than the module's top level has certainly set.
"""

_ATOMS = frozenset({
    "builtins.NoneType", "builtins.bool", "builtins.int", "builtins.float", "builtins.complex", "builtins.str",
    "builtins.bytes", "builtins.ellipsis", "builtins.range", "decimal.Decimal", "fractions.Fraction", "datetime.date",
    "datetime.time", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "uuid.UUID", "re.Pattern",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
})  # fmt: skip
"""Names of the types of plain values: by name, so that their modules need not be imported for the comparison."""

_CONTAINERS = (list, dict, set, frozenset, tuple, collections.deque)
"""Types of containers that are plain values if all that they hold are plain."""

_GENERATED = ("<string>", "<attrs", "<array_function")
"""Beginnings of file names of methods that libraries generate for a class: they are made anew, and not sent."""


class Configured(NamedTuple):
    """Values of a module's globals in the program, pickled.

    Attributes:
        data: The values, pickled, for ``settle``; empty for none.
        modules: Names of the user's own modules that the values need: these are to be sent, too.
        imports: Import statements of functions among the values: the modules that they name are to be sent, too.
    """

    data: bytes
    modules: set[str]
    imports: set[Imported]


def dump_globals(name: str) -> Configured:
    """Pickle the globals of a loaded module that may differ from those that importing it gives.

    A global that only other modules can have set, and that cannot be sent, is logged as a warning: jobs find in it
    what importing the module gives.

    Args:
        name: Name of the module, whose code is known (``loaded_code.code_of``).
    """
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
    """Values of a module's globals, each pickled by itself: one that a node cannot load does not keep out others."""

    def __init__(self) -> None:
        self.pickles: dict[str, bytes] = {}
        """Pickled values, by name of the global: ``settle`` sets them on the node."""
        self.modules: set[str] = set()
        """Names of the user's own modules that the values need: these are to be sent, too."""
        self.imports: set[Imported] = set()
        """Import statements of functions among the values: the modules that they name are to be sent, too."""

    def add(self, key: str, value: Any, limit: int) -> str:
        """Pickle a value into ``pickles``; returns a text that says why that is not possible, empty if it was.

        Args:
            key: Name of the global.
            value: Value of the global, ``ClassValues`` or ``Registrations``; None: there is nothing to send.
            limit: Largest size of the pickle (bytes); beyond it the value is not sent.
        """
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
    """True if a global is still the object that an import statement has bound: then it need not be sent.

    Args:
        value: Value of the global.
        module: Name of the module that the statement imports.
        attribute: Name that it takes from the module; empty if it binds the module itself.
    """
    source = sys.modules.get(module)
    if source is None:
        return False
    if not attribute:
        return isinstance(value, types.ModuleType) and (
            value is source or module.startswith(f"{value.__name__}.")
        )
    return getattr(source, attribute, None) is value or sys.modules.get(f"{module}.{attribute}") is value


class ClassValues:
    """Attributes of a class in the program, which the node compares with those that importing gives the class.

    Args:
        values: The attributes, by name; those of a class within the class as ``ClassValues``.
        registered: Classes that were registered as subclasses (``abc.ABCMeta.register``).
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
        implementations: The implementations, by class.
    """

    __slots__ = ("implementations",)

    def __init__(self, implementations: dict[Any, Any]) -> None:
        self.implementations = implementations

    def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
        return Registrations, (self.implementations,)


def _registrations(function: Any, made: set[types.CodeType]) -> Registrations | None:
    """Returns the implementations that other code than that of the module has registered; None if there are none.

    Args:
        function: Function of ``functools.singledispatch``.
        made: Code of the module and of all functions in it.
    """
    found = {
        kind: implementation
        for kind, implementation in function.registry.items()
        if getattr(implementation, "__code__", None) not in made
    }
    return Registrations(found) if found else None


def _class_values(cls: type, made: set[types.CodeType]) -> ClassValues | None:
    """Returns the attributes of a class that the node compares with its own; None if there are none.

    ``made``: code of the module and of all functions in it. Methods that it has made need not be compared.
    """
    if issubclass(cls, enum.Enum):
        return None  # the module itself makes its members
    values = {}
    for name, value in attributes_of(cls).items():
        if name.startswith("__") and not is_code(value):
            continue
        if isinstance(value, type) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            value = _class_values(value, made)
            if value is not None:
                values[name] = value
        elif is_code(value):
            if versions.is_wanted() and version_parts.is_generated(cls, name):
                continue
            if any(_is_patched(function, made) for function in functions_in(value)):
                values[name] = value
        elif _is_plain(value) or not _why_not(value):
            values[name] = value
    registered = abc._get_dump(cls)[0] if isinstance(cls, abc.ABCMeta) else ()  # type: ignore[attr-defined]
    subclasses = [found for found in (each() for each in registered) if found is not None]
    return ClassValues(values, subclasses) if values or subclasses else None


def _is_patched(function: types.FunctionType, made: set[types.CodeType]) -> bool:
    """True if neither the module nor a library that generates methods has made a function of a class: it is sent."""
    return function.__code__ not in made and not function.__code__.co_filename.startswith(_GENERATED)


def _why_not(value: Any) -> str:
    """Returns why a value cannot be pickled within ``COMPARED_MAX`` bytes; empty if it can."""
    if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType, types.ModuleType)):
        return "it is of the interpreter"
    try:
        Pickler(Sink(COMPARED_MAX)).dump(value)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _set_in_functions(code: types.CodeType) -> set[str]:
    """Returns the names of globals that functions of a module set, such as that of a connection.

    Each process sets its own: no warning is logged if such a global cannot be sent. ``code``: that of the module.
    """
    found: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= bytecode.assigned(constant) | _set_in_functions(constant)
    return found


def _is_plain(value: Any, depth: int = 0) -> bool:
    """True if a value is plain, or a container of plain values: then it is sent at any size.

    Containers more than 20 deep are not plain, unless all that is in them is of built-in types.

    ``depth``: number of containers around it.
    """
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
    """Returns the name of a class as ``_ATOMS`` has it: ``module.Class``."""
    module = kind.__module__.removesuffix("._local")  # of pathlib, in Python 3.13
    return f"{module}.{kind.__qualname__}"


# On the node.


def settle(module: types.ModuleType, data: bytes, warn: Callable[[str], None]) -> None:
    """Set the globals of a module, and attributes of its classes, that differ from the program's.

    Args:
        module: Module that was imported here.
        data: Values of ``dump_globals``, pickled.
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
                continue  # it keeps the value that importing gives
            warn(
                f"global {key} of module {module.__name__} is as importing it gives, and not as in the program: "
                f"{type(error).__name__}: {error}"
            )


def _set(namespace: dict[str, Any], key: str, value: Any) -> None:
    """Set a global to the program's value, if its own differs: in place if possible (``_taken_over``)."""
    mine = namespace.get(key, _MISSING)
    if not _is_same(mine, value):
        namespace[key] = _taken_over(mine, value)


def _settle_class(cls: Any, values: ClassValues) -> None:
    """Set attributes of a class that differ from the program's (``values``), and register subclasses as there.

    Does nothing if ``cls``, what the node has under the name, is no class.
    """
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
"""Stands for the value of a global or attribute that the node lacks: it differs from any value of the program."""


def _is_same(mine: Any, theirs: Any) -> bool:
    """True if two values are one object, or of one type and either equal or pickled to equal bytes.

    A comparison that raises counts as unequal.
    """
    if mine is theirs:
        return True
    if type(mine) is not type(theirs):
        return False
    try:
        if bool(mine == theirs):
            return True
    except Exception:  # raised by arrays, and by comparisons of the user's
        pass
    try:
        return pickle.dumps(mine, PROTOCOL) == pickle.dumps(theirs, PROTOCOL)
    except Exception:
        return False


def _taken_over(mine: Any, theirs: Any) -> Any:
    """Returns the object to which a global or attribute is set so that it has the program's value.

    That is ``mine``, with new content, if both are of one type, and the type is a list, dictionary, set, or class
    whose objects have attributes alone: other code on the node that holds ``mine`` sees the new content. Else it is
    ``theirs``.

    Args:
        mine: Value that the node has; may be changed.
        theirs: Value that the program has sent.
    """
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
