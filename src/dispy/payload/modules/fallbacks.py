"""Fallback for nodes that cannot import a module: the part of it that jobs use, by value.

An import may fail where a library, a file or a display is missing. Modules whose top level needs none of these are
sent without such a part. Of any other module the part is pickled as the code of a script is, and costs as much.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable

from dispy.payload.by_value import bytecode
from dispy.payload.by_value.change_stamps import Limited
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.modules.loaded_code import code_of, imported_by
from dispy.payload.modules.origins import Origin, origin_of

FALLBACK_MAX = 1024 * 1024
"""Size (bytes, pickled) up to which the used part of a module is sent by value, too.

Of a larger one it is not: code that uses the module fails on a node that cannot import it.
"""

_SURROUNDINGS = frozenset({
    "dispy",
    "os", "sys", "pathlib", "io", "posix", "posixpath", "socket", "subprocess", "urllib", "http", "ctypes", "ssl",
    "multiprocessing", "importlib", "pkgutil", "sqlite3", "shutil", "tempfile", "glob", "getpass", "pwd", "locale",
})  # fmt: skip
"""Modules that depend on the machine: a module whose top level uses one is sent with its used part by value."""

_OPTIONAL = frozenset({
    "tkinter", "_tkinter", "turtle", "curses", "readline", "sqlite3", "lzma", "bz2", "dbm", "ctypes", "ssl",
})  # fmt: skip
"""Modules of Python itself that some machines lack: a module that imports one is sent with its used part."""

_OPENING = frozenset({"open", "exit", "quit", "input", "exec", "eval", "__file__"})
"""Names by which a top level may depend on files or the terminal: such a module is sent with its used part."""


def dump_fallbacks(pickler: Pickler, names: Iterable[str]) -> dict[str, bytes]:
    """Pickle the used parts of modules whose import may fail elsewhere: nodes then take the part.

    Args:
        pickler: Pickler of the code that uses the modules.
        names: Names of all modules that are sent.

    Returns:
        Pickled part by name of the module; modules whose part is too large or cannot be pickled are left out.
    """
    failing = _failing({name for name in names if name in sys.modules})
    used = {name: set(uses) for name, uses in pickler.used.items()}
    for name in pickler.modules:
        used.setdefault(name, set()).update(pickler.names & vars(sys.modules[name]).keys())
    # Importers first: their uses of other modules are known when the turn of these comes.
    left = [name for name in _importers_first(failing) if name in used]
    found: dict[str, bytes] = {}
    while left:
        name = left.pop(0)
        for other, uses in _dump_fallback(name, used[name], found).items():
            if other in failing and not uses <= used.setdefault(other, set()):
                used[other] |= uses
                if other not in left:
                    left.append(other)
    return found


def _dump_fallback(name: str, used: set[str], found: dict[str, bytes]) -> dict[str, set[str]]:
    """Pickle the used part of a module.

    Args:
        name: Name of the module.
        used: Names of the module's globals that jobs use.
        found: Dictionary that gets the pickle, by name of the module; an older one is dropped if the part is too
            large or cannot be pickled.

    Returns:
        Names that the part uses of other modules, by module; empty if the part cannot be sent.
    """
    stream = Limited(FALLBACK_MAX)
    pickler = Pickler(stream, is_inline=True, only=name)
    namespace = vars(sys.modules[name])
    try:
        pickler.dump(pickler.stamped(namespace, sorted(used & namespace.keys())))
    except Exception:  # it cannot be sent by value
        found.pop(name, None)
        return {}
    found[name] = stream.getvalue()
    own = pickler.used
    for other in pickler.modules:
        own.setdefault(other, set()).update(pickler.names & vars(sys.modules[other]).keys())
    own.pop(name, None)
    return own


def _failing(names: set[str]) -> set[str]:
    """Returns the names of modules whose import may fail on other machines: by themselves, or by what they import."""
    failing = {name for name in names if _may_fail(sys.modules[name])}
    while True:
        more = {name for name in names - failing if imported_by(name) & failing}
        if not more:
            return failing
        failing |= more


def _may_fail(module: types.ModuleType) -> bool:
    """True if the top level of a module may fail on another machine, other than by importing sent modules."""
    code = code_of(module.__name__)
    if code is None:
        return True
    if bytecode.raises(code) or not _OPENING.isdisjoint(code.co_names):
        return True
    for name in imported_by(module.__name__):
        top = name.partition(".")[0]
        if name in _OPTIONAL or top in _OPTIONAL:
            return True
        if top not in sys.stdlib_module_names and origin_of(top) is Origin.INSTALLED and top != "dispy":
            return True
    for name in bytecode.names_used(code):
        value = vars(module).get(name)
        home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(home, str) and home.partition(".")[0] in _SURROUNDINGS:
            return True
    return False


def _importers_first(names: set[str]) -> list[str]:
    """Returns a list of the names, in which each module is before those that it imports.

    In a circle of imports one module stands behind a module that it imports.
    """
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        """Append a module to ``order`` behind those that it imports (``order`` is reversed in the end).

        Nothing is done at a second visit.
        """
        if name in seen:
            return
        seen.add(name)
        for other in sorted(imported_by(name) & names):
            visit(other)
        order.append(name)

    for name in sorted(names):
        visit(name)
    return order[::-1]
