"""Nodes and placements as a cluster may see them: plain data that a backend feeds and everything above it reads."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from dispy.core.scheduling.ids import NodeId as NodeId
from dispy.scheduler.link import NodeInfo as NodeInfo


class PlaceStatus(Enum):
    """How far a computation is on a node."""

    LOADING = "loading"
    """The node loads the computation, or runs its ``setup``."""
    READY = "ready"
    """The node runs jobs of the computation."""
    FAILED = "failed"
    """The node cannot run the computation."""
    LEAVING = "leaving"
    """The computation leaves the node when its running jobs have ended."""
    LEFT = "left"
    """The computation has left the node, and is to come back."""


class PlacementView(Struct):
    """A computation on a node, as its cluster may see it."""

    status: PlaceStatus
    is_open: bool
    """True if jobs of ``submit_node`` may wait for the node."""
    cpus: int
    """CPUs of the node that the cluster may use, by its own choice and by ``set_node_cpus``."""
    limit: int
    """CPUs of the node that all clusters of the program may use together (``set_node_cpus``), or that it offers."""
    slots: int
    """Jobs that the node lets start at once, as it said last."""
    shortage: str
    """Why the node takes fewer jobs than it has CPUs, in words; empty: it has not said."""
    is_receiving: bool
    """True while files of the computation are on their way to the node."""
    why: str
    """Why no more jobs go to the node now, in words."""
    assigned: int
    """Number of jobs that were sent to the node and have not ended."""
    started: int
    """Number of these that the node has reported as running."""
