"""Actions of the scheduling core, which its shell carries out: messages to nodes, news for clients."""

from __future__ import annotations

from msgspec import Struct

from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol.node import (
    Ended,
    Printed,
    Provisional,
    Started,
    ToNode,
)


class Send(Struct):
    """Send a message to a node."""

    node: NodeId
    message: ToNode


class TellEnded(Struct):
    """Jobs have reached their final status on a node. Told once for each job."""

    client: ClientId
    computation: int
    node: NodeId
    ended: list[Ended]


class TellEndedHere(Struct):
    """Jobs have reached their final status at the scheduler, all with one status and reason. Told once for each."""

    client: ClientId
    computation: int
    numbers: list[int]
    status: int
    reason: str


class TellStarted(Struct):
    """Jobs are running on a node. Told only of jobs that run longer than a tick of the node."""

    client: ClientId
    computation: int
    node: NodeId
    started: list[Started]


class TellRequeued(Struct):
    """Jobs that were on a node wait for a node again, as new attempts."""

    client: ClientId
    computation: int
    numbers: list[int]


class TellValue(Struct):
    """A running job sent a provisional result."""

    client: ClientId
    computation: int
    node: NodeId
    value: Provisional


class TellPrinted(Struct):
    """New output of running jobs."""

    client: ClientId
    computation: int
    printed: list[Printed]


class TellNode(Struct):
    """A node became usable for a computation (``reason``: a warning or empty), or no longer is (``reason``: why)."""

    client: ClientId
    computation: int
    node: NodeId
    is_usable: bool
    reason: str = ""


class TellVacated(Struct):
    """A computation has left a node to which it comes back: the client answers with ``Allocate``."""

    client: ClientId
    computation: int
    node: NodeId


class TellFiles(Struct):
    """Answer to ``SendFiles``: the files are in place; with a ``reason`` they are not, and will not be."""

    computation: int
    node: NodeId
    request: int
    reason: str


class TellCredit(Struct):
    """A node has another reason than before for the number of jobs that it takes: see ``Placement.shortage``."""

    client: ClientId
    computation: int
    node: NodeId


Action = (
    Send
    | TellEnded
    | TellEndedHere
    | TellStarted
    | TellRequeued
    | TellValue
    | TellPrinted
    | TellNode
    | TellVacated
    | TellCredit
    | TellFiles
)
Outbox = list[Action]
"""Actions in the order in which the shell does them; handlers append to it."""
