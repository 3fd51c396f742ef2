"""Origins of modules: installed ones that nodes have too, the user's own that are sent, and those sent by value."""

from __future__ import annotations

import enum
import functools
import glob
import os
import sys
from types import ModuleType

import cloudpickle


class Origin(enum.Enum):
    """Origin of a module, which decides how its objects travel.

    Attributes:
        INSTALLED: The module comes with Python or a package. Nodes have it, and its objects go by name.
        OWN: The module is the user's and can be imported. It is sent and imported on nodes; its objects go by name.
        VALUE: The module is the user's and cannot be imported: a script, a notebook, or a module that was made while
            the program runs. The parts of it that are used go by value.
    """

    INSTALLED = 1
    OWN = 2
    VALUE = 3


MAINS = frozenset({"__main__", "__mp_main__"})
"""Names of the script: as Python has it, and in processes of ``multiprocessing``."""

_PARTS = ("site-packages", "dist-packages")
"""Names of directories into which packages are installed, also by Debian: a file anywhere below one is installed."""


@functools.cache
def _package_directories() -> tuple[str, ...]:
    """Returns the directories where Python and packages keep their modules: real paths that end with a slash.

    Called when needed, and once: it takes 8 ms.
    """
    import site
    import sysconfig

    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [paths[name] for name in names if name in paths]
    found += getattr(site, "getsitepackages", list)()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return tuple({os.path.realpath(path) + os.sep: None for path in found})


def lies_with_packages(path: str) -> bool:
    """True if a file is where Python or packages keep their modules, by its path or with links resolved.

    Such a file is not the user's own, and is not sent.
    """
    if _is_below_packages(path):
        return True
    real = os.path.realpath(path)
    return real != path and _is_below_packages(real)


def _is_below_packages(path: str) -> bool:
    """True if a path, as it is written, is below a directory of Python or of packages."""
    return path.startswith(_package_directories()) or any(
        f"{os.sep}{part}{os.sep}" in path for part in _PARTS
    )


@functools.cache
def holds_distribution(directory: str, top: str) -> bool:
    """True if a package with this module was installed into a directory, as by ``pip install --target``.

    The answer is kept for the life of the process.

    Args:
        directory: Path of the directory.
        top: Top name of the module.
    """
    for record in glob.glob(f"{glob.escape(directory)}/*.dist-info/RECORD"):
        try:
            with open(record, encoding="utf-8", errors="replace") as file:
                if any(line.startswith((f"{top}/", f"{top}.")) for line in file):
                    return True
        except OSError:
            continue
    return False


def library_paths() -> list[str]:
    """Returns directories on ``sys.path`` into which the user has installed packages (``pip install --target``).

    Absolute paths, in the order of ``sys.path``. Workers whose machine has such a directory search it, too.
    """
    found = []
    for path in sys.path:
        if path and not lies_with_packages(f"{path}/x") and glob.glob(f"{glob.escape(path)}/*.dist-info"):
            found.append(os.path.abspath(path))
    return found


_known: dict[str, tuple[ModuleType | None, Origin]] = {}
"""Answers of ``_judge``, by name, each with the module that had the name: another one of the name is judged anew."""


def origin_of(name: str | None) -> Origin:
    """Returns the origin of a module, by its name as objects have it (``__module__``); VALUE for None.

    Each module of a namespace package is judged by its own file.
    """
    if name is None or name in MAINS:
        return Origin.VALUE
    if name == "builtins" or name == "dispy" or name.startswith("dispy."):
        return Origin.INSTALLED
    module = sys.modules.get(name)
    known = _known.get(name)
    if known is not None and known[0] is module:
        answer = known[1]
    else:
        answer = _judge(name, module)
        if module is not None:
            _known[name] = (module, answer)
    return Origin.VALUE if answer is Origin.OWN and is_registered(name) else answer


def is_installed(name: str | None) -> bool:
    """True if nodes have a module by themselves, as it comes with Python or a package: its objects go by name."""
    return origin_of(name) is Origin.INSTALLED


def is_registered(name: str) -> bool:
    """True if a module, or a package above it, was registered by ``cloudpickle.register_pickle_by_value``.

    Objects of the user's own modules go by value then.
    """
    registered = cloudpickle.list_registry_pickle_by_value()
    if not registered:
        return False
    while name not in registered:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return False
    return True


def _judge(name: str, module: ModuleType | None) -> Origin:
    """Returns the origin of a module, from its files and its specification.

    Args:
        name: Name of the module, as objects have it.
        module: The module; None if none of this name is loaded (``Origin.VALUE``).
    """
    if not isinstance(module, ModuleType):
        return Origin.VALUE
    top, dot, _ = name.partition(".")
    package = sys.modules.get(top)
    if dot and getattr(package, "__file__", None) and len(getattr(package, "__path__", ())) == 1:
        if origin_of(top) is Origin.INSTALLED:
            return Origin.INSTALLED  # without a look at each of a thousand files
    spec = getattr(module, "__spec__", None)
    places = [getattr(module, "__file__", None) or ""]
    if not places[0]:
        places = [str(place) for place in getattr(module, "__path__", ())]
    if not any(places):
        # Built into Python, or made while the program runs.
        return (
            Origin.INSTALLED if spec is not None and spec.origin in ("built-in", "frozen") else Origin.VALUE
        )
    if any(lies_with_packages(place) for place in places):
        return Origin.INSTALLED if all(map(lies_with_packages, places)) else Origin.OWN
    if is_library(name, places[0]):
        return Origin.INSTALLED
    if spec is None or spec.name != name or not getattr(spec, "loader", None):
        return Origin.VALUE
    if dot and name.rpartition(".")[0] not in sys.modules:
        return Origin.VALUE  # loaded by its path under such a name: no import statement finds it
    return Origin.OWN


def is_library(name: str, path: str) -> bool:
    """True if a module belongs to a package with compiled parts, installed into a directory of the user's.

    Such a module counts as installed: nodes need the package, too. Packages of Python code alone are sent from there.
    """
    top = name.partition(".")[0]
    directory = os.path.dirname(path)
    for _ in range(name.count(".") + (os.path.basename(path).startswith("__init__."))):
        directory = os.path.dirname(directory)
    return holds_distribution(directory, top) and _is_compiled(directory, top)


@functools.cache
def _is_compiled(directory: str, top: str) -> bool:
    """True if a module or package (``top``) in a directory has compiled parts (``.so``), at any depth.

    The answer is kept for the life of the process.
    """
    root = f"{glob.escape(directory)}/{glob.escape(top)}"
    return bool(glob.glob(f"{root}*.so") or glob.glob(f"{root}/**/*.so", recursive=True))


_looked: tuple[int, str] = (0, "")
"""Number and last name of the loaded modules at the last ``_look``: while they are equal, answers are kept."""
_local: tuple[bytes, ...] = ()
"""Answer of ``local_modules``: top names of the user's own modules, encoded, sorted; made by ``_look``."""
_own: tuple[str, ...] = ()
"""Answer of ``own_modules``: names of the user's modules that can be imported; made by ``_look``."""
_value: tuple[str, ...] = ()
"""Answer of ``value_modules``: names of modules that go by value; made by ``_look``."""
_below: dict[str, list[str]] = {}
"""Answers of ``modules_below``: by name of the package, the names of its modules; emptied by ``_look``."""


def _look() -> None:
    """Gather the user's own modules again if the number of loaded modules or the name of the last one has changed.
    A module that takes the place of another is the last one, so that this is noticed, too.
    """
    global _looked, _local, _own, _value
    if _looked == (len(sys.modules), next(reversed(sys.modules), "")):
        return
    loaded = list(sys.modules)
    tops: set[str] = {"__main__"}
    own = []
    value = []
    for name in loaded:
        origin = origin_of(name)
        if origin is not Origin.INSTALLED:
            tops.add(name.partition(".")[0])
        if origin is Origin.OWN:
            own.append(name)
        elif origin is Origin.VALUE and name not in MAINS:
            value.append(name)
    _local = tuple(top.encode() for top in sorted(tops))
    _own = tuple(own)
    _value = tuple(value)
    _below.clear()
    _looked = len(loaded), loaded[-1]


def local_modules() -> tuple[bytes, ...]:
    """Returns the top names (``a`` of ``a.b``) of the loaded modules that are the user's own, sorted.

    They are encoded as they stand in pickles, and the script's ``__main__`` is always among them.
    """
    _look()
    return _local


def own_modules() -> tuple[str, ...]:
    """Returns the names of the loaded modules that are the user's own and can be imported, in order of loading."""
    _look()
    return _own


def value_modules() -> tuple[str, ...]:
    """Returns the names of the loaded modules, besides the script, that go by value, in the order of loading."""
    _look()
    return _value


def modules_below(name: str) -> list[str]:
    """Returns the names of the loaded modules below a package, at any depth, in the order of loading."""
    _look()
    found = _below.get(name)
    if found is None:
        prefix = f"{name}."
        found = _below[name] = [each for each in list(sys.modules) if each.startswith(prefix)]
    return found
