"""The state of the scheduling core: nodes, computations, and a placement of each computation on each node."""

from __future__ import annotations

from collections import deque
from enum import Enum

from dispy.core.scheduling.ids import ClientId, NodeId, Seconds
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import JOB_FILES_MAX
from dispy.protocol.node import (
    Compute,
    FilesProgress,
    Job,
    PlaceFiles,
)


class Status(Enum):
    """Where a computation is in its life on one node."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    LEAVING = "leaving"
    """It gets nothing new, and goes when it has nothing left there."""
    LEFT = "left"
    """It is gone from there, and comes back with the next ``Allocate``."""


class Placement:
    """A computation on a node: what the node grants it and what it has there."""

    __slots__ = (
        "asked_back", "assigned", "backlog", "cancelling", "computation", "compute", "cpus_max", "dropped", "granted",
        "last_sent", "node", "pinned", "placing", "progress", "reason", "returns", "shortage", "slots", "started",
        "status", "stored", "storing", "terminates",
    )  # fmt: skip

    def __init__(self, computation: Computation, node: Node, cpus_max: int) -> None:
        self.computation = computation
        self.compute = computation.compute
        """What the node is sent."""
        self.node = node
        self.cpus_max = cpus_max
        self.status = Status.LOADING
        self.returns = False
        """Of one that is leaving: it comes back."""
        self.terminates = False
        """Likewise: what runs there is cancelled."""
        self.reason = ""
        self.granted = (0, 0)
        """Slots and backlog as the node said."""
        self.shortage = ""
        """Why that is less than the node has, as it said."""
        self.slots = 0
        self.backlog = 0
        self.assigned: dict[int, Job] = {}
        """Jobs sent there that have not ended, by number, in the order sent."""
        self.started: set[int] = set()
        """Those of them that the node told to be running."""
        self.cancelling: set[int] = set()
        """Those of them that the node was asked to cancel."""
        self.pinned: deque[Job] = deque()
        """Jobs that may run there only and have not been sent."""
        self.stored: set[int] = set()
        """Objects that the node said to have."""
        self.storing: set[int] = set()
        """Those that were sent there: nothing else goes there until it has them."""
        self.dropped: dict[int, int] = {}
        """Those it was told to drop, unless it is known to have heard that; with the last object sent before that."""
        self.placing: dict[int, PlaceFiles] = {}
        """Files that it was asked to put there and has not said to have, by request."""
        self.progress: FilesProgress | None = None
        """How much of its files has come, as it said last."""
        self.last_sent: Seconds = 0.0
        self.asked_back = False

    def begin(self, compute: Compute) -> None:
        """A new stay on the node, of which nothing is known yet."""
        self.compute = compute
        self.status = Status.LOADING
        self.returns = self.terminates = self.asked_back = False
        self.reason = self.shortage = ""
        self.granted = (0, 0)
        self.slots = self.backlog = 0
        self.progress = None
        self.stored.clear()
        self.storing.clear()
        self.dropped.clear()

    def is_open(self) -> bool:
        """Whether jobs may be sent there, now or when it is loaded."""
        return self.cpus_max > 0 and (self.status in (Status.LOADING, Status.READY) or self.returns)

    def apply_grant(self) -> None:
        """What of the node's grant may be used, given how many CPUs were allocated."""
        slots, backlog = self.granted
        self.slots = min(slots, self.cpus_max)
        # With fewer CPUs than the node has, its queue would let more jobs run than were allocated.
        self.backlog = backlog if self.cpus_max >= self.node.cpus else 0
        most = self.computation.files_most
        if most:
            jobs = max(1, JOB_FILES_MAX // most)
            self.slots = min(self.slots, jobs)
            self.backlog = min(self.backlog, jobs - self.slots)

    def room(self) -> int:
        """Jobs that would start at once there."""
        return self.slots - len(self.assigned)

    def room_behind(self) -> int:
        """Jobs that the node would take, to start or to wait."""
        return self.slots + self.backlog - len(self.assigned)


class Computation:
    """What a client wants computed, and the jobs of it that have not been sent to a node."""

    __slots__ = (
        "backlogs", "cancelled", "client", "compute", "deaths", "files", "files_most", "free", "number", "objects",
        "open", "pinned", "placements", "queue", "reentrant", "stays", "watched",
    )  # fmt: skip

    def __init__(self, client: ClientId, compute: Compute, reentrant: bool) -> None:
        self.number = compute.computation
        self.client = client
        self.compute = compute
        self.reentrant = reentrant
        self.queue: deque[Job] = deque()
        """One class of equal requests: one CPU each. Nothing of it is tracked by the collector."""
        self.cancelled: set[int] = set()
        """Numbers of cancelled jobs still in the queue: they were told as ended, and are skipped."""
        self.open = 0
        """Jobs that have not ended."""
        self.pinned: dict[int, NodeId] = {}
        """Where pinned jobs that have not ended may run, by number."""
        self.deaths: dict[int, int] = {}
        """How often the process of a job has died that is run again after that, by the job's number."""
        self.objects: dict[int, node.PutObject] = {}
        """What jobs refer to, by number."""
        self.files: dict[int, list[FileEntry]] = {}
        """What jobs bring that have not ended, by number."""
        self.files_most = 0
        """Most files that one of them has brought so far."""
        self.placements: dict[NodeId, Placement] = {}
        self.stays: dict[NodeId, int] = {}
        """How often it came to a node; see ``Compute.life``."""
        self.free: dict[NodeId, Placement] = {}
        """Where a job would start at once."""
        self.backlogs: dict[NodeId, Placement] = {}
        """Where a job could wait."""
        self.watched: set[int] = set()
        """Numbers of jobs that have not ended and whose output is wanted while they run."""


class Node:
    """A node as we know it."""

    __slots__ = ("cpus", "cpus_max", "id", "is_comparing", "is_connected", "name", "placements")

    def __init__(self, node: NodeId, name: str, cpus: int) -> None:
        self.id = node
        self.name = name
        self.cpus = cpus
        """What it offers."""
        self.cpus_max: int | None = None
        """What may be used of that, if somebody has set it."""
        self.is_connected = True
        self.is_comparing = False
        """After a reconnect, until it has told what it does not have: it gets nothing new before that."""
        self.placements: dict[int, Placement] = {}


class State:
    """Everything a scheduler knows."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.computations: dict[int, Computation] = {}
        self.limits: dict[NodeId, int] = {}
        """CPUs of nodes that may be used, where that was said; also of those that are lost, and may come back."""
