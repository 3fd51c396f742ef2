"""Values that programs may assign before they create anything; read when a cluster or node starts.

``DispyPort`` is the base port. ``ClientPort`` (the same), ``NodePort`` (+ 1) and ``SharedSchedulerPort`` (+ 2) follow
from it unless they are assigned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dispy.errors import UsageError

if TYPE_CHECKING:
    ClientPort: int
    NodePort: int
    SharedSchedulerPort: int

DispyPort = 9700
"""Base port of all programs of one installation."""

HTTPServerPort = 8181
"""Of the web server."""

IPv4MulticastGroup = "239.255.61.59"
IPv6MulticastGroup = "ff05::b409:3171:9705:5134:6159"

MsgTimeout: float = 10
"""Seconds that ``dispy_provisional_result`` and ``cluster.node_jobs(from_node=True)`` wait for an answer."""

MaxFileSize = 0
"""Largest file that a program sends to nodes, or takes from jobs (bytes); 0 is unlimited."""

Java = "/usr/bin/java"
"""What runs computations that are ``.java`` files, on the nodes; where it is not there, ``java`` in ``PATH``."""

LocalNode = True
"""Whether a cluster may start a node of its own where none runs on this machine."""

SharedMemory = True
"""Whether large data goes to nodes of this machine, and comes from them, by shared memory."""

Journal = True
"""Whether programs note which nodes they use, in the user's state directory, so that ``recover_jobs`` finds the
results of one that dies."""

CancelGrace = 5.0
"""Seconds between the interrupt of a cancelled job and its end by force."""


def node_port() -> int:
    """Where nodes listen by default: the base port + 1.

    Raises:
        UsageError: A port was assigned that is none.
    """
    given: Any = globals().get("NodePort", _derived("NodePort"))
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given < 65536:
        raise UsageError(f"dispy.config.NodePort must be a port number, not {given!r}")
    return given


def message_timeout_s() -> float:
    """How long somebody who is asked has time to answer (seconds).

    Raises:
        UsageError: Something was assigned that is no time.
    """
    given: Any = MsgTimeout
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e6:
        raise UsageError(f"dispy.config.MsgTimeout must be a number of seconds, not {given!r}")
    return float(given)


_DERIVED = {"ClientPort": 0, "NodePort": 1, "SharedSchedulerPort": 2}
"""Ports by what they are above the base port."""


def _derived(name: str) -> int:
    port: Any = DispyPort
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65000:
        raise UsageError(f"dispy.config.DispyPort must be a port number up to 65000, not {port!r}")
    return port + _DERIVED[name]


def __getattr__(name: str) -> Any:
    # Asked for only where the program has assigned none.
    if name in _DERIVED:
        return _derived(name)
    raise AttributeError(f"module 'dispy.config' has no attribute {name!r}")
