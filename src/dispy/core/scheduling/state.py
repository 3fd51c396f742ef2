"""The state of the scheduling core: nodes, computations, and a placement of each computation on each node.

A job that has not ended is in exactly one place: in ``Computation.queue``, in ``Placement.pinned`` or in
``Placement.assigned``. ``Computation.open`` counts all of them.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from msgspec import structs

from dispy.core.scheduling.ids import Key, NodeId, Seconds
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import JOB_FILES_MAX
from dispy.protocol.node import (
    Compute,
    FilesProgress,
    Job,
    PlaceFiles,
)
from dispy.protocol.views import PlacementStatus as Status
from dispy.protocol.views import PlacementView

Message = TypeVar("Message", node.AcknowledgeProvisional, node.PlaceFiles, node.Provisional, node.PutObject)
"""Message that clients and nodes exchange through the scheduler: it names the computation by a number."""


class Placement:
    """A computation on a node: the credit that the node grants it, and its jobs, objects and files there."""

    __slots__ = (
        "asked_back", "assigned", "backlog", "cancelling", "computation", "compute", "cpus_max", "dropped", "granted",
        "last_sent", "node", "pinned", "placing", "printed", "progress", "reason", "returns", "shortage", "slots",
        "started", "status", "stored", "storing", "terminates", "view",
    )  # fmt: skip

    def __init__(self, computation: Computation, node: Node, cpus_max: int) -> None:
        self.computation = computation
        self.compute = computation.compute
        """Message that opens the computation on this node, with its code and files for this node. Sent again if the
        node has lost the computation."""
        self.node = node
        self.cpus_max = cpus_max
        """CPUs of the node that the client has allocated to the computation; 0: the node gets no more jobs of it."""
        self.status = Status.LOADING
        self.returns = False
        """True if the computation comes back to the node once it has left: pinned jobs are kept until then. False
        outside of LEAVING and LEFT."""
        self.terminates = False
        """True if running jobs are cancelled, so that the computation leaves soon; False: their ends are awaited.
        True only while LEAVING or LEFT."""
        self.reason = ""
        """Reason for the status FAILED, in words; told as the reason of jobs that end because of it. Empty if the
        placement has not failed since its stay began (``begin``); kept if the computation is loaded again."""
        self.granted: tuple[int, int] = (0, 0)
        """Last credit of the node: slots (number of jobs that start at once) and backlog (number that may wait behind
        them). Both are 0 until the computation is loaded."""
        self.shortage = ""
        """Reason, in words, that the node gave for granting fewer slots than it has CPUs; empty if it gave none."""
        self.slots = 0
        """Number of jobs that may run on the node at once: the granted slots, bounded by ``apply_grant``. Never
        negative. Jobs above ``slots`` and ``backlog`` together wait in the scheduler."""
        self.backlog = 0
        """Number of jobs that may wait on the node behind running ones, so that no CPU is idle between two: the
        granted backlog, bounded by ``apply_grant``. Never negative."""
        self.assigned: dict[int, Job] = {}
        """Jobs sent to the node that have not ended or come back, by number, in the order in which they were sent."""
        self.started: set[int] = set()
        """Numbers of assigned jobs that the node has reported as running: a subset of ``assigned``."""
        self.cancelling: set[int] = set()
        """Numbers of assigned jobs that the node was asked to cancel: a subset of ``assigned``."""
        self.pinned: deque[Job] = deque()
        """Jobs that may run on this node only and have not been sent, in the order of submission."""
        self.stored: set[int] = set()
        """Numbers of objects (data that jobs read) that the node has acknowledged, or may have after a reconnect."""
        self.storing: set[int] = set()
        """Numbers of objects on their way to the node. While there are any, the node gets no jobs."""
        self.dropped: dict[int, int] = {}
        """By number of an object that the node was told to delete and may not have heard of: the highest number of an
        object sent before that. An entry is removed once the node acknowledges an object that was sent later."""
        self.printed: dict[int, bool] = {}
        """By serial number of each message with output that was not acknowledged to the node, oldest first: True if
        the client has answered it. Emptied when the connection breaks: the node tells all of them again then."""
        self.placing: dict[int, PlaceFiles] = {}
        """Messages that ask the node to put files into the working directory and that it has not answered, by request
        number. Sent again after a reconnect."""
        self.progress: FilesProgress | None = None
        """Message in which the node last said how many files have arrived there; None if none is on its way."""
        self.last_sent: Seconds = 0.0
        """Time when jobs were last sent to the node, given back or asked back (seconds, monotonic). No job is stolen
        from the node for ``placement.STEAL_AFTER_S`` after that."""
        self.asked_back = False
        """True if the node was asked to give jobs back, and since then no job was given back, has ended or was sent
        there: ``steal`` asks the node again only after ``placement.ASK_AGAIN_S``."""
        self.view = PlacementView(Status.GONE)
        """View of the placement that its client was told last; GONE before the first. Its counts may be old."""

    def begin(self, compute: Compute) -> None:
        """Reset to LOADING for a new stay on the node, which ``compute`` opens: without credit and objects.

        Pinned jobs are kept. The caller sends ``compute`` to the node.
        """
        self.compute = compute
        self.status = Status.LOADING
        self.returns = self.terminates = self.asked_back = False
        self.reason = self.shortage = ""
        self.granted = (0, 0)
        self.slots = self.backlog = 0
        self.progress = None
        self.printed.clear()
        self.stored.clear()
        self.storing.clear()
        self.dropped.clear()

    def is_open(self) -> bool:
        """True if pinned jobs may wait for the node: CPUs are allocated, and the computation is LOADING, READY or
        comes back. Otherwise pinned jobs end."""
        return self.cpus_max > 0 and (self.status in (Status.LOADING, Status.READY) or self.returns)

    def apply_grant(self) -> None:
        """Set ``slots`` and ``backlog``: the node's credit, bounded by the allocated CPUs and ``JOB_FILES_MAX``.

        Call after any of these has changed. The caller must call ``note_room`` next.
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
        """Returns the number of further jobs that would start at once on the node; 0 or less: no slot is free."""
        return self.slots - len(self.assigned)

    def room_behind(self) -> int:
        """Returns the number of further jobs that the node takes, to start at once or to wait in its backlog; 0 or
        less: the node takes none."""
        return self.slots + self.backlog - len(self.assigned)


class Computation:
    """A computation of a client: its placements on nodes, and its jobs that have not been sent to a node.

    Attributes:
        client: The client that opened it, to which its actions are addressed.
        number: Number of the computation at that client.
        wire: Number by which nodes know it, unique at this scheduler: messages to nodes and from them name it so.
        compute: Message that opens it on a node, unless ``Allocate`` gives a node other code or files.
    """

    __slots__ = (
        "backlogs", "cancelled", "client", "compute", "deaths", "files", "files_most", "free", "key", "last_printed",
        "number", "objects", "open", "pinned", "placements", "queue", "reentrant", "stays", "uneven", "waiting",
        "watched", "wire",
    )  # fmt: skip

    def __init__(self, key: Key, compute: Compute, reentrant: bool, uneven: dict[Key, Computation]) -> None:
        self.key = key
        self.client, self.number = key
        self.wire = compute.computation
        self.uneven = uneven
        """Index of the state (``State.uneven``), into which ``note_room`` puts the computation."""
        self.compute = compute
        self.reentrant = reentrant
        """True if a job may run again after it was started: it is retried if its process dies or its node is lost
        (``retries``). False: such a job ends."""
        self.queue: deque[Job] = deque()
        """Jobs that may run on any node and wait for one, in the order in which they are sent; retries are in front.
        Cancelled ones may still be among them. The garbage collector tracks no ``Job``."""
        self.cancelled: set[int] = set()
        """Numbers of cancelled jobs that are still in ``queue`` and are skipped when they are taken: a subset of its
        numbers. Their end was told when they were cancelled."""
        self.open = 0
        """Number of jobs that have not ended: those in ``queue`` but not in ``cancelled``, pinned ones, and assigned
        ones."""
        self.pinned: dict[int, NodeId] = {}
        """Only node on which an open job may run, by job number; jobs that may run on any node are missing."""
        self.deaths: dict[int, int] = {}
        """Number of times that the process of an open job died, by job number; jobs without deaths are missing. At
        ``DEATHS_MAX`` (``retries``) the job is not run again."""
        self.objects: dict[int, node.PutObject] = {}
        """Messages that give nodes the objects (data that jobs read) which were not dropped, by object number, in the
        order of the puts. Each node gets all of them before jobs."""
        self.files: dict[int, list[FileEntry]] = {}
        """Files that must be in the working directory while an open job runs, by job number; jobs without files are
        missing."""
        self.files_most = 0
        """Largest number of files that one job has brought so far. A node gets so few jobs at once that their files
        are at most ``JOB_FILES_MAX``."""
        self.placements: dict[NodeId, Placement] = {}
        """Placements by node. Every one is also in ``Node.placements`` of a node in ``State.nodes``."""
        self.stays: dict[NodeId, int] = {}
        """Number of times that the computation was opened on a node, by node. Becomes the generation
        (``Compute.life``) of its next stay there, so that a late message about an earlier stay is told apart."""
        self.free: dict[NodeId, Placement] = {}
        """Placements on which a job would start at once, by node. ``note_room`` keeps this index true: after each
        event it is empty or ``queue`` has no job that was not cancelled."""
        self.backlogs: dict[NodeId, Placement] = {}
        """Placements to which jobs are sent ahead of need, by node: those with room for more further jobs than an
        eighth of their ``slots`` and ``backlog`` together. ``note_room`` keeps this index true."""
        self.waiting: dict[NodeId, Placement] = {}
        """Placements with jobs that their node has not reported as started, by node: these may wait there behind
        others, and be stolen. ``note_room`` keeps this index true."""
        self.last_printed = 0
        """Serial number of the last message with output of its jobs; 0: none came."""
        self.watched: set[int] = set()
        """Numbers of open jobs whose output the client wants while they run: nodes are asked to send it."""

    def named_for_nodes(self, message: Message) -> Message:
        """Returns a message of the client, with the number by which nodes know the computation."""
        return message if self.wire == self.number else structs.replace(message, computation=self.wire)

    def named_for_client(self, message: Message) -> Message:
        """Returns a message of a node, with the number of the computation at its client."""
        return message if self.wire == self.number else structs.replace(message, computation=self.number)


class Node:
    """A node to which a connection stands, or stood and may be made again.

    Attributes:
        id: Incarnation of the node, by which events and actions name it.
        name: Name of the node, for texts that people read.
    """

    __slots__ = ("cpus", "cpus_max", "id", "is_comparing", "is_connected", "name", "placements")

    def __init__(self, node: NodeId, name: str, cpus: int) -> None:
        self.id = node
        self.name = name
        self.cpus = cpus
        """Number of CPUs that the node offers now. A computation that may use fewer gets no backlog there."""
        self.cpus_max: int | None = None
        """Number of CPUs that all computations of this scheduler together may use (``LimitNode``); None if no limit
        was set. The node itself keeps to the limit; after a reconnect the node is told it again."""
        self.is_connected = True
        """True while the connection stands. No message is sent to the node otherwise."""
        self.is_comparing = False
        """True after a reconnect until the node has answered ``Reconcile``: no new jobs are sent before that."""
        self.placements: dict[int, Placement] = {}
        """Placements on this node, by the number by which it knows the computation (``Computation.wire``)."""


class State:
    """Nodes, computations and CPU limits that a scheduler knows; what ``Machine.handle`` reads and changes."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        """Nodes that are not lost, by incarnation; the connection to one may be broken."""
        self.computations: dict[Key, Computation] = {}
        """Computations that were not closed, by client and number."""
        self.uneven: dict[Key, Computation] = {}
        """Computations with idle CPUs on a node and jobs that wait on one, by client and number, and some that had
        both a short time ago: ``steal`` looks at these only."""
        self.limits: dict[NodeId, int] = {}
        """Number of CPUs that all computations together may use of a node (``LimitNode``), by node. Kept when a node
        is lost, since it may come back."""
