"""Views: what a scheduler tells of its nodes to those who use them, as plain data without its own records.

A *placement* is a computation on a node. Programs choose nodes, and show them to people, by these views alone.
"""

from __future__ import annotations

from typing import NewType

from msgspec import Struct

from dispy.protocol.node import Available

NodeId = NewType("NodeId", bytes)
"""Random identity of one run of a node (16 bytes). A node that is started anew has another one, and none of the
jobs."""


class NodeInfo(Struct):
    """Description of one run of a node, from its ``Welcome``, with news that came later.

    Attributes:
        node: Identity of the run.
        name: Name of the node, for people.
        ip_addr: IP address at which the scheduler has reached the node.
        port: TCP port at which the node listens.
        cpus: Number of CPUs that the node offers now; 0: none.
        platform: Operating system and processor in words, as ``platform.platform()`` gives them.
    """

    node: NodeId
    name: str
    ip_addr: str
    port: int
    cpus: int
    platform: str
    is_gone: bool = False
    """True if the node is lost, or has left; it never becomes False again."""
    bytes_sent: int = 0
    """Bytes sent to the node over all connections, as of the last ``SchedulerService.nodes``."""
    bytes_received: int = 0
    """Bytes received from the node over all connections, as of the last ``SchedulerService.nodes``."""
    shortage: str = ""
    """Why the node offers no CPUs; empty if it offers some or has given no reason."""
    available: Available | None = None
    """Resources that are free on the node, as it said last; None if it has not said."""
    aliases: list[str] = []
    """Further addresses at which the node has answered. ``JobCluster(nodes=...)`` may name the node by any of
    them."""

    def addresses(self) -> list[str]:
        """Returns all IP addresses at which the node has answered, ``ip_addr`` first."""
        return [self.ip_addr, *self.aliases]
