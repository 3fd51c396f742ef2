"""A link: one scheduler and one node over successive connections.

When a connection breaks it is dialed again, and both sides compare what they hold. A node that refuses, or answers as
another incarnation, is lost at once, one that stays silent after the limit.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

from dispy.core.scheduling.ids import NodeId
from dispy.errors import (
    AuthenticationError,
    DispyError,
    InternalError,
    RemoteProtocolError,
    SilenceError,
    VersionError,
)
from dispy.net.connection import TICKS, Connection
from dispy.protocol import node
from dispy.protocol.frames import Group, MemorySource, Source
from dispy.protocol.node import Available, from_node_decoder
from dispy.scheduler.tracing import tracer
from dispy.security.tls import DialerTls
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.directories import FREE, shared_with
from dispy.system.escaping import block, line, lines
from dispy.system.memory import pool
from dispy.system.shared_memory import SharedPool

logger = logging.getLogger("dispy.scheduler")

DIAL_S = 10.0
"""A connection that takes longer to be made is tried anew."""

SLOW_S = 1.5
"""After so long those who wait for a node are told that it has not answered yet."""

REDIAL_S = 0.1
"""Pause between attempts to reach a node again whose connection broke."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a node is expected, and the secret to use there.

    Attributes:
        host: Its address.
        port: Its port.
        key: The secret.
        name: What its certificate must be for, where names are checked.
        tls: How to speak TLS with it; None: not at all.
    """

    host: str
    port: int
    key: bytes = field(repr=False)
    name: str = field(default="", compare=False)
    tls: DialerTls | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class NodeInfo:
    """What is known about a node that has introduced itself."""

    node: NodeId
    target: Target
    name: str
    cpus: int
    platform: str
    ip_addr: str
    is_gone: bool = False
    """Whether it is lost, or has left."""
    bytes_sent: int = 0
    bytes_received: int = 0
    shortage: str = ""
    """Why it offers no CPUs, if it has said so."""
    available: Available | None = None
    aliases: list[str] = field(default_factory=list)
    """Further addresses at which it has answered: it is one node, and ``nodes`` may name it by any of them."""

    def addresses(self) -> list[str]:
        """All of them."""
        return [self.ip_addr, *self.aliases]


class PoolSink:
    """A payload on its way into memory that is used again; ``data`` is None if there is not enough of it."""

    __slots__ = ("_position", "data")

    def __init__(self, size: int) -> None:
        self._position = 0
        try:
            self.data: memoryview | None = pool.take(size)
        except (MemoryError, OverflowError):
            self.data = None

    def write(self, body: memoryview) -> None:
        """Take the next bytes."""
        if self.data is None:
            return
        end = self._position + len(body)
        self.data[self._position : end] = body
        self._position = end

    def room(self, size: int) -> memoryview | None:
        """Where the next bytes belong."""
        if self.data is None:
            return None
        self._position += size
        return self.data[self._position - size : self._position]

    def discard(self) -> None:
        """Nothing holds on to it."""


class Owner(Protocol):
    """What links belong to, as they see it.

    Attributes:
        identity: 16 bytes that name us to nodes.
        name: Shown at nodes.
        origin: Who runs us, and where; for their logs.
        clock: What we go by.
        pulse_s: How often nodes give a sign of life (seconds).
        is_traced: Whether messages are logged.
        memory: Where large payloads lie that nodes of this machine can take by name.
        after_note: Where results are noted before nodes may forget them: calls a function when that has been done.
    """

    identity: bytes
    name: str
    origin: str
    clock: Clock
    pulse_s: float
    is_traced: bool
    memory: SharedPool | None
    after_note: Callable[[Callable[[], None]], object] | None

    def link_failed(self, link: Link, error: Exception) -> None:
        """The node cannot be reached (any more)."""

    def link_slow(self, link: Link) -> None:
        """It has not answered yet."""

    def link_silent(self, link: Link) -> None:
        """The connection broke; the link dials again."""

    def link_replaced(self, link: Link) -> None:
        """At its address another incarnation answers: the old one is dead."""

    def link_welcome(self, link: Link, known: bool) -> None:
        """The node has introduced itself, and may know us."""

    def link_message(self, link: Link, message: node.FromNode) -> None:
        """It said something."""


def take_output(connection: Connection, ended: node.Ended) -> None:
    """What a job printed, where that came as a stream; and its value, which is here, is what it was."""
    if ended.output_stream:
        data = connection.take_stream(ended.output_stream).data
        if data is None:  # no memory for it
            data, ended.checksum = memoryview(b""), 0
        output = bytes(data)
        ended.stdout, ended.stderr = output[: ended.stdout_size], output[ended.stdout_size :]
    if ended.checksum:
        _check_stored(ended)


def _check_stored(ended: node.Ended) -> None:
    """A result that was on its node's disk is what was written there, or it is lost."""
    crc = zlib.crc32(ended.payload) if ended.stream else 0
    if ended.output_stream:
        crc = zlib.crc32(ended.stderr, zlib.crc32(ended.stdout, crc))
    if crc != ended.checksum and ended.status != node.CANCELLED:
        ended.status = node.TERMINATED
        ended.payload = b""
        ended.reason = "the job's result was lost: it was damaged on its node's disk"
        ended.died = True


class Link:
    """One node, over successive connections."""

    def __init__(self, owner: Owner, target: Target) -> None:
        self._owner = owner
        self.target = target
        self.info: NodeInfo | None = None
        self.shared = ""
        """The node's directory on the memory file system, if we see it."""
        self.connection: Connection | None = None
        self.received = 0
        """Number up to which all batches of results have arrived."""
        self._ahead: set[int] = set()
        """Batches that arrived before one with a large payload that left earlier."""
        self._gaps: dict[int, int] = {}
        """Batches that will not come, as the node says: first and last of those in a row."""
        self._sending: dict[tuple[int, int], tuple[int, Group]] = {}
        """Attempts whose arguments may still be on their way as streams, with their computation."""
        self._broken_at: float | None = None
        self._refusals = 0
        """In a row."""
        self._task: asyncio.Task[None] | None = None
        self.is_closed = False
        self.acknowledge: node.Acknowledge | None = None
        """What is to be acknowledged with the next message."""
        self.is_acknowledging = False
        """Whether it will be after a while in any case."""
        self._past = (0, 0)
        self._made: Connection | None = None
        """The last connection made, which may not stand yet."""
        self._heir: node.Welcome | None = None
        """The next incarnation of the node, while the results come that it has taken over."""
        self.noted = 0
        """Number up to which all batches are also where ``Owner.after_note`` sees to it."""

    def dial(self) -> None:
        """Connect in the background."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        target = self.target
        loop.call_later(SLOW_S, self._on_slow)
        while not self.is_closed:
            try:
                async with asyncio.timeout(DIAL_S):
                    await loop.create_connection(self._new_connection, target.host, target.port)
                return
            except Exception as error:
                if not isinstance(error, OSError):
                    logger.exception("the link to %s:%d failed", self.target.host, self.target.port)
                    self._fail(error)
                    return
                if self.info is None or self._is_refusal(error):
                    self._fail(error)
                    return
            await asyncio.sleep(REDIAL_S)

    def _on_slow(self) -> None:
        """Nobody has answered for a while, or not as a node would: those who wait want to know."""
        if self.info is None and not self.is_closed:
            self._owner.link_slow(self)

    @staticmethod
    def _is_refusal(error: OSError) -> bool:
        return isinstance(error, ConnectionRefusedError)

    def _new_connection(self) -> Connection:
        self._made = Connection(
            self,
            from_node_decoder,
            self.target.key,
            "client",
            "node",
            is_dialer=True,
            tls=self.target.tls,
            peer_name=self.target.name or self.target.host,
            make_sink=PoolSink,
            clock=self._owner.clock,
        )
        if self._owner.is_traced:
            self._made.trace = tracer(self)
            logger.debug("%s:%d is dialed", self.target.host, self.target.port)
        return self._made

    def abort_unready(self) -> None:
        """End a connection that does not stand yet."""
        if self._made is not None and self._made is not self.connection:
            self._made.abort(ConnectionError("not wanted any more"))

    def _fail(self, error: Exception) -> None:
        self._owner.link_failed(self, error)

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """The node has proved itself: introduce ourselves."""
        if self.is_closed:
            connection.abort(ConnectionError("not wanted any more"))
            return
        logger.debug("%s:%d has proved itself", self.target.host, self.target.port)
        self.connection = connection
        self._refusals = 0
        # It is back: what it says next may take its time, as long as it is not silent.
        self._broken_at = None
        received = self.received if self._owner.after_note is None else self.noted
        connection.send(node.Attach(self._owner.identity, self._owner.name, received, self._owner.origin))
        connection.set_pulse(self._owner.pulse_s)
        if self._owner.pulse_s != PULSE_S:
            connection.send(node.SetPulse(self._owner.pulse_s))

    def on_message(self, connection: Connection, message: Any) -> None:
        """The node said something."""
        if connection is not self.connection:
            return
        if type(message) is node.Welcome:
            self._welcome(connection, message)
        elif self.info is None:
            raise RemoteProtocolError(f"{type(message).__name__} before Welcome")
        else:
            if type(message) is node.JobsEnded:
                self._note_batch(message.batch)
                self._take_parts(connection, message)
            elif type(message) is node.Provisional and message.stream:
                message.payload = connection.take_stream(message.stream).data or b""
            elif type(message) is node.Provisional and message.segment:
                try:
                    message.payload = self._adopt(message.computation, message.segment)  # type: ignore[assignment]  # never encoded
                except (OSError, ValueError) as error:
                    # Not acknowledged: that tells the job.
                    logger.warning("a provisional result of job %d is lost: %s", message.number, error)
                    return
            elif type(message) in (
                node.ComputationFailed,
                node.JobsReturned,
                node.Leaving,
                node.FilesPlaced,
            ):
                message.reason = block(message.reason)
            elif type(message) is node.Credit and message.reason:
                message.reason = line(message.reason)
            self._owner.link_message(self, message)
            heir = self._heir
            if heir is not None and self.received >= heir.last and not self.is_closed:
                self._owner.link_replaced(self)
                self._enter(connection, heir)

    def _note_batch(self, batch: int) -> None:
        if batch > self.received:
            self._ahead.add(batch)
        while True:
            following = self.received + 1
            if following in self._ahead:
                self._ahead.remove(following)
                self.received = following
            elif following in self._gaps:
                self.received = self._gaps.pop(following)
            else:
                break

    def _welcome(self, connection: Connection, message: node.Welcome) -> None:
        is_other = self.info is not None and self.info.node != message.node
        if not message.known:
            # It has forgotten us, and counts its batches anew.
            self.received = self.noted = 0
            self._ahead.clear()
            self._gaps.clear()
        else:
            self._expect(message)
        if is_other:
            assert self.info is not None
            if self.info.node in message.before and self.received < message.last:
                # What the node had that was there before comes first: nobody is to hear that it is lost.
                self._broken_at = None
                self._heir = message
                return
            self._owner.link_replaced(self)
        self._enter(connection, message)

    def _expect(self, message: node.Welcome) -> None:
        """What a node that knows us has kept follows; what else it ever told is known here, or nowhere."""
        self._ahead.clear()
        self._gaps.clear()
        before = self.received
        for batch in sorted({*message.kept, message.last + 1}):
            if batch > before + 1:
                self._gaps[before + 1] = batch - 1
            before = max(before, batch)
        # The first gap is no matter of waiting.
        self.received = self._gaps.pop(self.received + 1, self.received)

    def _enter(self, connection: Connection, message: node.Welcome) -> None:
        self._heir = None
        self._broken_at = None
        self.info = NodeInfo(
            NodeId(message.node),
            self.target,
            line(message.name),
            message.cpus,
            line(message.platform),
            connection.peer_address,
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
        """The connection is gone: dial again, unless it was refused or never stood."""
        if self.connection is connection:
            self._past = self.traffic()
            self.connection = None
            self._sending.clear()
        logger.debug(
            "the connection to %s:%d is gone: %s", self.target.host, self.target.port, error or "closed"
        )
        if self.is_closed:
            return
        if isinstance(error, InternalError):
            # What could not be said would be said again.
            self._fail(error)
            return
        if isinstance(error, (AuthenticationError, VersionError)):
            self._refusals += 1
        # One of a node that we know may have stood still and refused us for being late: it is asked again.
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
            # Of the time that a silent node has, this much is left.
            ticks = 1 if isinstance(error, SilenceError) else TICKS * SILENT_PULSES
            self._await_return(self._broken_at, ticks)
            self._owner.link_silent(self)
        self._task = None
        self.dial()

    def _await_return(self, broken_at: float, ticks: int) -> None:
        """Count the time that the node has to come back: as we run, so that none counts in which we stood still."""
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

    def send_job(
        self,
        connection: Connection,
        computation: int,
        job: node.Job,
        watched: list[int],
        files: list[node.JobFiles],
    ) -> None:
        """Send a job with large arguments; it is overtaken by whatever is sent meanwhile."""
        bare = node.Job(job.number, job.attempt, b"")
        parts: list[tuple[Any, str, Source]] = [(bare, "stream", MemorySource(job.payload))]
        group = connection.send_streamed(parts, node.RunJobs(computation, [bare], watched, files))
        if len(self._sending) >= 64:
            self._sending = {key: entry for key, entry in self._sending.items() if not entry[1].is_over()}
        self._sending[job.number, job.attempt] = computation, group

    def give_up(self, connection: Connection, message: node.CancelJobs) -> list[node.Attempt]:
        """Do not send what is left of the arguments of jobs; returns those that the node never hears of."""
        given_up = []
        for attempt in message.attempts if self._sending else ():
            _, group = self._sending.pop((attempt.number, attempt.attempt), (0, None))
            if group is not None and connection.give_up(group):
                given_up.append(attempt)
        return given_up

    def give_up_all(self, connection: Connection, computation: int) -> None:
        """Do not send what is left of the arguments of all jobs of a computation."""
        for key, (other, group) in list(self._sending.items()):
            if other == computation:
                connection.give_up(group)
                del self._sending[key]

    def set_pulse(self) -> None:
        """Say and expect signs of life as often as the program wants now."""
        if self.connection is not None:
            self.connection.set_pulse(self._owner.pulse_s)
            self.connection.send(node.SetPulse(self._owner.pulse_s))

    def send_acknowledge(self) -> None:
        """Say which results have arrived."""
        message, self.acknowledge = self.acknowledge, None
        if message is not None and self.connection is not None:
            self.connection.send(message)

    def on_acknowledge_due(self) -> None:
        """Nothing was sent for a while that could have carried it."""
        self.is_acknowledging = False
        self.send_acknowledge()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received over all connections."""
        connection = self.connection
        sent, received = self._past
        if connection is None:
            return sent, received
        return sent + connection.bytes_sent, received + connection.bytes_received

    def close(self, *, forget: bool = True) -> None:
        """End for good. The node forgets us, or keeps what it has."""
        self.is_closed = True
        self.abort_unready()
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            if forget:
                self.connection.send(node.Detach())
            self.connection.close()

    def _take_parts(self, connection: Connection, message: node.JobsEnded) -> None:
        for ended in message.ended:
            if ended.reason:
                ended.reason = lines(ended.reason)
            if ended.segment:
                self._take_shared(ended, message.computation)
            if ended.stream:
                ended.payload = connection.take_stream(ended.stream).data
                if ended.payload is None:
                    ended.payload = b""
                    ended.status = node.TERMINATED
                    ended.reason = "there is not enough memory here for the job's result"
                    ended.checksum = 0
            take_output(connection, ended)

    def _take_shared(self, ended: node.Ended, computation: int) -> None:
        """A result that lies in the node's directory becomes ours; there it stays until it is acknowledged."""
        try:
            ended.payload = self._adopt(computation, ended.segment)  # type: ignore[assignment]  # never encoded
        except (OSError, ValueError) as error:
            # The node may have died since it said so, and another have tidied up after it.
            ended.status = node.TERMINATED
            ended.reason = f"the job's result was lost on its way: {error}"
            ended.died = True

    def _adopt(self, computation: int, segment: int) -> Sized:
        memory = self._owner.memory
        if memory is None or not self.shared:
            raise FileNotFoundError("we do not share its memory")
        path = f"{self.shared}/{self._owner.identity.hex()[:8]}-{computation}/{segment}"
        return memory.adopt(path, f"{self.shared}/{FREE}")
