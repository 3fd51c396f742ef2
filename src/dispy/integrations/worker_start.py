"""How numerical libraries begin on a node: with the environment variables that they read when they are loaded.

Nothing of theirs is imported at the top of this module, and nothing that imports them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def start_node(values: dict[str, str], modules: tuple[str, ...]) -> None:
    """Set environment variables, then import modules, in the host process, whose workers have both by their fork.

    Args:
        values: The variables.
        modules: Names of modules; of one that cannot be imported the first call tells, which needs it.
    """
    os.environ.update(values)
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)


def start_worker(values: dict[str, str], initializer: Callable[..., object], *initargs: Any) -> None:
    """Set environment variables, then call the initializer of the user, in each worker."""
    os.environ.update(values)
    initializer(*initargs)
