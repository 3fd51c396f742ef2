"""Names that a job finds, to be imported: ``from dispy.job import node_name, provisional_result``.

They mean what the bare names mean (``dispy_node_name``, ``dispy_provisional_result``, …), and checkers and
editors know them. Import them at the top of a script or module, or in the function.

Values are those that all jobs of a node share: ``node_name``, ``node_ip_addr``, ``job_path``, ``node_logger``.
Functions are those that differ from job to job, or do something: ``job_id()``, ``job_seed()``,
``provisional_result(value)``, ``send_file(path)``.

Outside of a job, in a test of the function for instance, texts are empty and ``job_id()`` is None. Functions that
send something do nothing, return -1, and say so once in a warning.
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
    """A name as a program finds it that is a computation, and may be written in Python: in its environment."""
    return os.environ.get(f"dispy_{name}", "")


class _OfNode(str):
    """A text that is another on each node: pickled, it becomes that of the node where it arrives.

    So it is right in whatever way a function comes to hold it: as a global, closure variable, default or argument.
    """

    _name: str

    def __new__(cls, name: str) -> _OfNode:
        made = super().__new__(cls, _in_program(name))
        made._name = name
        return made

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _here, (self._name,)


def _here(name: str) -> Any:
    return globals()[name]


# On a node ``offer`` gives these their values before any code of the user's is loaded.

node_name: str = _OfNode("node_name")
"""Name of the node. Empty outside of a job."""

node_ip_addr: str = _OfNode("node_ip_addr")
"""Address by which the program knows the node. Empty outside of a job."""

job_path: str = _OfNode("job_path")
"""Directory in which the job starts, with the files of ``depends``. Empty outside of a job, where ``open`` and
``os.path.join`` take that for the current directory."""

node_logger = logging.getLogger("dispynode")
"""Writes to the log of the node, and not to the output of the job."""


def job_id() -> Any:
    """Id of the running job: ``job.id`` of the program. None for an item of a ``map``, and outside of a job."""
    named = _in_program("job_id") or None
    return vars(builtins).get("dispy_job_id", named)


def job_seed() -> int:
    """Seed for the random numbers of the running job, of 32 bits: see docs/random-numbers.md.

    Outside of a job a random number, another one each time.
    """
    seed = vars(builtins).get("dispy_job_seed")
    if seed is not None:
        return int(seed())
    return int(_in_program("job_seed") or int.from_bytes(os.urandom(4)))


_AS_CONFIGURED = float("nan")
"""Stands for ``dispy.config.MsgTimeout`` of the program."""


def provisional_result(result: Any, relay: bool = False, timeout: float | None = _AS_CONFIGURED) -> int:
    """Send a value to the program while the job goes on; waits until it has arrived.

    Args:
        result: Anything that a job could return.
        relay: Accepted; values go the way that results go.
        timeout: Seconds to wait; ``dispy.config.MsgTimeout`` of the program if not given. None: as long as it takes.

    Returns:
        0 if the program has it, -1 if not: not in time, or this is no job.
    """
    return _call("provisional_result", result, relay, timeout)


def send_file(
    path: str | os.PathLike[str], relay: bool = False, timeout: float | None = _AS_CONFIGURED
) -> int:
    """Send a file to the program while the job goes on; waits until it is there, whole.

    Args:
        path: Of the file.
        relay: Accepted; files go the way that results go.
        timeout: Seconds in which nothing of it arrives after which it is given up; as above.

    Returns:
        0 if the program has it, -1 if not: see the log of the node, or this is no job.
    """
    return _call("send_file", path, relay, timeout)


_has_warned: set[str] = set()


def _call(name: str, value: Any, relay: bool, timeout: float | None) -> int:
    offered = vars(builtins).get(f"dispy_{name}")
    if offered is None:
        if name not in _has_warned:
            _has_warned.add(name)
            node_logger.warning("dispy.job.%s is called outside of a job: nothing is sent", name)
        return -1
    sent: int = offered(value, relay) if timeout is _AS_CONFIGURED else offered(value, relay, timeout)
    return sent
