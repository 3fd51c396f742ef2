"""The state of the scheduling core: nodes, computations, and a placement of each computation on each node.

A job that has not ended is in exactly one place: in ``Computation.queue``, in ``Placement.pinned`` or in
``Placement.assigned``. ``Computation.open`` counts all of them.
"""

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
    """Status of a placement. The table of its changes is in ``computations``."""

    LOADING = "loading"
    """The node was sent the computation and has not said that it is loaded: no job is sent there."""
    READY = "ready"
    """The node has loaded the computation: jobs are sent there within its credit."""
    FAILED = "failed"
    """The node cannot run the computation: no job is sent there, results may still arrive."""
    LEAVING = "leaving"
    """The placement gets no new jobs, and ends when the node has no job of it left."""
    LEFT = "left"
    """The node has closed the computation, which comes back with the next ``Allocate``; pinned jobs wait for that."""


class Placement:
    """A computation on a node: the credit that the node grants it, and its jobs, objects and files there."""

    __slots__ = (
        "asked_back", "assigned", "backlog", "cancelling", "computation", "compute", "cpus_max", "dropped", "granted",
        "last_sent", "node", "pinned", "placing", "progress", "reason", "returns", "shortage", "slots", "started",
        "status", "stored", "storing", "terminates",
    )  # fmt: skip

    def __init__(self, computation: Computation, node: Node, cpus_max: int) -> None:
        self.computation = computation
        self.compute = computation.compute
        """Message that opens the computation on this node; sent again if the node has lost the computation."""
        self.node = node
        self.cpus_max = cpus_max
        """CPUs of the node that the client has allocated to the computation; 0: the node gets no more jobs of it."""
        self.status = Status.LOADING
        self.returns = False
        """True if the computation comes back; only while the status is LEAVING or LEFT."""
        self.terminates = False
        """True if running jobs are cancelled instead of awaited; only while the status is LEAVING or LEFT."""
        self.reason = ""
        """Reason for the status FAILED, in words; empty before that, kept if the computation is loaded again."""
        self.granted = (0, 0)
        """Last credit of the node: slots and backlog (jobs). (0, 0) until the computation is loaded."""
        self.shortage = ""
        """Reason of the node for granting fewer slots than it has CPUs, in words; empty if it grants all."""
        self.slots = 0
        """Jobs that may run there at once: the granted slots, bounded by ``apply_grant``. Never negative."""
        self.backlog = 0
        """Jobs that may wait there behind running ones: the granted backlog, bounded, too. Never negative."""
        self.assigned: dict[int, Job] = {}
        """Jobs sent to the node that have not ended, by number, in the order sent."""
        self.started: set[int] = set()
        """Numbers of assigned jobs that the node has reported as running: a subset of ``assigned``."""
        self.cancelling: set[int] = set()
        """Numbers of assigned jobs that the node was asked to cancel: a subset of ``assigned``."""
        self.pinned: deque[Job] = deque()
        """Jobs that may run on this node only and have not been sent, in the order of submission."""
        self.stored: set[int] = set()
        """Numbers of objects that the node has acknowledged, or may have after a reconnect."""
        self.storing: set[int] = set()
        """Numbers of objects on their way to the node. While there are any, the node gets no jobs."""
        self.dropped: dict[int, int] = {}
        """Objects that the node was told to drop and may not have heard of: for each number, the highest number of an
        object sent before the drop. An entry goes once the node acknowledges an object sent after it."""
        self.placing: dict[int, PlaceFiles] = {}
        """Requests to put files into the working directory that the node has not answered, by request number."""
        self.progress: FilesProgress | None = None
        """How much of the computation's files has arrived, as the node last said; None if none are on their way."""
        self.last_sent: Seconds = 0.0
        """Time when jobs were last sent there, given back or asked back (seconds, monotonic)."""
        self.asked_back = False
        """True if waiting jobs were asked back, and since then no job was given back, has ended or was sent there."""

    def begin(self, compute: Compute) -> None:
        """Reset to LOADING for a new stay on the node, of which nothing is known yet. Jobs and files are kept."""
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
        """True if pinned jobs may wait for the node: CPUs are allocated, and it is loading, ready or comes back."""
        return self.cpus_max > 0 and (self.status in (Status.LOADING, Status.READY) or self.returns)

    def apply_grant(self) -> None:
        """Set ``slots`` and ``backlog`` from the node's credit, the allocated CPUs and the files that jobs bring.

        ``note_room`` must follow.
        """
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
        """Number of further jobs that would start at once there; 0 or less if there is no room."""
        return self.slots - len(self.assigned)

    def room_behind(self) -> int:
        """Number of further jobs that the node takes, to start or to wait; 0 or less if there is no room."""
        return self.slots + self.backlog - len(self.assigned)


class Computation:
    """A computation of a client, its placements, and its jobs that have not been sent to a node."""

    __slots__ = (
        "backlogs", "cancelled", "client", "compute", "deaths", "files", "files_most", "free", "number", "objects",
        "open", "pinned", "placements", "queue", "reentrant", "stays", "watched",
    )  # fmt: skip

    def __init__(self, client: ClientId, compute: Compute, reentrant: bool) -> None:
        self.number = compute.computation
        self.client = client
        self.compute = compute
        self.reentrant = reentrant
        """True if a job may run again after it was started: see ``retries``."""
        self.queue: deque[Job] = deque()
        """Jobs that may run on any node and wait, in order; one CPU each. The garbage collector tracks no ``Job``."""
        self.cancelled: set[int] = set()
        """Numbers of cancelled jobs that are still in ``queue`` and are skipped there: a subset of its numbers. Their
        end was told when they were cancelled."""
        self.open = 0
        """Number of jobs that have not ended: waiting without the cancelled ones, pinned or assigned."""
        self.pinned: dict[int, NodeId] = {}
        """Only node on which an open job may run, by job number; jobs that may run on any node are missing."""
        self.deaths: dict[int, int] = {}
        """Number of deaths of an open job's process, by job number; jobs without deaths are missing."""
        self.objects: dict[int, node.PutObject] = {}
        """Objects that jobs refer to and that were not dropped, by object number, in the order of the puts."""
        self.files: dict[int, list[FileEntry]] = {}
        """Files that open jobs bring, by job number; jobs without files are missing."""
        self.files_most = 0
        """Largest number of files that one job has brought so far. Bounds the jobs that a node gets at once."""
        self.placements: dict[NodeId, Placement] = {}
        """Placements by node. Every one is also in ``Node.placements`` of a node in ``State.nodes``."""
        self.stays: dict[NodeId, int] = {}
        """Number of times that the computation came to a node: the generation of its next stay (``Compute.life``)."""
        self.free: dict[NodeId, Placement] = {}
        """Placements on which a job would start at once. ``note_room`` keeps this index true: after each event it is
        empty or ``queue`` has no job that was not cancelled."""
        self.backlogs: dict[NodeId, Placement] = {}
        """Placements whose backlog has room, so that a job could wait there. ``note_room`` keeps this index true."""
        self.watched: set[int] = set()
        """Numbers of open jobs whose output is wanted while they run."""


class Node:
    """A node to which a connection stands, or stood and may be made again."""

    __slots__ = ("cpus", "cpus_max", "id", "is_comparing", "is_connected", "name", "placements")

    def __init__(self, node: NodeId, name: str, cpus: int) -> None:
        self.id = node
        self.name = name
        self.cpus = cpus
        """Number of CPUs that the node offers."""
        self.cpus_max: int | None = None
        """Number of CPUs that all computations together may use (``LimitNode``); None if no limit was set."""
        self.is_connected = True
        """True while the connection stands. No message is sent to the node otherwise."""
        self.is_comparing = False
        """True after a reconnect until the node has answered ``Reconcile``: no new jobs are sent before that."""
        self.placements: dict[int, Placement] = {}
        """Placements on this node, by number of the computation."""


class State:
    """All that a scheduler knows."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        """Nodes that are not lost; the connection to one may be broken."""
        self.computations: dict[int, Computation] = {}
        """Computations that were not closed, by number."""
        self.limits: dict[NodeId, int] = {}
        """CPU limits set by ``LimitNode``, by node; kept when a node is lost, since it may come back."""
