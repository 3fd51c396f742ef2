"""Names for use in jobs: ``from dispy.job import node_name, provisional_result``.

They mean the same as the bare names of dispy 4 (``dispy_node_name``, ``dispy_provisional_result``, …), and checkers
and editors know them. Import them at the top of a script or module, or in the function.

Names with one value for all jobs of a node are variables: ``node_name``, ``node_ip_addr``, ``job_path``,
``node_logger``. Names whose value differs from job to job, or that do something, are functions: ``job_id()``,
``job_seed()``, ``provisional_result(value)``, ``send_file(path)``.

Outside of a job, for instance in a test of the function, texts are empty and ``job_id()`` is None. Functions that
send something do nothing, return -1, and log one warning each.
"""

from __future__ import annotations

import builtins
import logging
import os
from typing import Any

__all__ = [
    "job_id",
    "job_path",
    "job_seed",
    "node_ip_addr",
    "node_logger",
    "node_name",
    "provisional_result",
    "send_file",
]


def _in_program(name: str) -> str:
    """Returns a value for a program that is a computation itself (not a function), from the environment variable
    ``dispy_NAME`` that the node sets for it; empty outside of such a program."""
    return os.environ.get(f"dispy_{name}", "")


class _OfNode(str):
    """A text with another value on each node: when unpickled, it takes the value of the node where it arrives.

    So it is right however a function holds it: as a global, a closure variable, a default or an argument.
    """

    _name: str
    """Name of the variable of this module whose value it takes: "node_name", "node_ip_addr" or "job_path"."""

    def __new__(cls, name: str) -> _OfNode:
        made = super().__new__(cls, _in_program(name))
        made._name = name
        return made

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _here, (self._name,)


def _here(name: str) -> Any:
    """Returns the value that a variable of this module has in this process; pickles of ``_OfNode`` call this."""
    return globals()[name]


# On a node, the host process (which runs the jobs of one computation) assigns these before it loads any code of the
# user.

node_name: str = _OfNode("node_name")
"""Name of the node that runs the job. Empty outside of a job."""

node_ip_addr: str = _OfNode("node_ip_addr")
"""IP address by which the program knows the node, as ``job.ip_addr`` there. Empty outside of a job."""

job_path: str = _OfNode("job_path")
"""Absolute path of the directory in which the job starts, with the files of ``depends``. Empty outside of a job, so
that ``os.path.join(job_path, ...)`` gives a path relative to the current directory there."""

node_logger = logging.getLogger("dispynode")
"""Logger that writes to the log of the node, not to the output of the job: for its operator, not for the program."""


def job_id() -> Any:
    """Returns the id of the running job, ``job.id`` in the program. None in a ``map``, and outside of a job."""
    named = _in_program("job_id") or None
    return vars(builtins).get("dispy_job_id", named)


def job_seed() -> int:
    """Returns a 32-bit seed for the random numbers of the running job: see docs/how-to/random-numbers.md.

    Each call in one job, or for one item of a ``map``, returns the same number. Outside of a job each call returns
    another random number.

    Raises:
        RuntimeError: This is a process of jobs, and no job is running in it (in ``setup``, for instance).
    """
    seed = vars(builtins).get("dispy_job_seed")
    if seed is not None:
        return int(seed())
    return int(_in_program("job_seed") or int.from_bytes(os.urandom(4)))


_AS_CONFIGURED = float("nan")
"""Default of ``timeout``, compared by identity (``is``): wait for ``dispy.config.MsgTimeout`` seconds of the program.
None means no limit, so it cannot be the default."""


def provisional_result(result: Any, relay: bool = False, timeout: float | None = _AS_CONFIGURED) -> int:
    """Send a value to the program before the job ends. Waits until the value has arrived.

    Args:
        result: The value: anything that a job could return.
        relay: Accepted for dispy 4, without effect: values take the same path as results.
        timeout: Seconds to wait; if not given, ``dispy.config.MsgTimeout`` of the program. None: no limit.

    Returns:
        0 if the program has the value; -1 if it did not arrive in time, or this is not a job.
    """
    return _call("provisional_result", result, relay, timeout)


def send_file(
    path: str | os.PathLike[str], relay: bool = False, timeout: float | None = _AS_CONFIGURED
) -> int:
    """Send a file to the program before the job ends. Waits until the whole file has arrived.

    Args:
        path: Path of the file on the node.
        relay: Accepted for dispy 4, without effect: files take the same path as results.
        timeout: Seconds without progress after which the file is given up; if not given,
            ``dispy.config.MsgTimeout`` of the program. None: no limit.

    Returns:
        0 if the program has the file; -1 if not (the log of the node says why), or if this is not a job.
    """
    return _call("send_file", path, relay, timeout)


_has_warned: set[str] = set()
"""Names of functions that have logged the warning that they are called outside of a job: each logs it once."""


def _call(name: str, value: Any, relay: bool, timeout: float | None) -> int:
    """Call the built-in function ``dispy_NAME`` that the job's process has; returns its result (0 or -1).

    Outside of a job there is none: a warning is logged, once for each name, and -1 returned.
    """
    offered = vars(builtins).get(f"dispy_{name}")
    if offered is None:
        if name not in _has_warned:
            _has_warned.add(name)
            node_logger.warning("dispy.job.%s is called outside of a job: nothing is sent", name)
        return -1
    sent: int = offered(value, relay) if timeout is _AS_CONFIGURED else offered(value, relay, timeout)
    return sent
