"""Modules of the user's own that code imports by name while it runs: found here, so that they can be sent."""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from itertools import islice
from types import ModuleType

from dispy import payload

logger = logging.getLogger("dispy.client")

MODULE_FILES_MAX = 1000
"""Of a package that nobody has named: reading and sending so many takes less than a second."""

ENDINGS = (".py", *EXTENSION_SUFFIXES)
"""Of files that can be imported."""


def names_of(items: Iterable[object]) -> set[str]:
    """Names of the modules among what is listed in ``depends``."""
    return {item.__name__ for item in items if isinstance(item, ModuleType)}


def find_modules(names: Iterable[str]) -> list[tuple[str, str]]:
    """The files of modules that are not installed, and of those that they import in turn.

    Nothing is imported for that. What is not found is not needed here either, as in ``try: import …``. Of packages
    only code is taken: who wants the data in them, too, lists them in ``depends``.

    Args:
        names: Of modules; of submodules the whole package is taken.

    Returns:
        Paths of files, and where they are to lie.
    """
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    left = sorted({_top(name) for name in names})
    while left:
        top = left.pop()
        if top in seen:
            continue
        seen.add(top)
        files = list(islice(_files_of(top), MODULE_FILES_MAX + 1))
        if len(files) > MODULE_FILES_MAX:
            logger.warning(
                "the computation imports %s, of more than %d files, which are not sent unasked; "
                "list it in depends, or install it on the nodes",
                top, MODULE_FILES_MAX,
            )  # fmt: skip
            continue
        found += files
        for path, _ in files:
            if path.endswith(".py"):
                left += _imported_by(path)
    return found


def _top(name: str) -> str:
    return name.partition(".")[0]


def _files_of(top: str) -> Iterator[tuple[str, str]]:
    if top in sys.stdlib_module_names or top in ("", "dispy", "__main__"):
        return
    module = sys.modules.get(top)
    try:
        spec = getattr(module, "__spec__", None) or PathFinder.find_spec(top)
    except (ImportError, ValueError, OSError):
        return
    if spec is None:
        return
    for place in spec.submodule_search_locations or ():
        if os.path.isdir(place) and not payload.lies_with_packages(place):
            yield from _code_below(place, top)
    if spec.submodule_search_locations is None and spec.origin and os.path.isfile(spec.origin):
        name = os.path.basename(spec.origin)
        if name.endswith(ENDINGS) and not payload.lies_with_packages(spec.origin):
            yield spec.origin, name


def _code_below(place: str, top: str) -> Iterator[tuple[str, str]]:
    for directory, names, files in os.walk(place):
        names[:] = sorted(name for name in names if name.isidentifier() and name != "__pycache__")
        below = os.path.relpath(directory, place)
        for name in sorted(files):
            if name.endswith(ENDINGS):
                path = f"{directory}/{name}"
                yield path, f"{top}/{name}" if below == "." else f"{top}/{below}/{name}"


def _imported_by(path: str) -> Iterator[str]:
    """Top names of what a source file imports; what is relative is in the same package."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _top(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield _top(node.module)
