"""Views: what a scheduler tells of its nodes to those who use them, as plain data without its own records.

A *placement* is a computation on a node. Programs choose nodes, and show them to people, by these views alone.
"""

from __future__ import annotations

from enum import Enum
from typing import NewType

from msgspec import Struct

from dispy.protocol.node import Available

NodeId = NewType("NodeId", bytes)
"""Random identity of one run of a node (16 bytes). A node that is started anew has another one, and none of the
jobs."""


class PlacementStatus(Enum):
    """Status of a placement. The table of its changes is in ``core.scheduling.computations``."""

    LOADING = "loading"
    """The node was sent the computation and has not said that it is loaded: no job is sent there."""
    READY = "ready"
    """The node has loaded the computation: jobs are sent there within its credit."""
    FAILED = "failed"
    """The node cannot run the computation: no job is sent there. Results of jobs sent before may still arrive."""
    LEAVING = "leaving"
    """The computation is to leave the node and gets no new jobs there. When the node has no job of it left, the
    placement becomes LEFT, or GONE if the computation does not come back."""
    LEFT = "left"
    """The node has closed the computation, which comes back with the next ``Allocate``; pinned jobs wait for that."""
    GONE = "gone"
    """The computation is not on the node: the scheduler has not opened it there, or has forgotten the placement."""


class PlacementView(Struct):
    """Description of a computation on a node: how far it is there, what it may use, and why not more.

    Attributes:
        status: Status of the placement.
        reason: Why the status is FAILED or GONE, in words; empty if there is nothing to say.
        shortage: Why the node grants fewer slots than it has CPUs, in words; empty if it has given no reason.
        progress: How many of the files that the node waits for have arrived, in words; empty if it waits for none.
        cpus_max: Number of CPUs of the node that are allocated to the computation.
        node_cpus_max: Number of CPUs that all computations together may use of the node; None if no limit was set.
        slots: Number of jobs of the computation that the node starts at once; 0 unless the placement is READY.
    """

    status: PlacementStatus
    reason: str = ""
    shortage: str = ""
    progress: str = ""
    cpus_max: int = 0
    node_cpus_max: int | None = None
    slots: int = 0
    is_open: bool = False
    """True if jobs that may run on this node only may wait for it; otherwise they end."""
    returns: bool = False
    """True while the computation is leaving or has left the node in order to come back."""
    is_connected: bool = True
    """False while the connection to the node is broken and is being made again."""
    assigned: int = 0
    """Number of jobs on the node that have not ended, as of the last time that the scheduler was asked."""
    started: int = 0
    """Number of assigned jobs that run, as the node has reported: as old as ``assigned``."""


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
    python: str = ""
    """Minor version of Python that jobs run on there, such as "3.12"; empty if the node has not said."""

    def addresses(self) -> list[str]:
        """Returns all IP addresses at which the node has answered, ``ip_addr`` first."""
        return [self.ip_addr, *self.aliases]
