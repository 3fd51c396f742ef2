"""Batches of joblib in workers: what is imported there, with nothing of the program's side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.parallel import BACKENDS, SequentialBackend, parallel_config

NAME = "dispy"
"""Name of the backend in joblib."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""Function, positional and keyword arguments."""

is_in_batch = False
"""True in a worker that runs batches: ``Parallel`` is sequential there."""


def run_batch(calls: list[Call], level: int) -> list[Any]:
    """Make the calls of a batch, in a worker; returns their results in order.

    Args:
        calls: What is to be called.
        level: Depth of ``Parallel`` in ``Parallel`` that the calls find.
    """
    global is_in_batch
    is_in_batch = True
    BACKENDS.setdefault(NAME, sequential)  # a call may ask for the backend that it runs on
    with parallel_config(backend=SequentialBackend(nesting_level=level), n_jobs=None):
        return [function(*args, **kwargs) for function, args, kwargs in calls]


def sequential(nesting_level: int | None = None, **_: Any) -> Any:
    """Returns the backend of a ``Parallel`` that asks for "dispy" in a call: the CPUs have work already.

    Args:
        nesting_level: Depth of ``Parallel`` in ``Parallel``; None: joblib finds it out.
    """
    return SequentialBackend(nesting_level=nesting_level)
