"""Settings that programs may assign (``dispy.config.NAME = ...``).

Assign them before the cluster is made: many of them are read only then.

``DispyPort`` is the base port. ``ClientPort`` (equal to it), ``NodePort`` (+ 1) and ``SharedSchedulerPort`` (+ 2)
follow from it unless they are assigned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dispy.errors import UsageError

if TYPE_CHECKING:
    ClientPort: int
    """UDP port at which programs hear of nodes of other machines; the base port unless assigned."""
    NodePort: int
    """TCP port of nodes that are named without one; the base port + 1 unless assigned."""
    SharedSchedulerPort: int
    """Port of the shared scheduler, which is not available yet: nothing uses the value."""

DispyPort = 9700
"""Base port of all programs of one installation, up to 65000: the other ports follow from it."""

HTTPServerPort = 8181
"""TCP port of the web server, which is not available yet: nothing uses the value."""

IPv4MulticastGroup = "239.255.61.59"
"""IPv4 multicast group for the search for nodes with ``ipv4_udp_multicast``, the same on all machines."""
IPv6MulticastGroup = "ff05::b409:3171:9705:5134:6159"
"""IPv6 multicast group for the search for nodes, the same on all machines."""

MsgTimeout: float = 10
"""Seconds that ``dispy_provisional_result`` and ``dispy_send_file`` of a job wait for the program if no ``timeout``
is given; then they return -1. ``cluster.node_jobs(from_node=True)`` waits as long for the node; then it raises
``SilenceError``."""

MaxFileSize = 0
"""Bytes of the largest file that a program sends to nodes, or takes from jobs; 0: no limit. Making a cluster or
submitting a job with a larger file raises ``UsageError``; ``dispy_send_file`` of a job returns -1."""

Java = "/usr/bin/java"
"""Path on the nodes of the program that runs ``.java`` computations. If it does not exist there, ``java`` from
``PATH``; without that the jobs fail with an error."""

LocalNode = True
"""True if a cluster may start a node of its own when none runs on this machine. False: it waits for one."""

SharedMemory = True
"""True if large data goes to nodes of this machine, and comes from them, through shared memory; False: over the
connection, as to other machines."""

Journal = True
"""True if a program notes in the user's state directory which nodes it uses. If it dies, ``recover_jobs`` finds its
results by these notes. False: it finds only clusters with ``durable`` or ``recover_file``."""

CancelGrace = 5.0
"""Seconds that a job has to end after ``cluster.cancel`` has interrupted it; then its process is killed."""


def node_port() -> int:
    """Returns the TCP port of nodes that are named without one: the base port + 1, unless ``NodePort`` was assigned.

    Raises:
        UsageError: The assigned value is not a port number.
    """
    return _port("NodePort")


def client_port() -> int:
    """Returns the UDP port at which programs hear of nodes: the base port, unless ``ClientPort`` was assigned.

    Raises:
        UsageError: The assigned value is not a port number.
    """
    return _port("ClientPort")


def _port(name: str) -> int:
    """Returns the port of a setting in ``_DERIVED``: the assigned one, else as it follows from the base port.

    Raises:
        UsageError: The assigned value is not a port number.
    """
    given: Any = globals().get(name, _derived(name))
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given < 65536:
        raise UsageError(f"dispy.config.{name} must be a port number, not {given!r}")
    return given


def message_timeout_s() -> float:
    """Returns ``MsgTimeout`` as a float (seconds), checked.

    Raises:
        UsageError: The assigned value is not a number of seconds above 0.
    """
    given: Any = MsgTimeout
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e6:
        raise UsageError(f"dispy.config.MsgTimeout must be a number of seconds, not {given!r}")
    return float(given)


_DERIVED = {"ClientPort": 0, "NodePort": 1, "SharedSchedulerPort": 2}
"""Distances of ports from the base port ``DispyPort``, by the names of their settings."""


def _derived(name: str) -> int:
    """Returns the port of a setting in ``_DERIVED`` as it follows from the base port.

    Raises:
        UsageError: The assigned base port is not a port number up to 65000.
    """
    port: Any = DispyPort
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65000:
        raise UsageError(f"dispy.config.DispyPort must be a port number up to 65000, not {port!r}")
    return port + _DERIVED[name]


def __getattr__(name: str) -> Any:
    # Python calls this only for names that the program has not assigned.
    if name in _DERIVED:
        return _derived(name)
    raise AttributeError(f"module 'dispy.config' has no attribute {name!r}")
