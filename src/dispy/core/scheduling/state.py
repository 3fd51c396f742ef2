"""The state of the scheduling core: nodes, computations, and a placement of each computation on each node.

A job that has not ended is in exactly one place: in ``Computation.queue``, in ``Placement.pinned`` or in
``Placement.assigned``. ``Computation.open`` counts all of them.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TypeVar

from msgspec import Struct, structs

from dispy.core.scheduling.ids import ClientId, Key, NodeId, Seconds
from dispy.core.turns import Turns
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import JOB_FILES_MAX
from dispy.protocol.node import Compute, FilesProgress, Job, PlaceFiles
from dispy.protocol.views import PlacementStatus as Status
from dispy.protocol.views import PlacementView

UNTOLD_SLOTS = 1 << 31
"""Value of ``Node.slots`` until the node has said how many it grants: then only the credit of each computation
counts, which is 0 at first."""

Message = TypeVar("Message", node.AcknowledgeProvisional, node.PlaceFiles, node.Provisional, node.PutObject)
"""Message that clients and nodes exchange through the scheduler: it names the computation by a number."""


class Placement:
    """A computation on a node: the credit that the node grants it, and its jobs, objects and files there."""

    __slots__ = (
        "asked_back", "assigned", "backlog", "cancelling", "computation", "compute", "cost_s", "counted", "cpus_max",
        "dropped", "expected_us", "granted", "last_sent", "node", "pinned", "placing", "printed", "progress",
        "quota", "ran_from", "reason", "returns", "running", "shortage", "slots", "started", "status", "stored",
        "storing", "terminates", "view", "width",
    )  # fmt: skip

    last_sent: Seconds
    """Time when jobs were last sent to the node, given back or asked back (seconds, monotonic). No job is stolen
    from the node for ``placement.STEAL_AFTER_S`` after that."""
    asked_back: bool
    """True if the node was asked to give jobs back, and since then no job was given back, has ended or was sent
    there: ``steal`` asks the node again only after ``placement.ASK_AGAIN_S``."""
    progress: FilesProgress | None
    """Message in which the node last said how many files have arrived there; None if none is on its way."""
    terminates: bool
    """True if running jobs are cancelled, so that the computation leaves soon; False: their ends are awaited.
    True only while LEAVING or LEFT."""
    expected_us: int
    """Run time of one of its jobs to plan with, as the node said last (microseconds); 0: not known."""
    width: int
    """Number of its jobs that fill the account of the node for jobs that wait there, at least 1: each fills one
    part in so many. Set by ``lines.accounts.set_rates``."""
    cost_s: Seconds
    """CPU time that a job is charged in advance (seconds). Set by ``lines.accounts.set_rates``."""
    counted: int
    """Number of assigned jobs that are in the accounts of the node and of the parties."""
    quota: Quota | None
    """Limit of CPUs of the node for all computations of its client together; None: none was set."""
    running: int
    """Number of jobs in ``started`` that are in the accounts of the parties."""
    ran_from: Seconds
    """Time (seconds, monotonic) from which on the CPU time of ``running`` jobs is taken from the clock."""

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
        self.reason = ""
        """Reason for the status FAILED, in words; told as the reason of jobs that end because of it. Empty if the
        placement has not failed since its stay began (``begin``); kept if the computation is loaded again."""
        self.quota = None
        self.granted: tuple[int, int] = (0, 0)
        """Last credit of the node: slots (number of jobs that start at once) and backlog (number that may wait behind
        them). Both are 0 until the computation is loaded."""
        self.expected_us = 0
        self.shortage = ""
        """Reason, in words, that the node gave for starting no jobs of this computation; empty if it gave none."""
        self.slots = 0
        """Number of jobs that may run on the node at once: the granted slots, bounded by ``apply_grant``. Never
        negative. Jobs above ``slots`` and ``backlog`` together wait in the scheduler."""
        self.backlog = 0
        """Number of jobs that may wait on the node behind running ones, so that no CPU is idle between two: the
        granted backlog, bounded by ``apply_grant``. Never negative."""
        self.width = 1
        self.cost_s = 0.0
        self.counted = 0
        self.running = 0
        self.ran_from = 0.0
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
        self.progress = None
        self.last_sent = 0.0
        self.asked_back = False
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
        self.apply_grant()
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

        Call after any of these, or the node's slots, has changed. The caller must call ``lines.accounts.set_rates``
        and ``note_room`` next (``placement.apply_credit``).
        """
        slots, backlog = self.granted
        # Where nothing may start, nothing may wait either.
        may_wait = slots and self.node.slots + self.node.waiting
        backlog = max(backlog, self.node.waiting) if may_wait else 0
        slots = min(slots, self.node.slots)
        self.slots = min(slots, self.cpus_max)
        # With fewer CPUs than the node has, its queue would let more jobs run than were allocated.
        is_bound = self.cpus_max < self.node.cpus or (self.quota is not None and self.quota.binds())
        self.backlog = 0 if is_bound else backlog
        most = self.computation.files_most
        if most:
            jobs = max(1, JOB_FILES_MAX // most)
            self.slots = min(self.slots, jobs)
            self.backlog = min(self.backlog, jobs - self.slots)


class Computation:
    """A computation of a client: its placements on nodes, and its jobs that have not been sent to a node.

    Attributes:
        client: The client that opened it, to which its actions are addressed.
        number: Number of the computation at that client.
        wire: Number by which nodes know it, unique at this scheduler: messages to nodes and from them name it so.
        compute: Message that opens it on a node, unless ``Allocate`` gives a node other code or files.
    """

    __slots__ = (
        "backlogs", "cancelled", "client", "compute", "deaths", "exclusive", "files", "files_most", "free",
        "key", "last_printed", "lines", "number", "objects", "open", "party", "pinned", "placements", "queue",
        "reentrant", "serial", "stays", "tenant", "uneven", "waiting", "watched", "wire",
    )  # fmt: skip

    serial: int
    """Number of the computation in the order in which they were opened, of all clients."""
    exclusive: bool
    """True if it waits until all that were opened before it are closed, and keeps all that come later waiting."""
    party: Party | None
    """Account of what it has had of the CPUs; None while it is the only computation of the scheduler."""
    tenant: Tenant | None
    """User whose limits hold for it; None if its client has none."""

    def __init__(self, key: Key, compute: Compute, reentrant: bool, exclusive: bool, state: State) -> None:
        self.key = key
        self.client, self.number = key
        self.wire = compute.computation
        self.uneven = state.uneven
        """Index of the state (``State.uneven``), into which ``note_room`` puts the computation."""
        self.lines = state.lines
        """Lines of the state, in which it stands beside others."""
        state.lines.created += 1
        self.serial = state.lines.created
        self.exclusive = exclusive
        self.party = None
        program = state.lines.programs.get(self.client)
        self.tenant = program.tenant if program is not None else None
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
        """Placements on which a job would start at once, by node, and some whose slots jobs of others have taken
        since (``lines.accounts``). After each event none with room is there, or ``queue`` has no job that was not
        cancelled and may be sent."""
        self.backlogs: dict[NodeId, Placement] = {}
        """Placements to which jobs are sent ahead of need, by node: those with room for more further jobs than an
        eighth of their ``slots`` and ``backlog`` together, and some whose room others have taken since."""
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

    __slots__ = (
        "assigned", "cpus", "cpus_max", "due", "filled", "for_room", "for_slot", "id", "is_comparing", "is_connected",
        "name", "pinned", "placements", "shortage", "slots", "waiting",
    )  # fmt: skip

    def __init__(
        self, node: NodeId, name: str, cpus: int, due: dict[object, Node | Tenant | Quota | Computation]
    ) -> None:
        self.id = node
        self.name = name
        self.cpus = cpus
        self.due = due
        """Index of the state (``Lines.due``), into which ``note_room`` puts the node, a user, or a quota."""
        self.slots = UNTOLD_SLOTS
        """Number of jobs that the node starts at once, of all computations together (``NodeCredit``)."""
        self.waiting = 0
        """Number of jobs beyond ``slots`` that may wait on the node however long they take."""
        self.shortage = ""
        """Reason, in words, that the node gave for granting fewer slots than it has CPUs; empty if it gave none."""
        self.assigned = 0
        """Number of assigned jobs of all its placements (``Placement.counted``)."""
        self.filled = 0.0
        """Sum over these jobs of the part of the account that each would fill if it waited (``Placement.width``)."""
        self.for_slot: dict[int, Placement] = {}
        """Placements that have room of their own and miss a free slot of the node, by ``Computation.wire``."""
        self.for_room: dict[int, Placement] = {}
        """Placements that have room of their own and miss room in the node's account, by ``Computation.wire``."""
        self.pinned: dict[int, Placement] = {}
        """Placements with unsent jobs that may run on this node only, by ``Computation.wire``, and some that had such
        jobs."""
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


class Policy(Enum):
    """Order in which computations with waiting jobs have their turns, where several wait for the same node."""

    FAIR = "fair"
    """Equal parts of the CPUs by weight: for users, then for programs of a user, then for computations."""
    FIFO = "fifo"
    """The job first that came first."""
    ROUND_ROBIN = "round-robin"
    """The computation first whose jobs were sent longest ago; users and programs do not count."""
    EARLY = "early"
    """The computation first that was opened first; the others get what it leaves."""


class Party:
    """A user, a program or a computation, which shares CPUs with its siblings. ``lines.parties`` has the rules.

    Attributes:
        lines: Lines in which it waits.
        name: Name of the party, for texts that people read.
        parent: Party to which it belongs; None for the root.
        weight: Its part of the CPUs among its siblings, relative to theirs.
    """

    __slots__ = (
        "active", "advance_s", "arrivals", "computation", "leader", "level", "lines", "mark", "name", "parent",
        "path", "running", "running_from", "spent_s", "turns", "weight",
    )  # fmt: skip

    def __init__(self, lines: Lines, name: str, parent: Party | None, weight: float = 1.0) -> None:
        self.lines = lines
        self.name = name
        self.parent = parent
        self.weight = weight
        self.path: tuple[Party, ...] = (*parent.path, self) if parent is not None else ()
        """Parties from below the root down to this one."""
        self.computation: Computation | None = None
        """The computation that it is; None for programs and users."""
        self.turns: Turns[Party] = Turns(lines.key)
        """Parties below it that may have waiting jobs, the one first whose turn it is next."""
        self.spent_s: Seconds = 0.0
        """CPU time that its jobs have had (seconds), and what it was given up when it began to want CPUs."""
        self.advance_s: Seconds = 0.0
        """CPU time that jobs on nodes are about to have (seconds), at most ``parties.ADVANCE_S`` for each."""
        self.running = 0
        """Number of its jobs that nodes have reported as running."""
        self.running_from: Seconds = 0.0
        """Sum over these of the time from which on they are charged by the clock (seconds, monotonic)."""
        self.active = 0
        """For a computation 1 if it has jobs; for others the number of parties below it that are active."""
        self.leader: Party | None = None
        """The party below it that had most CPU time, of its weight, when jobs were sent; None if it has left."""
        self.level = 0.0
        """Virtual time (seconds) that parties below it have reached which have left."""
        self.mark = 0
        """Key in the policies that do not go by CPU time: arrival of the job at the head, number of the last turn, or
        number of the computation."""
        self.arrivals: deque[tuple[int, int]] = deque()
        """For each batch of jobs that may wait (policy ``fifo``): number of its first job, number of its arrival."""


class Tenant:
    """A user: the limits that hold for all programs of the user together.

    Attributes:
        user: Name of the user.
        party: Account of what the user's programs have had of the CPUs.
    """

    __slots__ = ("assigned", "cpus_max", "held", "open", "party", "programs", "queued_max", "user")

    def __init__(self, user: str, party: Party) -> None:
        self.user = user
        self.party = party
        self.programs = 0
        """Number of programs of the user that are here."""
        self.cpus_max: int | None = None
        """Number of jobs of the user that may be on nodes at once: each may use a CPU. None: no limit."""
        self.queued_max: int | None = None
        """Number of jobs of the user that may wait here and on nodes; None: no limit. The shell keeps to it: see
        ``lines.clients.room_in_queue``."""
        self.assigned = 0
        """Number of jobs of the user that are on nodes."""
        self.open = 0
        """Number of jobs of the user that have not ended."""
        self.held: dict[Key, Computation] = {}
        """Computations of the user that wait, as ``cpus_max`` jobs of the user are on nodes."""


class Quota:
    """The limit of one node's CPUs for all computations of a client together.

    Attributes:
        key: The client and the node.
        node: The node; of one that was lost and is back, the new record.
        cpus_max: Number of jobs of the client that may be on the node at once, if it is below the node's CPUs.
    """

    __slots__ = ("assigned", "cpus_max", "held", "key", "node", "placements")

    def __init__(self, client: ClientId, node: Node, cpus_max: int) -> None:
        self.key = client, node.id
        self.node = node
        self.cpus_max = cpus_max
        self.assigned = 0
        """Number of jobs of the client that are on the node."""
        self.placements: dict[int, Placement] = {}
        """Placements of the client on the node, by ``Computation.wire``."""
        self.held: dict[int, Placement] = {}
        """Placements that have room of their own, and wait as ``cpus_max`` jobs are on the node."""

    def binds(self) -> bool:
        """True if the limit is below what the node offers: jobs beyond it wait here, not on the node."""
        return self.cpus_max < self.node.cpus

    def left(self) -> int:
        """Returns the number of further jobs that may go to the node; 0 or less: none."""
        return self.cpus_max - self.assigned if self.binds() else 1 << 62


class Program(Struct):
    """A client that shares the scheduler with others: the user to whom it belongs, its account, and its limits by
    node."""

    tenant: Tenant | None
    party: Party
    quotas: dict[NodeId, Quota] = {}


class Lines:
    """Order of computations that wait for the same nodes, and what is to be done about it after an event."""

    def __init__(self, policy: Policy, computations: dict[Key, Computation]) -> None:
        self.policy = policy
        self.computations = computations
        """Computations of the state (``State.computations``), the one first that was opened first."""
        self.now: Seconds = 0.0
        """The present (seconds, monotonic), as of the event that is being handled."""
        self.root = Party(self, "", None)
        """Parent of all users, and of programs and computations without one."""
        self.tenants: dict[str, Tenant] = {}
        """Users that have programs, or limits, by name."""
        self.programs: dict[ClientId, Program] = {}
        """Programs that were added, by client. The only client of an embedded scheduler is not among them."""
        self.created = 0
        """Number of computations that were opened."""
        self.arrived = 0
        """Number of batches of jobs that came (policy ``fifo``)."""
        self.served = 0
        """Number of turns that computations had (policy ``round-robin``)."""
        self.exclusive: list[Computation] = []
        """Exclusive computations that are not closed, in the order in which they were opened."""
        self.due: dict[object, Node | Tenant | Quota | Computation] = {}
        """To be done after the event, by node, name of the user, or both client and node: nodes that have room for
        which parked placements wait, users and quotas with fewer jobs on nodes than before for which others of theirs
        wait, and the exclusive computation that was closed (under no name). Emptied by ``placement.serve``."""

    def key(self, party: Party) -> float:
        """Returns the key of a party among its siblings: the smallest one has the next turn."""
        if self.policy is Policy.FAIR:
            ran_s = party.running * self.now - party.running_from
            return (party.spent_s + party.advance_s + ran_s) / party.weight
        return party.mark


class State:
    """Nodes, computations and CPU limits that a scheduler knows; what ``Machine.handle`` reads and changes."""

    def __init__(self, policy: Policy = Policy.FAIR) -> None:
        self.nodes: dict[NodeId, Node] = {}
        """Nodes that are not lost, by incarnation; the connection to one may be broken."""
        self.computations: dict[Key, Computation] = {}
        """Computations that were not closed, by client and number, in the order in which they were opened."""
        self.lines = Lines(policy, self.computations)
        """Order of those that wait: users, programs and computations."""
        self.uneven: dict[Key, Computation] = {}
        """Computations with idle CPUs on a node and jobs that wait on one, by client and number, and some that had
        both a short time ago: ``steal`` looks at these only."""
        self.limits: dict[NodeId, int] = {}
        """Number of CPUs that all computations together may use of a node (``LimitNode``), by node. Kept when a node
        is lost, since it may come back."""
