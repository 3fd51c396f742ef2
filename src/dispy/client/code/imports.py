"""Modules of the user's own that are listed in ``depends``: found here with what they import, to be sent as files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

from dispy import payload

ENDINGS = (".py", ".pyc", *EXTENSION_SUFFIXES)
"""Endings of the names of files that Python can import. Files of ``dispy_job_depends`` with such an ending are
modules that the job may import."""


def names_of(items: Iterable[object]) -> set[str]:
    """Returns the full names (``package.module``) of the modules in ``depends``; other items are skipped."""
    return {item.__name__ for item in items if isinstance(item, ModuleType)}


def find_modules(names: Iterable[str]) -> list[tuple[str, str]]:
    """Find the files of modules, and of the modules that they import in turn; installed modules are left out.

    Nothing is imported for that. A module that is not found is left out: the program does without it here, too, as in
    ``try: import …``. Of packages only code is taken; to send their data, too, list the packages in ``depends``.

    Args:
        names: Names of modules; for a submodule the whole package is taken.

    Returns:
        Pairs, in no fixed order: the path of a file here, and its path below the working directory on the nodes.
    """
    found = []
    for module in payload.gather(names, ()):
        if os.path.isfile(module.path):
            name = module.name if module.is_package else module.name.rpartition(".")[0]
            directory = name.replace(".", "/")
            base = os.path.basename(module.path)
            found.append((module.path, f"{directory}/{base}" if directory else base))
    return found
