"""Events that the scheduling core is told: what clients ask for, what nodes say, and the time."""

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
    """A client brings a computation. ``compute`` is what nodes are sent."""

    client: ClientId
    compute: Compute
    reentrant: bool = False


class CloseComputation(Struct):
    """A client is done with a computation; jobs that have not ended are given up."""

    computation: int


class Allocate(Struct):
    """A computation may use (up to) so many CPUs of a node.

    0 takes the node away from it; with ``is_draining`` what runs there may end first. ``code`` is what that node is
    sent; empty for what all are sent. ``files``: likewise, None for those of all.
    """

    computation: int
    node: NodeId
    cpus: int
    is_draining: bool = False
    code: bytes = b""
    files: list[FileEntry] | None = None


class Vacate(Struct):
    """A computation leaves a node, when what runs there has ended; what has not started goes elsewhere.

    With ``terminate`` what runs is cancelled. With ``returns`` the computation comes back: ``TellVacated`` asks
    for an ``Allocate``, until which jobs that may run there only are kept; without, they are cancelled.
    """

    computation: int
    node: NodeId
    terminate: bool = False
    returns: bool = False


class LimitNode(Struct):
    """All computations together may use (up to) so many CPUs of a node."""

    node: NodeId
    cpus: int


class SubmitJobs(Struct):
    """Jobs to run, oldest first; on ``node`` and nowhere else, if one is named.

    ``files``: what some of them bring, by number.
    """

    computation: int
    jobs: list[Job]
    node: NodeId | None = None
    files: dict[int, list[FileEntry]] = {}


class PutObject(Struct):
    """Data that jobs submitted from now on may refer to: nodes have it before they get such jobs."""

    message: node.PutObject


class DropObjects(Struct):
    """No job refers to these any more, and none will."""

    computation: int
    numbers: list[int]


class SendFiles(Struct):
    """Files are to be put where a computation has its working directory on a node; answered by ``TellFiles``."""

    node: NodeId
    message: PlaceFiles


class CancelJobs(Struct):
    """Jobs that are not wanted any more."""

    computation: int
    numbers: list[int]


class WatchJobs(Struct):
    """What these jobs print is wanted while they run, wherever that is; or not any more."""

    computation: int
    numbers: list[int]
    is_wanted: bool = True


class AnswerValue(Struct):
    """A part of a file that a job on a node has sent is written, or refused."""

    node: NodeId
    message: AcknowledgeProvisional


class NodeUp(Struct):
    """A connection to a node stands. ``known``: it knows us from an earlier one."""

    node: NodeId
    name: str
    cpus: int
    known: bool


class NodeSilent(Struct):
    """The connection to a node is gone; it may come back."""

    node: NodeId


class NodeLost(Struct):
    """A node is gone for good, with all that ran there."""

    node: NodeId
    reason: str


class FromNodeEvent(Struct):
    """A node said something."""

    node: NodeId
    message: FromNode


class Tick(Struct):
    """Time passes."""


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
