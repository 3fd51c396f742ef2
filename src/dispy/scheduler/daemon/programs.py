"""The programs that use a shared scheduler, as it knows them: plain records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.net.links.channel import Channel
from dispy.protocol.shared import RunningJob, Wish
from dispy.scheduler.daemon.files import ProgramFiles
from dispy.scheduler.daemon.payload_rooms import PayloadRoom

if TYPE_CHECKING:
    from dispy.net.connection import Connection
    from dispy.security.identities import Identity


class SharedCluster:
    """An open cluster of a program.

    Attributes:
        number: Number of the cluster at its program.
        name: Name of its computation, for people.
        wishes: Nodes that it may use, as far as they have to be looked for.
    """

    __slots__ = (
        "allocated", "answered", "held", "name", "needed", "number", "objects", "open", "running", "standstill",
        "wishes",
    )  # fmt: skip

    def __init__(self, number: int, name: str, wishes: list[Wish]) -> None:
        self.number = number
        self.name = name
        self.wishes = wishes
        self.open: dict[int, int] = {}
        """Bytes of the arguments, and of the list of files, of each job that the core has and that has not ended, by
        the job's number."""
        self.running: dict[int, RunningJob] = {}
        """Jobs among these that a node has reported as running, by number: a recovery shows them."""
        self.allocated: dict[NodeId, int] = {}
        """Number of CPUs of each node that the program has asked for, above 0."""
        self.answered: set[NodeId] = set()
        """Nodes about which the program has said whether and how it uses them."""
        self.objects: dict[int, int] = {}
        """Bytes of each object that was put and not dropped, by its number."""
        self.needed: dict[tuple[NodeId, bytes], int] = {}
        """Files, by node and digest, that nodes have asked for in its name: up to which byte."""
        self.standstill = ""
        """Which of its jobs stand still, in words, as the program was told; empty: none."""
        self.held = 0
        """Bytes that are held until the cluster is closed: code, list of files, objects."""


class Program:
    """A program: its identity, its link, its clusters.

    Args:
        client: Its number in the core.
        identity: 16 bytes by which it names itself on each connection.
        name: Its name, for people.
        user: Name of its user: that of the key it has proved, else the login name that it claims.
        channel: The numbered messages to it and from it.
        room: Where its large payloads lie.
        files: Its files.
    """

    def __init__(
        self,
        client: ClientId,
        identity: bytes,
        name: str,
        user: str,
        channel: Channel,
        room: PayloadRoom,
        files: ProgramFiles,
    ) -> None:
        self.client = client
        self.identity = identity
        self.name = name
        self.user = user
        self.channel = channel
        self.room = room
        self.files = files
        self.connection: Connection | None = None
        """The connection that stands; None while there is none."""
        self.proved: Identity | None = None
        """Identity of the derived key that it has proved; None: it has the master secret."""
        self.is_dead = False
        """True once a recovery has attached in its name: the program itself is not let in any more."""
        self.clusters: dict[int, SharedCluster] = {}
        """Open clusters, by number."""
        self.jobs = 0
        """Number of open jobs of all its clusters."""
        self.size = 0
        """Bytes of the arguments of these."""
        self.held = 0
        """Bytes that are held until its clusters are closed."""
        self.heard = 0
        """Number of the last news that it had acknowledged when ``unheard`` was counted."""
        self.unheard = 0
        """Commands that it has sent since then (``windows.check_heard``)."""
        self.has_quota = False
        """True if its user may have so many jobs only."""
        self.is_full = False
        """True while the program was told to submit no more (``windows``)."""
        self.is_stuffed = False
        """True if it was told so as too much waits for payloads, which is still the case."""
        self.kept = 0
        """Number of results that came while it was away (``absence``)."""
        self.kept_size = 0
        """Bytes of these."""
        self.is_held = False
        """True while its jobs do not start, as too many results are kept for it."""
        self.lease: asyncio.TimerHandle | None = None
        """Timer that forgets the program, while there is no connection."""

    @property
    def is_there(self) -> bool:
        """True if the program is connected, and it is not a recovery that is."""
        return self.connection is not None and not self.is_dead
