"""Settings that programs may assign (``dispy.config.NAME = ...``). They are read when a cluster or node starts.

``DispyPort`` is the base port. ``ClientPort`` (equal to it), ``NodePort`` (+ 1) and ``SharedSchedulerPort`` (+ 2)
follow from it unless they are assigned.
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
"""TCP port of the web server, which is not available yet."""

IPv4MulticastGroup = "239.255.61.59"
IPv6MulticastGroup = "ff05::b409:3171:9705:5134:6159"

MsgTimeout: float = 10
"""Seconds that ``dispy_provisional_result`` and ``cluster.node_jobs(from_node=True)`` wait for an answer."""

MaxFileSize = 0
"""Bytes of the largest file that a program sends to nodes, or takes from jobs; 0: no limit."""

Java = "/usr/bin/java"
"""Path on the nodes of the program that runs ``.java`` computations. If it does not exist there, ``java`` from
``PATH``."""

LocalNode = True
"""True if a cluster may start a node of its own when none runs on this machine."""

SharedMemory = True
"""True if large data goes to nodes of this machine, and comes from them, through shared memory."""

Journal = True
"""True if a program notes in the user's state directory which nodes it uses. If it dies, ``recover_jobs`` finds its
results by these notes."""

CancelGrace = 5.0
"""Seconds between the interrupt of a cancelled job and its end by force."""


def node_port() -> int:
    """Returns the port on which nodes listen by default: the base port + 1, unless ``NodePort`` was assigned.

    Raises:
        UsageError: The assigned value is not a port number.
    """
    given: Any = globals().get("NodePort", _derived("NodePort"))
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given < 65536:
        raise UsageError(f"dispy.config.NodePort must be a port number, not {given!r}")
    return given


def message_timeout_s() -> float:
    """Returns ``MsgTimeout`` as a float (seconds).

    Raises:
        UsageError: The assigned value is not a number of seconds above 0.
    """
    given: Any = MsgTimeout
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e6:
        raise UsageError(f"dispy.config.MsgTimeout must be a number of seconds, not {given!r}")
    return float(given)


_DERIVED = {"ClientPort": 0, "NodePort": 1, "SharedSchedulerPort": 2}
"""Distances of ports from the base port, by name."""


def _derived(name: str) -> int:
    port: Any = DispyPort
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65000:
        raise UsageError(f"dispy.config.DispyPort must be a port number up to 65000, not {port!r}")
    return port + _DERIVED[name]


def __getattr__(name: str) -> Any:
    # Python calls this only for names that the program has not assigned.
    if name in _DERIVED:
        return _derived(name)
    raise AttributeError(f"module 'dispy.config' has no attribute {name!r}")
