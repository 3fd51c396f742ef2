"""The names that a job finds in its namespace without importing them, and in ``dispy.job``."""

from __future__ import annotations

import builtins
import importlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from dispy import job

_SIGN = "dispy: node "
"""Beginning of the notes that ``note_missing`` adds: an exception that has one gets no other, and the client finds it
in the traceback."""

_CAUSES_MAX = 10
"""Largest number of exceptions, each the cause of the one before, that are searched for a missing path; further
causes are ignored."""


def offer(
    *,
    node_name: str,
    node_ip_addr: str,
    job_path: str,
    provisional_result: Callable[..., int],
    send_file: Callable[..., int],
    job_seed: Callable[[], int],
    node_logger: logging.Logger,
) -> dict[str, Any]:
    """Have all code of this process find the documented names, as built-ins and partly in ``dispy.job``.

    Returns:
        The names with their values. ``dispy_job_id`` is None, until the worker sets it for each job.
    """
    names = {
        "dispy_node_name": node_name,
        "dispy_node_ip_addr": node_ip_addr,
        "dispy_job_path": job_path,
        "dispy_job_id": None,
        "dispy_provisional_result": provisional_result,
        "dispy_send_file": send_file,
        "dispy_job_seed": job_seed,
        "dispynode_logger": node_logger,
    }
    vars(builtins).update(names)  # pyright: ignore[reportAttributeAccessIssue]  # of a module a dict
    job.node_name, job.node_ip_addr, job.job_path = node_name, node_ip_addr, job_path
    return names


def inject(namespace: dict[str, Any], modules: list[str], names: dict[str, Any]) -> None:
    """Put the documented names, and standard modules, into the computation's namespace.

    Names that the computation defines itself are left alone, except the documented ones.

    Args:
        namespace: Globals of the computation.
        modules: Names of the standard modules that the computation uses without importing them.
        names: The documented names, with their values.
    """
    for name in modules:
        if name not in namespace:
            namespace[name] = importlib.import_module(name)
    namespace.update(names)


def replace(module: ModuleType, names: dict[str, Any]) -> None:
    """Replace the values of documented names that a module of the user's defines itself.

    Such definitions are mostly stand-ins for type checkers, and would hide the built-ins. Names that the module does
    not define are found as built-ins.
    """
    vars(module).update({name: value for name, value in names.items() if name in vars(module)})


def note_missing(error: BaseException, node_name: str, directory: str) -> None:
    """Add a note to an exception of user code if a module, program or file was not found: what is missing, and where.

    The client adds advice if it has the file (``client.session.missing_files``, which looks for the words of the
    note).

    Args:
        error: Exception that was raised.
        node_name: Name of this node.
        directory: The working directory of jobs.
    """
    with suppress(Exception):  # an attribute of a class of the user's may raise anything
        has_not = _what_is_missing(error, directory)
        if has_not and _SIGN not in "".join(getattr(error, "__notes__", ())):
            error.add_note(f"{_SIGN}{node_name} has no {has_not}")


def _what_is_missing(error: BaseException, directory: str) -> str:
    """Returns what an exception says is missing, in words; empty if nothing is, or the path is absolute."""
    if isinstance(error, ModuleNotFoundError):
        return f"module {error.name!r}: list it in depends, or install it there" if error.name else ""
    path, is_command = _missing_path(error)
    if is_command:
        return f"program {path!r} in its PATH: install it there"
    path = _below(path, directory) if path else ""
    return f"{path!r} in the working directory of its jobs" if path and not os.path.isabs(path) else ""


def _missing_path(raised: BaseException) -> tuple[str, bool]:
    """Returns the path that an exception or one of its causes says is missing, and True if it is a command's name.

    The path is empty if none of the first ``_CAUSES_MAX`` of these says so.
    """
    error: BaseException | None = raised
    for _ in range(_CAUSES_MAX):
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            path = error.filename
            if not isinstance(path, (str, bytes, os.PathLike)):
                break
            name = os.fsdecode(path)
            return name, bool(name) and os.sep not in name and _is_command(error, name)
        if error is None:
            break
        error = error.__cause__
    return "", False


def _is_command(error: BaseException, name: str) -> bool:
    """True if the name was looked for in ``PATH``.

    ``subprocess`` raises the same error for the directory to start a command in: then ``cwd`` is the name.
    """
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    if frames is None or frames.tb_frame.f_globals.get("__name__") != "subprocess":
        return False
    return bool(frames.tb_frame.f_locals.get("cwd") != name)


def _below(path: str, directory: str) -> str:
    """Returns a path as one relative to the working directory of jobs if it leads below that directory; otherwise as
    an absolute path. A relative path counts from where the process is now."""
    with suppress(OSError):
        path = os.path.normpath(os.path.join(os.getcwd(), path))
    for base in (directory, os.path.realpath(directory)):
        if path.startswith(f"{base}{os.sep}"):
            return path[len(base) + 1 :]
    return path
