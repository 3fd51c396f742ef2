"""Modules of the user's own that are listed in ``depends``: found here with what they import, to be sent as files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

from dispy import payload

ENDINGS = (".py", ".pyc", *EXTENSION_SUFFIXES)
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
    found = []
    for module in payload.gather(names, ()):
        if os.path.isfile(module.path):
            name = module.name if module.is_package else module.name.rpartition(".")[0]
            directory = name.replace(".", "/")
            base = os.path.basename(module.path)
            found.append((module.path, f"{directory}/{base}" if directory else base))
    return found
