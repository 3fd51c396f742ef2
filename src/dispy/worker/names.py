"""The names that a job finds in its namespace without importing them, and in ``dispy.job``."""

from __future__ import annotations

import builtins
import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dispy import job


def offer(
    *,
    node_name: str,
    node_ip_addr: str,
    job_path: str,
    provisional_result: Callable[..., int],
    send_file: Callable[..., int],
    node_logger: logging.Logger,
) -> dict[str, Any]:
    """Have the documented names found by all code of this process, as built-ins are; returns them."""
    names = {
        "dispy_node_name": node_name,
        "dispy_node_ip_addr": node_ip_addr,
        "dispy_job_path": job_path,
        "dispy_job_id": None,
        "dispy_provisional_result": provisional_result,
        "dispy_send_file": send_file,
        "dispynode_logger": node_logger,
    }
    vars(builtins).update(names)
    job.node_name, job.node_ip_addr, job.job_path = node_name, node_ip_addr, job_path
    return names


def inject(namespace: dict[str, Any], modules: list[str], names: dict[str, Any]) -> None:
    """Put the documented names, and standard modules, into the computation's namespace.

    Names that the computation defines itself are left alone, except the documented ones.

    Args:
        namespace: Of the computation.
        modules: Names of the standard modules that it uses without importing them.
        names: The documented names.
    """
    for name in modules:
        if name not in namespace:
            namespace[name] = importlib.import_module(name)
    namespace.update(names)


def replace(module: ModuleType, names: dict[str, Any]) -> None:
    """Give a module of the user's the documented names where it defines them itself, for checkers mostly."""
    vars(module).update({name: value for name, value in names.items() if name in vars(module)})


def note_missing(error: BaseException, node_name: str) -> None:
    """Add to an exception of user code, if a module was not found, what to do so that it is."""
    if isinstance(error, ModuleNotFoundError) and error.name and not hasattr(error, "__notes__"):
        error.add_note(
            f"dispy: node {node_name} has no module {error.name!r}: list it in depends, or install it there"
        )
