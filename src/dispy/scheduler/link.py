"""A link: one scheduler and one node, over successive connections.

When a connection breaks, the link dials again, and both sides compare what they hold. An *incarnation* is one run of
the node's process: ``Welcome`` tells whether the same one answers.

    state         event                                  next         what is done
    dialing       dial fails, or connection ends early   closed       ``link_failed``: the node cannot be reached
    dialing       both sides have proved themselves      introduced   Attach
    introduced    Welcome                                up           ``link_welcome``
    up            connection breaks, or peer is silent   broken       ``link_silent``; dial every 0.1 s
    broken        both sides have proved themselves      introduced   Attach
    introduced    Welcome of another incarnation         up           ``link_replaced``, then ``link_welcome``
    introduced    Welcome of another with our results    inheriting   results of the old incarnation are awaited
    inheriting    all these results have arrived         up           ``link_replaced``, then ``link_welcome``
    broken        nothing listens, or refused twice      closed       ``link_failed``: the node is lost
    broken        the time is over                       closed       ``link_failed``: the node is lost
    any           a message of ours is too large         closed       ``link_failed``: a redial would send it again
    any           ``close``                              closed       Detach, if the node is to forget us

"The time" is five heartbeat intervals after the connection broke. A peer that was silent (``SilenceError``) has used
up all but one look of it, half an interval. It is counted in our own timer ticks, not by the clock: time in which
this process stood still does not count.

Everything runs on the scheduler's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from dispy.errors import (
    AuthenticationError,
    DispyError,
    InternalError,
    RemoteProtocolError,
    SilenceError,
    VersionError,
)
from dispy.net.connection import Connection
from dispy.net.dialing import dial
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node
from dispy.protocol.batches import Arrived
from dispy.protocol.connection.heartbeat import TICKS
from dispy.protocol.node import from_node_decoder
from dispy.protocol.views import NodeId, NodeInfo
from dispy.scheduler.large_arguments import LargeArguments
from dispy.scheduler.result_payloads import drop_parts, take_parts
from dispy.security.tls import DialerTls
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.directories import FREE, shared_with
from dispy.system.escaping import block, line
from dispy.system.shared_memory import SharedPool

logger = logging.getLogger("dispy.scheduler")

DIAL_S = 10.0
"""Seconds after which a dial is given up: a known node is dialed again, the link to any other one fails."""

SLOW_S = 1.5
"""Seconds without an introduction of the node, from the first dial, after which the owner is told that it is slow
(``Owner.link_slow``). The link goes on trying."""

ACKNOWLEDGE_S = 0.05
"""Seconds after which results are acknowledged at the latest; earlier with the next message to their node. Until then
the node keeps them."""

REDIAL_S = 0.1
"""Pause (seconds) between two attempts to reach a node whose connection broke."""

Trace = Callable[[str, Any], None]
"""Function that logs messages of one connection: called with a direction ("says", "is told") and the message."""


@dataclass(frozen=True, slots=True)
class Target:
    """Address at which a node is expected, with the secret to use there. Links are found by it: host, port and key.

    Attributes:
        host: Host name or IP address.
        port: TCP port.
        key: The secret (32 bytes).
        name: Name that the node's certificate must be for, where names are checked; empty: ``host``.
        tls: Returns how to speak TLS with the node, called when its address is dialed; None: no TLS.
        socket: Path of the node's Unix socket, dialed instead of the address if it can be reached; empty: none.
    """

    host: str
    port: int
    key: bytes = field(repr=False)
    name: str = field(default="", compare=False)
    tls: Callable[[], DialerTls] | None = field(default=None, compare=False, repr=False)
    socket: str = field(default="", compare=False)


class Owner(Protocol):
    """The owner of links, as they see it: ``SchedulerService``.

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
    tracer: Callable[[Link], Trace] | None
    memory: SharedPool | None
    after_note: Callable[[Callable[[], None]], object] | None

    def link_failed(self, link: Link, error: Exception) -> None:
        """The node cannot be reached, or is lost; the link does nothing more."""

    def link_slow(self, link: Link) -> None:
        """The node has not answered for ``SLOW_S`` since the first dial; the link goes on trying."""

    def link_silent(self, link: Link) -> None:
        """The connection of a known node broke; the link dials again."""

    def link_replaced(self, link: Link) -> None:
        """Another incarnation of the node answers: the one in ``link.info`` is dead."""

    def link_welcome(self, link: Link, known: bool) -> None:
        """The node has introduced itself (``link.info``). ``known``: it knows us, and expects ``Reconcile``."""

    def link_message(self, link: Link, message: node.FromNode) -> None:
        """The node has sent a message, after its ``Welcome``; payloads are in it, and its texts are escaped."""


class Link:
    """One node, over successive connections; dials again when one breaks (states: see the module).

    Args:
        owner: Object that is told what happens to the link.
        target: Address of the node.
    """

    def __init__(self, owner: Owner, target: Target) -> None:
        self._owner = owner
        self.target = target
        self.info: NodeInfo | None = None
        self.shared = ""
        """Path of the node's directory on the memory file system, through which large payloads go as files; empty if
        this process does not see it: they go over the connection, as streams."""
        self.connection: Connection | None = None
        """The connection that has proved itself; None while there is none: nothing can be sent."""
        self.arrived = Arrived()
        """Which batches of results have arrived, and what may be acknowledged: the numbers of the present incarnation
        of the node."""
        self.large_arguments = LargeArguments()
        """Large arguments of jobs that may still be under way on the present connection."""
        self._broken_at: float | None = None
        """Time (monotonic seconds) at which the connection broke, until the node has proved itself again; else None.
        Tells timers of an earlier break from those of this one."""
        self._refusals = 0
        """Refusals by the node in a row (other secret or version). At the second the node counts as lost."""
        self._task: asyncio.Task[None] | None = None
        """Task that dials; None or done while no dial is under way."""
        self.is_closed = False
        """True once the link was closed or has failed: it does not dial again."""
        self._is_acknowledging = False
        """True while a timer runs that acknowledges results by itself if no message has taken that along."""
        self._past = (0, 0)
        """Bytes sent, and bytes received, over earlier connections that had proved themselves."""
        self._made: Connection | None = None
        """The last connection made, to be aborted by ``close``; it may not have proved itself yet."""
        self._heir: node.Welcome | None = None
        """``Welcome`` of the next incarnation while results that it has taken over are awaited, else None."""

    def dial(self) -> None:
        """Begin to connect in background, unless that is under way: ``link_welcome`` or ``link_failed`` follows."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        target = self.target
        loop.call_later(SLOW_S, self._on_slow)
        while not self.is_closed:
            try:
                async with asyncio.timeout(DIAL_S):
                    await dial(target.socket, target.host, target.port, self._new_connection)
                return
            except Exception as error:
                if not isinstance(error, OSError):
                    logger.exception("the link to %s:%d failed", self.target.host, self.target.port)
                    self._fail(error)
                    return
                if self.info is None or isinstance(error, ConnectionRefusedError):
                    self._fail(error)
                    return
            await asyncio.sleep(REDIAL_S)

    def _on_slow(self) -> None:
        """Tell the owner if the node has not introduced itself yet, ``SLOW_S`` after a dial: its users may wait."""
        if self.info is None and not self.is_closed:
            self._owner.link_slow(self)

    def _new_connection(self, is_unix: bool) -> Connection:
        target = self.target
        self._made = Connection(
            self,
            from_node_decoder,
            target.key,
            "client",
            "node",
            is_dialer=True,
            tls=target.tls() if target.tls is not None and not is_unix else None,
            peer_name=target.name or target.host,
            unix_address=target.host,
            make_sink=PoolSink,
            clock=self._owner.clock,
        )
        if self._owner.tracer is not None:
            self._made.trace = self._owner.tracer(self)
            logger.debug("%s:%d is dialed", self.target.host, self.target.port)
        return self._made

    def abort_unready(self) -> None:
        """End the connection that has not proved itself yet, if any. Called when the link is closed or failed."""
        if self._made is not None and self._made is not self.connection:
            self._made.abort(ConnectionError("not wanted any more"))

    def _fail(self, error: Exception) -> None:
        self._owner.link_failed(self, error)

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """Introduce ourselves (``Attach``) and begin the heartbeat: the node has proved itself."""
        if self.is_closed:
            connection.abort(ConnectionError("not wanted any more"))
            return
        logger.debug("%s:%d has proved itself", self.target.host, self.target.port)
        self.connection = connection
        self._refusals = 0
        # The node is back. From now on only the heartbeat counts: its Welcome may take its time.
        self._broken_at = None
        received = self.arrived.attach()
        connection.send(node.Attach(self._owner.identity, self._owner.name, received, self._owner.origin))
        connection.set_pulse(self._owner.pulse_s)
        if self._owner.pulse_s != PULSE_S:
            connection.send(node.SetPulse(self._owner.pulse_s))

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of the node. Its texts are escaped and its payloads fetched before the owner gets it.

        Raises:
            RemoteProtocolError: The node has not introduced itself; the connection ends.
        """
        if connection is not self.connection:
            return
        if type(message) is node.Welcome:
            self._welcome(connection, message)
        elif self.info is None:
            raise RemoteProtocolError(f"{type(message).__name__} before Welcome")
        else:
            if type(message) is node.JobsEnded:
                if self.arrived.has(message.batch):
                    # The node has sent it again, as the acknowledgement was lost or waits for the journal.
                    drop_parts(connection, message)
                    return
                take_parts(connection, message, self._adopt)
                self.arrived.arrive(message.batch)
                self._release_arrived()
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
            elif type(message) is node.Credit and message.reason:
                message.reason = line(message.reason)
            self._owner.link_message(self, message)
            heir = self._heir
            if heir is not None and self.arrived.received >= heir.last and not self.is_closed:
                self._owner.link_replaced(self)
                self._enter(connection, heir)

    def _welcome(self, connection: Connection, message: node.Welcome) -> None:
        is_other = self.info is not None and self.info.node != message.node
        self.arrived = self.arrived.compare(
            message.last, message.kept, is_known=message.known, is_same=not is_other
        )
        if is_other:
            assert self.info is not None
            if self.info.node in message.before and self.arrived.received < message.last:
                # Results of the old incarnation come first. Otherwise their jobs would be reported as lost.
                self._broken_at = None
                self._heir = message
                return
            self._owner.link_replaced(self)
        self._enter(connection, message)

    def _enter(self, connection: Connection, message: node.Welcome) -> None:
        self._heir = None
        self._broken_at = None
        self.info = NodeInfo(
            NodeId(message.node),
            line(message.name),
            connection.peer_address,
            self.target.port,
            message.cpus,
            line(message.platform),
            available=message.available,
            aliases=self.info.aliases if self.info is not None and self.info.node == message.node else [],
        )
        self.shared = ""
        if self._owner.memory is not None and is_loopback(connection.peer_address):
            self.shared = shared_with(message.node)
            if self.shared:
                connection.send(node.ShareMemory())
        self._owner.link_welcome(self, message.known)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Dial again, as the connection is gone. The link fails if the node refused us twice or was never known."""
        if self.connection is connection:
            self._past = self.traffic()
            self.connection = None
            self.large_arguments.clear()
        target = self.target
        logger.debug("the connection to %s:%d is gone: %s", target.host, target.port, error or "closed")
        if self.is_closed:
            return
        if isinstance(error, InternalError):
            # The message that was too large would be sent again after each reconnect.
            self._fail(error)
            return
        if isinstance(error, (AuthenticationError, VersionError)):
            self._refusals += 1
        # One refusal is no proof: a known node that stood still may have refused us for being late. Ask once more.
        if self.info is None or self._refusals > 1:
            if not isinstance(error, DispyError):
                error = RemoteProtocolError(
                    "what listens there closed the connection",
                    hint="check that it is a node's address and port",
                )
            self._fail(error)
            return
        if self._broken_at is None:
            self._broken_at = self._owner.clock.monotonic()
            # Looks (two per heartbeat interval) left until the node is lost. A silent node has used up all but one.
            ticks = 1 if isinstance(error, SilenceError) else TICKS * SILENT_PULSES
            self._await_return(self._broken_at, ticks)
            self._owner.link_silent(self)
        self._task = None
        self.dial()

    def _await_return(self, broken_at: float, ticks: int) -> None:
        """Give the node up after ``ticks`` of our timer (half a heartbeat interval each), unless it is back by then.

        ``broken_at`` is ``_broken_at`` of the break that is meant. Time in which we stood still does not count.
        """
        if self._broken_at == broken_at and not self.is_closed:
            if ticks:
                tick_s = self._owner.pulse_s / TICKS
                asyncio.get_running_loop().call_later(tick_s, self._await_return, broken_at, ticks - 1)
                return
            if self._task is not None:
                self._task.cancel()
            if self.connection is not None:
                self.connection.abort(SilenceError("given up"))
            self._fail(SilenceError("it does not answer any more"))

    def set_pulse(self) -> None:
        """Change the heartbeat interval on both sides: the owner's ``pulse_s`` has changed."""
        if self.connection is not None:
            self.connection.set_pulse(self._owner.pulse_s)
            self.connection.send(node.SetPulse(self._owner.pulse_s))

    def _release_arrived(self) -> None:
        """Have the batches that have arrived acknowledged: soon, or, with a journal, once they are in it."""
        arrived, loop = self.arrived, asyncio.get_running_loop()
        if self._owner.after_note is None:
            arrived.release(arrived.received)
            # It waits for another message: a packet of its own would double those of a sequence of single jobs.
            if not self._is_acknowledging:
                self._is_acknowledging = True
                loop.call_later(ACKNOWLEDGE_S, self._on_acknowledge_due)
        else:
            # In the loop's next turn: by then the notes of these results have been handed to the journal.
            loop.call_soon(self._owner.after_note, partial(self._on_noted, arrived, arrived.received))

    def _on_noted(self, arrived: Arrived, received: int) -> None:
        """Acknowledge batches up to number ``received`` of ``arrived``: the journal has them."""
        arrived.release(received)
        self.acknowledge()

    def _on_acknowledge_due(self) -> None:
        """Acknowledge now, if no message has taken that along since the timer was started."""
        self._is_acknowledging = False
        self.acknowledge()

    def acknowledge(self) -> None:
        """Acknowledge what is due, if anything. Without a connection ``Attach`` will say it."""
        number = self.arrived.due()
        if number and self.connection is not None:
            self.connection.send(node.Acknowledge(number))
            self.arrived.tell(number)

    def traffic(self) -> tuple[int, int]:
        """Returns bytes sent, and bytes received, over all connections of this link that have proved themselves."""
        connection = self.connection
        sent, received = self._past
        if connection is None:
            return sent, received
        return sent + connection.bytes_sent, received + connection.bytes_received

    def statistics(self) -> dict[str, int]:
        """Returns the traffic of all connections so far (``traffic``), and numbers of the present one."""
        sent, received = self.traffic()
        return {
            "connections": int(self.connection is not None),
            "bytes_sent": sent,
            "bytes_received": received,
            "batches_received": self.arrived.received,
            "batches_unacknowledged": self.arrived.received - self.arrived.told,
        }

    def close(self, *, forget: bool = True) -> None:
        """End the link for good.

        Args:
            forget: True: the node forgets us and ends our jobs. False: it keeps jobs and results, to be recovered.
        """
        self.is_closed = True
        self.abort_unready()
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            if forget:
                self.connection.send(node.Detach())
            self.connection.close()

    def _adopt(self, computation: int, segment: int) -> Sized:
        memory = self._owner.memory
        if memory is None or not self.shared:
            raise FileNotFoundError("we do not share its memory")
        path = f"{self.shared}/{self._owner.identity.hex()[:8]}-{computation}/{segment}"
        return memory.adopt(path, f"{self.shared}/{FREE}")
