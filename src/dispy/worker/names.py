"""The names that a job finds in its namespace without importing them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any


def inject(
    namespace: dict[str, Any],
    modules: list[str],
    *,
    node_name: str,
    node_ip_addr: str,
    job_path: str,
    provisional_result: Callable[..., int],
    send_file: Callable[..., int],
    node_logger: logging.Logger,
) -> None:
    """Put the documented names into a computation's namespace.

    Names that the computation defines itself are left alone, except the documented ones.
    """
    for name in modules:
        if name not in namespace:
            namespace[name] = importlib.import_module(name)
    namespace.update(
        dispy_node_name=node_name,
        dispy_node_ip_addr=node_ip_addr,
        dispy_job_path=job_path,
        dispy_job_id=None,
        dispy_provisional_result=provisional_result,
        dispy_send_file=send_file,
        dispynode_logger=node_logger,
    )


def note_missing(error: BaseException, node_name: str) -> None:
    """Add to an exception of user code, if a module was not found, what to do so that it is."""
    if isinstance(error, ModuleNotFoundError) and error.name and not hasattr(error, "__notes__"):
        error.add_note(
            f"dispy: node {node_name} has no module {error.name!r}: list it in depends, or install it there"
        )
