"""Events of the scheduling core: requests of clients, messages and connections of nodes, and the clock.

In all of them ``client`` is the client that opened a computation, ``computation`` the number of the computation at
that client, and ``node`` the incarnation of a node. Messages of a client name the computation by that number, too;
those of nodes by the number that nodes know (``Computation.wire``). Unless said otherwise, events about computations
or nodes that are not known (any more) are ignored.
"""

from __future__ import annotations

from msgspec import Struct

from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.node import (
    AcknowledgeProvisional,
    Compute,
    FromNode,
    Job,
    PlaceFiles,
)


class AddClient(Struct):
    """A program begins to use the scheduler beside others. It must come before the computations of the client.

    Attributes:
        client: The client.
        user: User whose program it is, and whose weight and limits hold for it; empty: none.
        name: Name of the program, for texts that people read.
        weight: Its part of the CPUs that its user gets, relative to the other programs of the user.
    """

    client: ClientId
    user: str = ""
    name: str = ""
    weight: float = 1.0


class RemoveClient(Struct):
    """A program has left for good: its computations are closed."""

    client: ClientId


class LimitUser(Struct):
    """Weight and limits of a user from now on, with all programs together.

    Attributes:
        user: Name of the user.
        weight: Part of the CPUs relative to other users, while all of them have jobs waiting.
        cpus_max: Number of jobs that may be on nodes at once, each of which may use a CPU; None: no limit.
        queued_max: Number of jobs that may wait here and on nodes; None: no limit. The shell keeps to it.
    """

    user: str
    weight: float = 1.0
    cpus_max: int | None = None
    queued_max: int | None = None


class LimitClient(Struct):
    """All computations of a client together may use up to ``cpus`` CPUs of a node from now on.

    Others may use the rest. Jobs that run above the limit go on. Without effect if client or node is not known.
    """

    client: ClientId
    node: NodeId
    cpus: int


class AddComputation(Struct):
    """A client opens a computation. No node loads the computation before ``Allocate``.

    Attributes:
        client: Client to which all actions about the computation are addressed.
        computation: Number of the computation, unique among those of the client.
        compute: Message that opens the computation on nodes. Nodes know the computation by the number in it, which
            the shell chooses: never one that it has used before, for whatever client.
        reentrant: True if jobs may run again after they were started: those that a dead process or a lost node ran
            are retried. False: such jobs end.
        exclusive: True if its jobs wait until all computations that were opened before it, of all clients, are
            closed, and those opened after it wait for its end.
    """

    client: ClientId
    computation: int
    compute: Compute
    reentrant: bool = False
    exclusive: bool = False


class CloseComputation(Struct):
    """A client closes a computation: it is forgotten here and on its nodes. No end is told of jobs that are open."""

    client: ClientId
    computation: int


class Allocate(Struct):
    """A computation may use up to ``cpus`` CPUs of a node from now on; it is loaded there if it is not yet.

    While the computation is leaving the node (``Vacate``), this is ignored unless it takes the node away at once.

    Attributes:
        cpus: Number of CPUs, each for one job at a time; 0 takes the node away: jobs there run again elsewhere or end
            as ``ABANDONED``, and jobs pinned to the node that were not sent end as ``CANCELLED``.
        is_draining: True with 0 CPUs: the node stays, its running jobs may end, those that wait there are asked back,
            and those pinned to it that were not sent end as ``CANCELLED``.
        code: Pickled code that this node is sent when it loads the computation; empty: the code of the computation.
        files: Files that this node gets when it loads the computation; None: the files of the computation.
    """

    client: ClientId
    computation: int
    node: NodeId
    cpus: int
    is_draining: bool = False
    code: bytes = b""
    files: list[FileEntry] | None = None


class Vacate(Struct):
    """A computation leaves a node once its running jobs have ended; jobs that have not started go elsewhere.

    Attributes:
        terminate: True: running jobs are cancelled, so that the computation leaves soon. False: their ends are
            awaited.
        returns: True: the computation comes back. ``TellVacated`` asks for an ``Allocate``; until then jobs pinned to
            the node are kept. False: they are cancelled.
    """

    client: ClientId
    computation: int
    node: NodeId
    terminate: bool = False
    returns: bool = False


class LimitNode(Struct):
    """All computations of this scheduler together may use up to ``cpus`` CPUs of a node from now on.

    The node is told, and grants credit accordingly. Jobs that run above the limit go on. The limit stays if the node
    is lost and comes back.
    """

    node: NodeId
    cpus: int


class SubmitJobs(Struct):
    """Jobs to run: those for which a node has room are sent at once, the others wait in a queue. The computation must
    be known.

    Attributes:
        jobs: The jobs, oldest first. Their numbers were never used before.
        node: Incarnation of the only node on which the jobs may run (they are *pinned* to it); None: any node. If
            the node is not open for the computation, the jobs end as ``ABANDONED``.
        files: Files that must be in the working directory while a job runs, by job number; jobs without files are
            missing.
    """

    client: ClientId
    computation: int
    jobs: list[Job]
    node: NodeId | None = None
    files: dict[int, list[FileEntry]] = {}


class PutObject(Struct):
    """An object (data that many jobs read) of a client, for jobs submitted from now on.

    Each node gets the object before any of these jobs, and keeps it until ``DropObjects`` or the end of the
    computation.
    """

    client: ClientId
    message: node.PutObject


class DropObjects(Struct):
    """Objects, by number, that no open or future job refers to: nodes are told to delete them."""

    client: ClientId
    computation: int
    numbers: list[int]


class SendFiles(Struct):
    """Files to be put into the working directory of a computation on a node, beside those it was loaded with there.

    Answered by ``TellFiles``, once, with the number ``message.request``.
    """

    client: ClientId
    node: NodeId
    message: PlaceFiles


class CancelJobs(Struct):
    """Jobs to cancel, by number. Waiting ones end at once as ``CANCELLED``; those on a node end when the node tells
    their end, which may be a result if the cancel comes too late.

    Numbers of jobs that have ended must not be among them: the core would tell their end once more.
    """

    client: ClientId
    computation: int
    numbers: list[int]


class WatchJobs(Struct):
    """Start telling the client what jobs (by number) print while they run (``TellPrinted``); ``is_wanted`` False:
    stop that."""

    client: ClientId
    computation: int
    numbers: list[int]
    is_wanted: bool = True


class AnswerValue(Struct):
    """A client has a provisional result of a job on a node, or has written or refused a part of a file
    (``TellValue``): the node is told, so that the job goes on."""

    client: ClientId
    node: NodeId
    message: AcknowledgeProvisional


class AnswerPrinted(Struct):
    """A client has what running jobs on a node have printed (``TellPrinted``): the node is told, and reads more.

    ``serial`` is that of ``TellPrinted``. A late answer, of before a reconnect, is ignored.
    """

    client: ClientId
    computation: int
    node: NodeId
    serial: int


class NodeUp(Struct):
    """A connection to a node stands: the first one, or a new one after ``NodeSilent``.

    Attributes:
        node: Incarnation of the node.
        name: Name of the node, for texts that people read.
        cpus: Number of CPUs that the node offers.
        known: True if the node knows this scheduler from an earlier connection, and may still have jobs of it. False:
            it has none; if the scheduler believed that it has, these jobs are lost (as after ``NodeLost``).
    """

    node: NodeId
    name: str
    cpus: int
    known: bool


class NodeSilent(Struct):
    """The connection to a node broke; its jobs go on there, and the node may come back."""

    node: NodeId


class NodeLost(Struct):
    """A node is given up: jobs that were there run again elsewhere or end, as ``retries`` says. ``reason`` tells the
    user why, in words."""

    node: NodeId
    reason: str


class FromNodeEvent(Struct):
    """A message of a node about jobs, computations, objects, files or CPUs. The core ignores other messages."""

    node: NodeId
    message: FromNode


class Tick(Struct):
    """The clock has advanced: time for work stealing. The shell sends one every 20 ms while there are several nodes
    and open jobs."""


Event = (
    AddClient
    | RemoveClient
    | LimitUser
    | LimitClient
    | AddComputation
    | CloseComputation
    | Allocate
    | Vacate
    | LimitNode
    | SubmitJobs
    | CancelJobs
    | PutObject
    | DropObjects
    | SendFiles
    | WatchJobs
    | AnswerValue
    | AnswerPrinted
    | NodeUp
    | NodeSilent
    | NodeLost
    | FromNodeEvent
    | Tick
)
