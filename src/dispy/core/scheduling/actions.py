"""Actions that the scheduling core asks its shell for: messages to nodes, news for clients."""

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
    """Jobs have reached their final status on a node."""

    client: ClientId
    computation: int
    node: NodeId
    ended: list[Ended]


class TellEndedHere(Struct):
    """Jobs have reached their final status with us, all the same one for the same reason."""

    client: ClientId
    computation: int
    numbers: list[int]
    status: int
    reason: str


class TellStarted(Struct):
    """Jobs are running."""

    client: ClientId
    computation: int
    node: NodeId
    started: list[Started]


class TellRequeued(Struct):
    """Jobs that were on a node wait again."""

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
    """Running jobs have printed something."""

    client: ClientId
    computation: int
    printed: list[Printed]


class TellNode(Struct):
    """A node became usable for a computation (``reason`` is a warning, if anything), or is not any more, and why."""

    client: ClientId
    computation: int
    node: NodeId
    is_usable: bool
    reason: str = ""


class TellVacated(Struct):
    """A computation has left a node that it is to come back to: ``Allocate`` says how, and whether."""

    client: ClientId
    computation: int
    node: NodeId


class TellFiles(Struct):
    """Files that were to be put somewhere are there; with a reason they are not, and will not be."""

    computation: int
    node: NodeId
    request: int
    reason: str


class TellCredit(Struct):
    """A node takes more or fewer jobs of a computation than before, for another reason than before."""

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
