"""Events of the scheduling core: requests of clients, messages and connections of nodes, and the clock."""

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


class AddComputation(Struct):
    """A client opens a computation. No node has it before ``Allocate``.

    Attributes:
        client: The client, to which actions about the computation are addressed.
        compute: Message that opens it on nodes. Its number is unique among all computations.
        reentrant: True if jobs may run again after they were started.
    """

    client: ClientId
    compute: Compute
    reentrant: bool = False


class CloseComputation(Struct):
    """A client closes a computation: it is forgotten here and on its nodes. No end is told of jobs that are open."""

    computation: int


class Allocate(Struct):
    """A computation may use up to ``cpus`` CPUs of a node from now on. Ignored while it is leaving the node.

    Attributes:
        computation: Number of the computation.
        node: The node.
        cpus: Number of CPUs; 0 takes the node away: jobs there run again elsewhere or end as ``ABANDONED``.
        is_draining: True: with 0 CPUs the running jobs may end first, and those that wait there are asked back.
        code: Code that this node is sent; empty: the code of the computation.
        files: Files that this node is sent; None: the files of the computation.
    """

    computation: int
    node: NodeId
    cpus: int
    is_draining: bool = False
    code: bytes = b""
    files: list[FileEntry] | None = None


class Vacate(Struct):
    """A computation leaves a node once its running jobs have ended; jobs that have not started go elsewhere.

    Attributes:
        computation: Number of the computation.
        node: The node.
        terminate: True: running jobs are cancelled.
        returns: True: the computation comes back. ``TellVacated`` asks for an ``Allocate``; until then jobs pinned to
            the node are kept. False: they are cancelled.
    """

    computation: int
    node: NodeId
    terminate: bool = False
    returns: bool = False


class LimitNode(Struct):
    """All computations together may use up to ``cpus`` CPUs of a node, also if it is lost and comes back."""

    node: NodeId
    cpus: int


class SubmitJobs(Struct):
    """Jobs to run.

    Attributes:
        computation: Number of the computation, which must be known.
        jobs: The jobs, oldest first. Their numbers were never used before.
        node: The only node on which they may run; None: any.
        files: Files that jobs bring, by job number; jobs without files are missing.
    """

    computation: int
    jobs: list[Job]
    node: NodeId | None = None
    files: dict[int, list[FileEntry]] = {}


class PutObject(Struct):
    """An object: data that jobs submitted from now on may refer to. Nodes get it before they get such jobs."""

    message: node.PutObject


class DropObjects(Struct):
    """Objects that no job refers to any more and none will: nodes are told to drop them."""

    computation: int
    numbers: list[int]


class SendFiles(Struct):
    """Files to be put into the working directory of a computation on a node; answered by ``TellFiles``."""

    node: NodeId
    message: PlaceFiles


class CancelJobs(Struct):
    """Jobs to cancel, by number. Waiting ones end at once, those on a node when the node says so."""

    computation: int
    numbers: list[int]


class WatchJobs(Struct):
    """Start (or with ``is_wanted`` False: stop) telling the output of jobs while they run, on any node."""

    computation: int
    numbers: list[int]
    is_wanted: bool = True


class AnswerValue(Struct):
    """A part of a file that a running job sent was written by the client, or refused: the job may go on."""

    node: NodeId
    message: AcknowledgeProvisional


class NodeUp(Struct):
    """A connection to a node stands. ``known``: the node knows this scheduler from an earlier connection."""

    node: NodeId
    name: str
    cpus: int
    known: bool


class NodeSilent(Struct):
    """The connection to a node broke; its jobs go on there, and the node may come back."""

    node: NodeId


class NodeLost(Struct):
    """A node is given up, with all that ran there: ``retries`` decides about its jobs. ``reason`` is in words."""

    node: NodeId
    reason: str


class FromNodeEvent(Struct):
    """A message of a node."""

    node: NodeId
    message: FromNode


class Tick(Struct):
    """The clock has advanced. The shell sends one from time to time."""


Event = (
    AddComputation
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
    | NodeUp
    | NodeSilent
    | NodeLost
    | FromNodeEvent
    | Tick
)
