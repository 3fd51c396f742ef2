"""Messages of a link between a program and a scheduler: introduction, acknowledgement, blobs, questions, recovery,
the end."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node import Count, Identity, Name, Number, Reason, WallTime


class Large(Struct, array_like=True, gc=False):
    """A payload of a message that travels as a blob.

    ``blob`` is its number. ``index`` is the place, from 0, in the message's list of items that the payload belongs
    to; ``field`` the place, from 0, among the fields of an item that may be large (``net.links.channel``).
    """

    index: Count
    field: Annotated[int, Meta(ge=0, le=2)]
    blob: Number


Larges = Annotated[list[Large], Meta(max_length=limits.BATCH_MAX)]
"""Payloads of one message that travel as blobs."""


class Attach(Struct, array_like=True, tag=100):
    """The program's introduction: its first message on each connection.

    ``client`` is the same on all connections of the program; a newer one replaces an older one. ``name`` is the
    program's, ``user`` the login name that it claims, ``origin`` user and machine: for people. ``received``: number
    up to which messages of the scheduler need not be kept any more (0: none). ``is_recovery``: another program
    attaches in the name of this one, which has died.
    """

    client: Identity
    name: Name
    user: Name
    origin: Name
    received: Number = 0
    memory: Name = ""
    """Name of the program's directory on the memory file system, for payloads by name; empty: it has none."""
    is_recovery: bool = False


class Welcome(Struct, array_like=True, tag=101):
    """The scheduler's introduction: its answer to ``Attach``.

    Attributes:
        identity: Identity of the scheduler.
        epoch: How often it was started, from 1.
        name: Name of the scheduler, for people.
        received: Number up to which messages of the program need not be kept any more (0: none).
        is_known: True if the scheduler knows the program from an earlier connection. False: it has no cluster of it.
    """

    identity: Identity
    epoch: Number
    name: Name
    received: Number = 0
    is_known: bool = False
    memory: Name = ""
    """Name of the scheduler's directory on the memory file system, for payloads by name; empty: it has none."""


class Received(Struct, array_like=True, tag=102):
    """All numbered messages up to ``batch`` have arrived whole, and are noted: the sender forgets them with their
    blobs. Both ways."""

    batch: Number


class Blob(Struct, array_like=True, tag=103):
    """A payload, which a message has announced by ``number``. Both ways.

    ``stream`` is its stream on the connection; ``given`` the number of a file in the receiver's directory in memory,
    which the sender has linked there. One of the two is 0; both are if the payload does not come, as its cluster is
    closed.
    """

    number: Number
    stream: Number = 0
    given: Number = 0


class Recover(Struct, array_like=True, tag=109):
    """Ask what the scheduler has of clusters (their numbers) of a program that has died. ``Held`` answers, after all
    news that is kept for the program."""

    clusters: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class RunningJob(Struct, array_like=True, gc=False):
    """A job that runs: its number, since when (seconds since the epoch), and the IP address of its node."""

    number: Number
    start: WallTime
    ip_addr: Name


class Held(Struct, array_like=True, tag=104):
    """Open jobs of a cluster: a part of the answer to ``Recover``.

    An open cluster has at least one part; one that is closed has none. Numbers in ``running`` are among those of
    ``open`` of some part. The last part (``is_last``) has no jobs, and 0 for the cluster.
    """

    cluster: Number
    open: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)] = []
    running: Annotated[list[RunningJob], Meta(max_length=limits.BATCH_MAX)] = []
    is_last: bool = False


class Detach(Struct, array_like=True, tag=105):
    """The program leaves and will not come back: the scheduler closes its clusters, and forgets it."""


class Leaving(Struct, array_like=True, tag=106):
    """The scheduler ends, or gives the program up, for a ``reason`` in words."""

    reason: Reason


class Question(Struct, array_like=True):
    """A question about a cluster, which only explains something to people.

    Attributes:
        cluster: Number of the cluster.
        job: Number of an open job: why does it wait? 0: no job is meant.
        node: Identity of a node: which jobs run there, by its own word? Empty: no node is meant.
    """

    cluster: Number
    job: Number = 0
    node: Annotated[bytes, Meta(max_length=16)] = b""


class Ask(Struct, array_like=True, tag=107):
    """A question; ``Answer`` has the same ``serial``. It is not sent again after a broken connection."""

    serial: Number
    question: Question


class Answer(Struct, array_like=True, tag=108):
    """The answer to the question with this ``serial``.

    Attributes:
        serial: Number of the question.
        where: Where the job is and what it waits for, in words; empty if the cluster has no node for it.
        silent: Nodes of the cluster that are silent, a sentence each.
        jobs: Numbers of the jobs that run on the node.
        error: Why there is no answer, in words; empty: there is one.
    """

    serial: Number
    where: Reason = ""
    silent: list[Reason] = []
    jobs: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)] = []
    error: Reason = ""
