"""Commands of a program to a shared scheduler. Each is a method of ``client.backend.backend.Backend``, which see.

All are numbered (``batch``) and name the cluster; 0: the command is about no cluster.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol import node as of_node
from dispy.protocol.node import Compute, Count, Files, Inline, Name, Number
from dispy.protocol.shared.links import Larges

NodeName = Annotated[bytes, Meta(max_length=16)]
"""Identity of one run of a node (16 bytes); empty: no node is meant."""
Numbers = Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Wish(Struct, array_like=True, gc=False):
    """Nodes that a cluster may use, as an element of ``nodes`` names them.

    Attributes:
        host: Host name, address or pattern, as the program has it.
        ip_addr: IP address; empty: ``host`` is a pattern.
        port: TCP port; 0: the usual one.
        cpus: CPUs to use of a node; 0: all; negative: all but that many.
        is_asked: True if only the program can say how it uses such a node: by a class, files or code of its own.
    """

    host: Name
    ip_addr: Name = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    cpus: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)] = 0
    is_asked: bool = False


Wishes = Annotated[list[Wish], Meta(max_length=limits.BATCH_MAX)]


class OpenCluster(Struct, array_like=True, tag=110):
    """Open a cluster: its computation (numbered as the cluster), and the nodes that are to be looked for."""

    batch: Number
    cluster: Number
    compute: Compute
    is_reentrant: bool
    wishes: Wishes
    large: Larges = []


class CloseCluster(Struct, array_like=True, tag=111):
    """Close a cluster: nothing more is told of it."""

    batch: Number
    cluster: Number


class Submit(Struct, array_like=True, tag=112):
    """Jobs, oldest first; ``node``: the only one that may run them. ``files``: files that jobs bring."""

    batch: Number
    cluster: Number
    jobs: Annotated[list[of_node.Job], Meta(max_length=limits.BATCH_MAX)]
    node: NodeName = b""
    files: Annotated[list[of_node.JobFiles], Meta(max_length=limits.BATCH_MAX)] = []
    large: Larges = []


class CancelJobs(Struct, array_like=True, tag=113):
    """Cancel jobs by number. The scheduler ignores those that have ended."""

    batch: Number
    cluster: Number
    numbers: Numbers


class WatchJobs(Struct, array_like=True, tag=114):
    """Tell what jobs print while they run, or stop it."""

    batch: Number
    cluster: Number
    numbers: Numbers
    is_wanted: bool


class AnswerValue(Struct, array_like=True, tag=115):
    """A provisional result or a part of a file is here, or is refused: its job waits for that."""

    batch: Number
    cluster: Number
    node: NodeName
    answer: of_node.AcknowledgeProvisional


class AnswerPrinted(Struct, array_like=True, tag=116):
    """Have a node read more of what jobs print: the program has taken what was told."""

    batch: Number
    cluster: Number
    node: NodeName
    serial: Number


class PutObject(Struct, array_like=True, tag=117):
    """An object for all nodes of a cluster, before any job that is submitted later."""

    batch: Number
    cluster: Number
    put: of_node.PutObject
    large: Larges = []


class DropObjects(Struct, array_like=True, tag=118):
    """Objects, by number, to which no job refers."""

    batch: Number
    cluster: Number
    numbers: Numbers


class PlaceFiles(Struct, array_like=True, tag=119):
    """Put files into the working directory of a cluster on a node; ``FilesPlaced`` answers."""

    batch: Number
    cluster: Number
    node: NodeName
    place: of_node.PlaceFiles


class SendFiles(Struct, array_like=True, tag=120):
    """Pieces of files that a node has asked for, and refusals of files that it will not get."""

    batch: Number
    cluster: Number
    node: NodeName
    pieces: Annotated[list[of_node.FilePiece], Meta(max_length=limits.PIECES_MAX)]
    unreadable: Annotated[list[of_node.FileUnreadable], Meta(max_length=limits.PIECES_MAX)] = []
    large: Larges = []


class Discover(Struct, array_like=True, tag=121):
    """Look for nodes now: the wishes of a cluster as they are from now on, and those among them to dial at once."""

    batch: Number
    cluster: Number
    wishes: Wishes
    now: Wishes = []


class Allocate(Struct, array_like=True, tag=122):
    """Use a node for a cluster, change its number of CPUs, or take the node away (0).

    ``files`` None: those of the cluster. ``code`` is for this node alone; empty: that of the cluster.
    """

    batch: Number
    cluster: Number
    node: NodeName
    cpus: Count
    code: Inline = b""
    files: Files | None = None
    is_draining: bool = False
    large: Larges = []


class Vacate(Struct, array_like=True, tag=123):
    """Have a cluster leave a node once its jobs there have ended."""

    batch: Number
    cluster: Number
    node: NodeName
    terminate: bool
    returns: bool


class LimitNode(Struct, array_like=True, tag=124):
    """Limit the CPUs of a node that each cluster of this program uses."""

    batch: Number
    cluster: Number
    node: NodeName
    cpus: Count


Command = (
    OpenCluster
    | CloseCluster
    | Submit
    | CancelJobs
    | WatchJobs
    | AnswerValue
    | AnswerPrinted
    | PutObject
    | DropObjects
    | PlaceFiles
    | SendFiles
    | Discover
    | Allocate
    | Vacate
    | LimitNode
)
