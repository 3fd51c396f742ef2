"""A scheduler's link to a node: what the node is told when a connection stands, and what is made of what it says.

``net.links.link`` makes the connections. After each one both sides compare what they hold. An *incarnation* is one
run of the node's process: ``Welcome`` tells whether the same one answers.

    state         event                                  next         what is done
    unknown       both sides have proved themselves      introduced   Attach
    introduced    Welcome                                up           ``link_welcome``
    up            connection breaks, or peer is silent   broken       ``link_silent``
    broken        both sides have proved themselves      introduced   Attach
    introduced    Welcome of another incarnation         up           ``link_replaced``, then ``link_welcome``
    introduced    Welcome of another with our results    inheriting   results of the old incarnation are awaited
    inheriting    all these results have arrived         up           ``link_replaced``, then ``link_welcome``
    any           the link fails                         closed       ``link_failed``: unreachable, or lost
    any           ``close``                              closed       Detach, if the node is to forget us

Everything runs on the scheduler's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from typing import Any, Protocol

from dispy.errors import AuthenticationError, RemoteProtocolError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.net.links.acknowledging import Acknowledger, AfterNote
from dispy.net.links.link import Link, Roles
from dispy.net.links.streams_under_way import StreamsUnderWay
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node
from dispy.protocol.node import from_node_decoder
from dispy.protocol.views import NodeId, NodeInfo
from dispy.scheduler.result_payloads import drop_parts, take_parts
from dispy.security.identities import Identity
from dispy.settings import PULSE_S
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.directories import FREE, shared_with
from dispy.system.escaping import block, line
from dispy.system.shared_memory import SharedPool

logger = logging.getLogger("dispy.scheduler")

ROLES = Roles("client", "node", from_node_decoder, PoolSink)
"""Roles of a scheduler and its nodes."""

Trace = Callable[[str, Any], None]
"""Function that logs messages of one connection: called with a direction ("says", "is told") and the message."""


class Owner(Protocol):
    """The owner of links, as they see it: ``NodeLinks``.

    Attributes:
        identity: 16 bytes that name us to nodes, the same on all connections.
        name: Our name, as nodes show it.
        origin: User and machine of this program, for the logs of nodes; empty: not told.
        clock: Source of the time (monotonic seconds).
        pulse_s: Heartbeat interval of all links (seconds).
        tracer: Makes the function that logs the messages of a link; None: messages are not logged.
        memory: Files in memory with large payloads, which nodes of this machine take by name; None: all are sent.
        after_note: Calls a function as soon as the results so far are written to the journal; None: no journal.
    """

    identity: bytes
    name: str
    origin: str
    clock: Clock
    pulse_s: float
    tracer: Callable[[NodeLink], Trace] | None
    memory: SharedPool | None
    after_note: AfterNote | None

    def link_failed(self, node_link: NodeLink, error: Exception) -> None:
        """The node cannot be reached, or is lost; the link is closed."""

    def link_slow(self, node_link: NodeLink) -> None:
        """The node has not answered for ``net.links.link.SLOW_S`` since the first dial; the link goes on trying."""

    def link_silent(self, node_link: NodeLink) -> None:
        """The connection of a known node broke; the link dials again."""

    def link_replaced(self, node_link: NodeLink) -> None:
        """Another incarnation of the node answers: the one in ``node_link.info`` is dead."""

    def link_welcome(self, node_link: NodeLink, known: bool) -> None:
        """The node has introduced itself (``node_link.info``). ``known``: it knows us, and expects ``Reconcile``."""

    def link_message(self, node_link: NodeLink, message: node.FromNode) -> None:
        """The node has sent a message, after its ``Welcome``; payloads are in it, and its texts are escaped."""


class NodeLink:
    """One node, over successive connections (states: see the module).

    Args:
        owner: Object that is told what happens to the link.
        target: Address of the node.
    """

    def __init__(self, owner: Owner, target: Target) -> None:
        self._owner = owner
        self.target = target
        self.link = Link(self, ROLES, owner.clock, target, pulse_s=owner.pulse_s)
        """The connection, and how it is made. ``link.connection`` is None while nothing can be sent."""
        if owner.tracer is not None:
            self.link.set_trace(owner.tracer(self))
        self.batches = Acknowledger(self.link, node.Acknowledge)
        """Which batches of results have arrived, and when the node is told so."""
        self.info: NodeInfo | None = None
        """The node as it has introduced itself; None before."""
        self.identity: Identity | None = None
        """Identity that the node has proved, by a key derived for it; None: it has the master secret."""
        self.shared = ""
        """Path of the node's directory on the memory file system, through which large payloads go as files; empty if
        this process does not see it: they go over the connection, as streams."""
        self.large_arguments: StreamsUnderWay[tuple[int, int, int], node.RunJobs] = StreamsUnderWay()
        """Jobs with large arguments that may still be under way on the present connection, by computation, job number
        and attempt: a cancel can stop them."""
        self.large_code: StreamsUnderWay[int, node.Compute] = StreamsUnderWay()
        """Computations with large code that may still be under way, by number: a close would overtake them, and the
        node would have them for ever."""
        self._heir: node.Welcome | None = None
        """``Welcome`` of the next incarnation while results that it has taken over are awaited, else None."""

    # The link's side.

    def on_up(self, connection: Connection) -> None:
        """Introduce ourselves (``Attach``) to a node that has proved itself."""
        owner = self._owner
        received = self.batches.arrived.attach()
        connection.send(node.Attach(owner.identity, owner.name, received, owner.origin))
        if owner.pulse_s != PULSE_S:
            connection.send(node.SetPulse(owner.pulse_s))

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of the node. Its texts are escaped and its payloads fetched before the owner gets it.

        Raises:
            RemoteProtocolError: The node has not introduced itself; the connection ends.
        """
        if type(message) is node.Welcome:
            self._welcome(connection, message)
        elif self.info is None:
            raise RemoteProtocolError(f"{type(message).__name__} before Welcome")
        else:
            if type(message) is node.JobsEnded:
                arrived = self.batches.arrived
                if arrived.has(message.batch):
                    # The node has sent it again, as the acknowledgement was lost or waits for the journal.
                    drop_parts(connection, message)
                    return
                take_parts(connection, message, self._adopt)
                arrived.arrive(message.batch)
                self.batches.release_soon(self._owner.after_note)
            elif type(message) is node.Provisional and message.stream:
                message.payload = connection.take_stream(message.stream).data or b""
            elif type(message) is node.Provisional and message.segment:
                try:
                    message.payload = self._adopt(message.computation, message.segment)  # type: ignore[assignment]  # never encoded
                except (OSError, ValueError) as error:
                    # No acknowledgement is sent: so the job learns that the value did not arrive.
                    logger.warning("a provisional result of job %d is lost: %s", message.number, error)
                    return
            elif type(message) in (
                node.ComputationFailed,
                node.JobsReturned,
                node.Leaving,
                node.FilesPlaced,
            ):
                message.reason = block(message.reason)  # pyright: ignore[reportAttributeAccessIssue]  # they have one
            elif type(message) is node.Credit or type(message) is node.NodeCredit:
                message.reason = line(message.reason) if message.reason else ""
            self._owner.link_message(self, message)
            heir = self._heir
            if heir is not None and self.batches.arrived.received >= heir.last and not self.link.is_closed:
                self._owner.link_replaced(self)
                self._enter(connection, heir)

    def on_broken(self) -> None:
        """Pass on that the connection broke; what was under way on it is lost."""
        self.large_arguments.clear()
        self.large_code.clear()
        self._owner.link_silent(self)

    def on_failed(self, error: Exception) -> None:
        self._owner.link_failed(self, error)

    def on_slow(self) -> None:
        self._owner.link_slow(self)

    # The node's introduction.

    def _welcome(self, connection: Connection, message: node.Welcome) -> None:
        peer = connection.peer
        if peer is not None and peer.role == "node" and message.name != peer.name:
            raise AuthenticationError(
                f"what answers calls itself {line(message.name)}, and its key is that of {peer}",
                hint="give each node the key that was derived for its name",
            )
        self.identity = peer
        is_other = self.info is not None and self.info.node != message.node
        arrived = self.batches.arrived = self.batches.arrived.compare(
            message.last, message.kept, is_known=message.known, is_same=not is_other
        )
        if is_other:
            assert self.info is not None
            if self.info.node in message.before and arrived.received < message.last:
                # Results of the old incarnation come first. Otherwise their jobs would be reported as lost.
                self._heir = message
                return
            self._owner.link_replaced(self)
        self._enter(connection, message)

    def _enter(self, connection: Connection, message: node.Welcome) -> None:
        self._heir = None
        self.link.is_known = True
        self.info = NodeInfo(
            NodeId(message.node),
            line(message.name),
            connection.peer_address,
            self.target.port,
            message.cpus,
            line(message.platform),
            available=message.available,
            python=line(message.python),
            aliases=self.info.aliases if self.info is not None and self.info.node == message.node else [],
        )
        self.shared = ""
        if self._owner.memory is not None and is_loopback(connection.peer_address):
            self.shared = shared_with(message.node)
            if self.shared:
                connection.send(node.ShareMemory())
        self._owner.link_welcome(self, message.known)

    def _adopt(self, computation: int, segment: int) -> Sized:
        memory = self._owner.memory
        if memory is None or not self.shared:
            raise FileNotFoundError("we do not share its memory")
        path = f"{self.shared}/{self._owner.identity.hex()[:8]}-{computation}/{segment}"
        return memory.adopt(path, f"{self.shared}/{FREE}")

    # What owners do.

    def set_pulse(self) -> None:
        """Change the heartbeat interval on both sides: the owner's ``pulse_s`` has changed."""
        self.link.set_pulse(self._owner.pulse_s)
        if self.link.connection is not None:
            self.link.connection.send(node.SetPulse(self._owner.pulse_s))

    def statistics(self) -> dict[str, int]:
        """Returns the traffic of all connections so far (``Link.traffic``), and numbers of the present one."""
        sent, received = self.link.traffic()
        arrived = self.batches.arrived
        return {
            "connections": int(self.link.connection is not None),
            "bytes_sent": sent,
            "bytes_received": received,
            "batches_received": arrived.received,
            "batches_unacknowledged": arrived.received - arrived.told,
        }

    def close(self, *, forget: bool = True) -> None:
        """End the link for good.

        Args:
            forget: True: the node forgets us and ends our jobs. False: it keeps jobs and results, to be recovered.
        """
        if forget and self.link.connection is not None:
            self.link.connection.send(node.Detach())
        self.link.close()
