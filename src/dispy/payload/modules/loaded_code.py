"""Modules that the program has loaded: their code as it runs, and objects that they hold.

Modules are sent as they run in the program, even if a file has changed since it was imported. If the code of the file
is not the code that runs, the bytecode cache may have that; if it has not, objects of the module go by value.
"""

from __future__ import annotations

import importlib.util
import logging
import marshal
import os
import sys
import time
import types
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

from dispy.payload.by_value import bytecode
from dispy.payload.modules.origins import own_modules

logger = logging.getLogger("dispy.client")

_codes: dict[str, tuple[types.ModuleType, Any, types.CodeType | None]] = {}
"""Answers of ``code_of``, by name of the module: the module, its specification and its code (None: not found).

An entry counts as long as module and specification are the ones in use: a module that is reloaded gets another
specification.
"""


def can_be_sent(name: str | None) -> bool:
    """True if a loaded module can be imported elsewhere as it runs here; if not, its objects go by value."""
    return name is not None and code_of(name) is not None


def code_of(name: str) -> types.CodeType | None:
    """Returns the code that a loaded module of the user's own was made by; None if it cannot be found any more."""
    module = sys.modules.get(name)
    if module is None:
        return None
    known = _codes.get(name)
    if known is None or known[0] is not module or known[1] is not module.__spec__:
        known = _codes[name] = module, module.__spec__, _find_code(name, module)
    return known[2]


def imported_by(name: str) -> set[str]:
    """Returns the names of modules that a loaded module may import, also in its functions.

    For ``from a import b`` these are ``a`` and ``a.b``, of which the second may be no module. Empty if the code of
    the module is unknown.
    """
    module, code = sys.modules[name], code_of(name)
    if code is None:
        return set()
    package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
    found: set[str] = set()
    for statement in bytecode.imports(code, package):
        found.add(statement.module)
        found.update(f"{statement.module}.{each}" for each in statement.names)
    return found


def look_again() -> None:
    """Forget the code of modules whose functions were replaced, as by tools that reload parts of modules.

    ``code_of`` looks for it anew then. ``dump_code`` calls this for each computation.
    """
    for name, (module, _, code) in list(_codes.items()):
        if code is not None and sys.modules.get(name) is module and _has_functions_since(module):
            del _codes[name]


_seen: dict[str, dict[str, types.CodeType]] = {}
"""Code of functions when ``look_again`` looked last, by name of the module and then by name of the function."""


def _has_functions_since(module: types.ModuleType) -> bool:
    """True if functions of a module have other code than at the last call; notes the code that they have now.

    False at the first call.
    """
    now = {
        function.__qualname__: function.__code__
        for value in list(vars(module).values())
        for function in _functions(value, module.__name__)
    }
    before = _seen.get(module.__name__)
    _seen[module.__name__] = now
    return before is not None and any(before.get(name, code) is not code for name, code in now.items())


def _find_code(name: str, module: types.ModuleType) -> types.CodeType | None:
    """Returns the code that a module was made by, from its file or the bytecode cache; None if neither has it."""
    spec: Any = module.__spec__
    path = getattr(module, "__file__", None)
    if path is None:
        return _EMPTY  # a namespace package
    if path.endswith(tuple(EXTENSION_SUFFIXES)):
        return _EMPTY  # its file is sent: ``code.Dumped.extensions``
    try:
        code: types.CodeType | None = spec.loader.get_code(name)
    except Exception:
        code = None
    if code is None:
        code = _compile(path)
    if code is None or not is_changed(path) or _made_by(code, module):
        return code
    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            cached: types.CodeType = marshal.loads(file.read()[16:])
    except (OSError, ValueError, EOFError, TypeError, NotImplementedError):
        cached = code
    if _made_by(cached, module):
        return cached
    logger.warning(
        "%s has changed since the program has imported it: what jobs use of module %s goes by value",
        path, name,
    )  # fmt: skip
    return None


_EMPTY = compile("", "<nothing>", "exec")
"""Code that stands for that of modules without Python code: namespace packages and compiled modules."""


def _compile(path: str) -> types.CodeType | None:
    """Returns the code of a file; None if it cannot be read or compiled."""
    try:
        with open(path, "rb") as file:
            return compile(file.read(), path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None


def _start_time() -> float:
    """Returns the time at which this process began (seconds since the epoch); 0 if the system does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


_started: list[float] = []
"""Time at which this process began (seconds since the epoch), as the only item; empty until it is asked for."""


def started_ns() -> float:
    """Returns the time at which this process began (nanoseconds since the epoch; 0 if the system does not tell).

    Files that have not changed since are as they were when the program imported them.
    """
    if not _started:
        _started.append(_start_time())
    return _started[0] * 1e9


def is_changed(path: str) -> bool:
    """True if a file may have changed since the program began: its code may not be the one that runs.

    Times of change (of content and inode) count from 1 s before the program began. That of the inode cannot be set
    back. A file in an archive counts as unchanged.
    """
    try:
        found = os.stat(path)
    except OSError:
        return False  # in an archive
    return max(found.st_mtime, found.st_ctime) >= started_ns() / 1e9 - 1


def _made_by(code: types.CodeType, module: types.ModuleType) -> bool:
    """True if the functions of a module are those that some code makes: then this is the code that runs.

    Functions whose code is of another file are not compared.
    """
    known = set(bytecode.nested(code))
    for value in vars(module).values():
        for function in _functions(value, module.__name__):
            if function.__code__.co_filename == code.co_filename and function.__code__ not in known:
                return False
    return True


def _functions(value: Any, module: str) -> Iterator[types.FunctionType]:
    """Yields the functions of a global (``value``) that a module has defined: itself, or the methods of a class.

    Nothing is yielded for any other value. ``module``: name of the module.
    """
    if isinstance(value, type) and value.__module__ == module:
        for item in vars(value).values():
            function = getattr(item, "__func__", item)
            if isinstance(function, types.FunctionType):
                yield function
    elif isinstance(value, types.FunctionType) and value.__module__ == module:
        yield value


# Objects that own modules have made.

PLAIN = (
    type(None), bool, int, float, complex, str, bytes, tuple, frozenset, types.FunctionType, type, types.ModuleType,
    types.BuiltinFunctionType,
)  # fmt: skip
"""Types of values that ``find_home`` skips: copies of them are as good, or they go by a name of their own."""


def find_home(value: Any) -> tuple[str, str] | None:
    """Returns module and name of an object, such as a lock, that is a global of a module of the user's; or None.

    Pickles name such an object: a copy would not be the one that the module's own functions use.
    """
    if isinstance(value, PLAIN):
        return None
    for name in own_modules():
        for key, other in list(getattr(sys.modules.get(name), "__dict__", {}).items()):
            if other is value and not key.startswith("__"):
                return name, key
    return None
