"""News of a shared scheduler for a program. Each is a method of ``client.backend.backend.Listener``, which see.

All are numbered (``batch``) and name the cluster; 0: the news is about no single cluster. Those about nodes that
several clusters may use have a list of them (``clusters``).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol import node as of_node
from dispy.protocol.node import Name, Number, Reason
from dispy.protocol.shared.commands import NodeName, Numbers
from dispy.protocol.shared.links import Larges
from dispy.protocol.views import NodeInfo, PlacementView


class Refused(Struct, array_like=True, tag=139):
    """A cluster is not opened, for a ``reason`` in words."""

    batch: Number
    cluster: Number
    reason: Reason


class Offer(Struct, array_like=True, tag=140):
    """Clusters may use a node. Each answers by ``Allocate``, now or later, or not at all."""

    batch: Number
    cluster: Number
    clusters: Numbers
    info: NodeInfo


class NodeChanged(Struct, array_like=True, tag=141):
    """A node that clusters may use, or use, is described anew. ``is_cpus``: it offers another number of CPUs."""

    batch: Number
    cluster: Number
    clusters: Numbers
    info: NodeInfo
    is_cpus: bool


class NodeGone(Struct, array_like=True, tag=142):
    """A node is lost, or has left. What becomes of its jobs was told before."""

    batch: Number
    cluster: Number
    node: NodeName
    reason: Reason


class Usable(Struct, array_like=True, tag=143):
    """A node became usable for a cluster, or is not usable any more. ``is_gone``: as it is lost, or has left."""

    batch: Number
    cluster: Number
    node: NodeName
    is_usable: bool
    reason: Reason
    is_gone: bool = False


class Placed(Struct, array_like=True, tag=144):
    """The view of a cluster on a node has changed, or is told again after a command about it.

    ``seen`` is the number of the last command that the scheduler had then: the program knows by it which of its
    commands the view has in it.
    """

    batch: Number
    cluster: Number
    node: NodeName
    view: PlacementView
    seen: Number


class Ended(Struct, array_like=True, tag=145):
    """Jobs have ended on a node, at this IP address: a recovery was not told of the node. Once for each job."""

    batch: Number
    cluster: Number
    node: NodeName
    ended: Annotated[list[of_node.Ended], Meta(max_length=limits.BATCH_MAX)]
    large: Larges = []
    ip_addr: Name = ""


class EndedHere(Struct, array_like=True, tag=146):
    """Jobs, by number, have ended without the word of a node. Once for each job."""

    batch: Number
    cluster: Number
    numbers: Numbers
    status: Annotated[int, Meta(ge=of_node.CANCELLED, le=of_node.FINISHED)]
    reason: Reason


class Started(Struct, array_like=True, tag=147):
    """Jobs run on a node, at this IP address."""

    batch: Number
    cluster: Number
    node: NodeName
    started: Annotated[list[of_node.Started], Meta(max_length=limits.BATCH_MAX)]
    ip_addr: Name = ""


class Requeued(Struct, array_like=True, tag=148):
    """Jobs, by number, wait for a node again."""

    batch: Number
    cluster: Number
    numbers: Numbers


class Value(Struct, array_like=True, tag=149):
    """A job has sent a provisional result, or a part of a file; it waits for ``AnswerValue``."""

    batch: Number
    cluster: Number
    node: NodeName
    value: of_node.Provisional
    large: Larges = []


class PrintedOutput(Struct, array_like=True, tag=150):
    """Running jobs on a node that are watched have printed something; ``AnswerPrinted`` takes it."""

    batch: Number
    cluster: Number
    node: NodeName
    printed: Annotated[list[of_node.Printed], Meta(max_length=limits.BATCH_MAX)]
    serial: Number


class FilesPlaced(Struct, array_like=True, tag=151):
    """Files of ``PlaceFiles`` are there; or they are not, and ``reason`` says why."""

    batch: Number
    cluster: Number
    node: NodeName
    request: Number
    reason: Reason


class FilesNeeded(Struct, array_like=True, tag=152):
    """A node asks for pieces of files; ``SendFiles`` answers."""

    batch: Number
    cluster: Number
    node: NodeName
    need: of_node.NeedFiles


class Unreachable(Struct, array_like=True, tag=153):
    """No node was reached at an address, which these clusters may use. ``is_refusal``: something there refuses us."""

    batch: Number
    cluster: Number
    clusters: Numbers
    address: Name
    reason: Reason
    is_refusal: bool


class Available(Struct, array_like=True, tag=154):
    """A node has said which of its resources are free; with the bytes that went to it and came from it so far."""

    batch: Number
    cluster: Number
    node: NodeName
    available: of_node.Available
    bytes_sent: Number
    bytes_received: Number


class Window(Struct, array_like=True, tag=155):
    """The program is to submit no more jobs, for a ``reason`` in words; or it may again (``is_open``)."""

    batch: Number
    cluster: Number
    is_open: bool
    reason: Reason


class Standstill(Struct, array_like=True, tag=156):
    """Jobs of the cluster stand still though they could move: ``reason`` says which, in words; empty: none does.

    The words change when anything moves. So a program that has been told nothing else for long has found a fault.
    """

    batch: Number
    cluster: Number
    reason: Reason


News = (
    Refused
    | Offer
    | NodeChanged
    | NodeGone
    | Usable
    | Placed
    | Ended
    | EndedHere
    | Started
    | Requeued
    | Value
    | PrintedOutput
    | FilesPlaced
    | FilesNeeded
    | Unreachable
    | Available
    | Window
    | Standstill
)
