"""Which modules the other side can import, and which are the user's own."""

from __future__ import annotations

import functools
import os
import sys
import types


@functools.cache
def _package_directories() -> tuple[str, ...]:
    """Where Python and packages keep their modules. Not asked before it is needed: it takes 8 ms."""
    import sysconfig

    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(os.path.realpath(paths[name]) + os.sep for name in names if name in paths)


_installed: dict[str, bool] = {"__main__": False, "__mp_main__": False, "builtins": True, "dispy": True}

_names_of_local: tuple[int, tuple[bytes, ...]] = (0, ())


def is_installed(module: str | None) -> bool:
    """Whether a module comes with Python or a package, so that a node has it too."""
    if module is None:
        return False
    answer = _installed.get(module)
    if answer is None:
        top = module.partition(".")[0]
        answer = _installed.get(top)
        if answer is None:
            answer = _lies_with_packages(sys.modules.get(top))
            if top in sys.modules:
                _installed[top] = answer
    return answer


def _lies_with_packages(module: types.ModuleType | None) -> bool:
    if module is None:
        return False
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if origin is None:
        return getattr(module, "__spec__", None) is not None
    return lies_with_packages(origin)


def lies_with_packages(path: str) -> bool:
    """Whether it is where Python or packages keep their modules."""
    path = os.path.realpath(path)
    return path.startswith(_package_directories()) or f"{os.sep}site-packages{os.sep}" in path


def local_modules() -> tuple[bytes, ...]:
    """Names of the loaded modules that are the user's own, as they would stand in a pickle."""
    global _names_of_local
    count, names = _names_of_local
    if count != len(sys.modules):
        count = len(sys.modules)
        tops = {name.partition(".")[0] for name in list(sys.modules)}
        names = tuple(top.encode() for top in sorted(tops) if not is_installed(top))
        _names_of_local = (count, names)
    return names
