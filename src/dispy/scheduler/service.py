"""Performs what the scheduling core decides: holds the links to nodes and speaks for the core.

A *link* is one scheduler and one node over successive connections. When a connection breaks, it is
dialed again, and both sides compare what they hold; a node that refuses, or answers as another
incarnation, is lost at once, one that stays silent after the limit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import msgspec

from dispy.buffers import SharedPool, pool
from dispy.clock import Clock
from dispy.core.scheduling import Machine
from dispy.core.scheduling import state as core
from dispy.core.scheduling.state import NodeId
from dispy.errors import AuthenticationError, DispyError, RemoteProtocolError, SilenceError, VersionError
from dispy.net.addresses import is_loopback
from dispy.net.connection import TICKS, Connection, Payload
from dispy.net.directories import FREE, GIVEN, GIVEN_BITS, given_prefix, shared_with
from dispy.net.tls import DialerTls
from dispy.protocol import limits, node
from dispy.protocol.frames import Group, MemorySource, Source
from dispy.protocol.node import Available
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.text import block, line, lines

logger = logging.getLogger("dispy.scheduler")

TICK_S = 0.02
"""How often idle CPUs look for work behind running jobs, while there are any."""

ACKNOWLEDGE_S = 0.05
"""Results are acknowledged with the next message that goes to their node, at the latest after this."""

DIAL_S = 10.0
"""A connection that takes longer to be made is tried anew."""

SLOW_S = 1.5
"""After so long those who wait for a node are told that it has not answered yet."""

PIECES_BATCH = 256 * limits.KIB
"""Bytes of small files in one message: 2 ms at 1 Gbit/s, which a cancel waits behind it."""

REDIAL_S = 0.1
"""Pause between attempts to reach a node again whose connection broke."""


class Listener(Protocol):
    """Who is told what happens: the client library, or a daemon's side towards its clients."""

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself; allocate it to the computations that may use it."""

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost."""

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """A node that was to be reached did not answer, or refused us."""

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have reached their final status on a node."""

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have reached their final status with us."""

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running."""

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait again."""

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job sent a provisional result."""

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs have printed something."""

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node became usable for a computation, or ceased to be."""

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A computation has left a node that it is to come back to: allocate it, or take the node away from it."""

    def on_credit(self, action: core.TellCredit, found: NodeInfo) -> None:
        """A node takes more or fewer jobs of a computation than before, for another reason than before."""

    def on_files_needed(self, message: node.NeedFiles, found: NodeInfo) -> None:
        """A node wants pieces of files; ``SchedulerService.send_pieces`` sends them."""

    def on_files(self, action: core.TellFiles) -> None:
        """Files have been put somewhere, or cannot be."""

    def on_cpus(self, found: NodeInfo) -> None:
        """A node may offer another number of CPUs than before."""

    def on_available(self, found: NodeInfo) -> None:
        """A node says what it has to spare."""

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        """A node answers what ``ask_jobs`` has asked."""


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
    bytes_sent: int = 0
    bytes_received: int = 0
    available: Available | None = None


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


class Link:
    """One node, over successive connections."""

    def __init__(self, service: SchedulerService, target: Target) -> None:
        self._service = service
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
        """Number up to which all batches are also where ``SchedulerService.after_note`` sees to it."""

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
            self._service.link_slow(self)

    @staticmethod
    def _is_refusal(error: OSError) -> bool:
        return isinstance(error, ConnectionRefusedError)

    def _new_connection(self) -> Connection:
        self._made = Connection(
            self,
            node.from_node_decoder,
            self.target.key,
            "client",
            "node",
            is_dialer=True,
            tls=self.target.tls,
            peer_name=self.target.name or self.target.host,
            make_sink=PoolSink,
            clock=self._service.clock,
        )
        return self._made

    def abort_unready(self) -> None:
        """End a connection that does not stand yet."""
        if self._made is not None and self._made is not self.connection:
            self._made.abort(ConnectionError("not wanted any more"))

    def _fail(self, error: Exception) -> None:
        self._service.link_failed(self, error)

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """The node has proved itself: introduce ourselves."""
        if self.is_closed:
            connection.abort(ConnectionError("not wanted any more"))
            return
        self.connection = connection
        self._refusals = 0
        # It is back: what it says next may take its time, as long as it is not silent.
        self._broken_at = None
        received = self.received if self._service.after_note is None else self.noted
        connection.send(node.Attach(self._service.identity, self._service.name, received))
        connection.set_pulse(self._service.pulse_s)
        if self._service.pulse_s != PULSE_S:
            connection.send(node.SetPulse(self._service.pulse_s))

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
            self._service.link_message(self, message)
            heir = self._heir
            if heir is not None and self.received >= heir.last and not self.is_closed:
                self._service.link_replaced(self)
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
            self._service.link_replaced(self)
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
        )
        self.shared = ""
        if self._service.memory is not None and is_loopback(connection.peer_address):
            self.shared = shared_with(message.node)
            if self.shared:
                connection.send(node.ShareMemory())
        self._service.link_welcome(self, message.known)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone: dial again, unless it was refused or never stood."""
        if self.connection is connection:
            self._past = self.traffic()
            self.connection = None
            self._sending.clear()
        if self.is_closed:
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
            self._broken_at = self._service.clock.monotonic()
            # Of the time that a silent node has, this much is left.
            ticks = 1 if isinstance(error, SilenceError) else TICKS * SILENT_PULSES
            self._await_return(self._broken_at, ticks)
            self._service.link_silent(self)
        self._task = None
        self.dial()

    def _await_return(self, broken_at: float, ticks: int) -> None:
        """Count the time that the node has to come back: as we run, so that none counts in which we stood still."""
        if self._broken_at == broken_at and not self.is_closed:
            if ticks:
                tick_s = self._service.pulse_s / TICKS
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
            self.connection.set_pulse(self._service.pulse_s)
            self.connection.send(node.SetPulse(self._service.pulse_s))

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
            if ended.output_stream:
                output = bytes(connection.take_stream(ended.output_stream).data or b"")
                ended.stdout, ended.stderr = output[: ended.stdout_size], output[ended.stdout_size :]

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
        memory = self._service.memory
        if memory is None or not self.shared:
            raise FileNotFoundError("we do not share its memory")
        path = f"{self.shared}/{self._service.identity.hex()[:8]}-{computation}/{segment}"
        return memory.adopt(path, f"{self.shared}/{FREE}")


class SchedulerService:
    """The scheduling core with its links.

    Args:
        identity: 16 bytes that name this scheduler to nodes, new for each.
        name: Shown at nodes.
        listener: Whom to tell.
        clock: What it goes by.
    """

    def __init__(self, identity: bytes, name: str, listener: Listener, clock: Clock = time) -> None:
        self.clock = clock
        self.identity = identity
        self.name = name
        self.memory: SharedPool | None = None
        """Where large payloads lie that nodes of this machine can take by name."""
        self.after_note: Callable[[Callable[[], None]], object] | None = None
        """Where results are noted before nodes may forget them: calls a function when that has been done."""
        self.on_send: dict[int, Callable[[node.RunJobs], None]] = {}
        """Who is told, by computation, before jobs leave for a node."""
        self._given = given_prefix(identity) << GIVEN_BITS
        self._listener = listener
        self._machine = Machine()
        self._lock = threading.RLock()
        """Guards the core: all else happens on the loop, ``try_submit`` on any thread."""
        self._loop = asyncio.get_running_loop()
        self._links: dict[Target, Link] = {}
        self._by_node: dict[NodeId, Link] = {}
        self._tick: asyncio.TimerHandle | None = None
        self.pulse_s = PULSE_S
        """How often nodes give a sign of life (seconds)."""
        self._perform_by_type: dict[type[core.Action], Callable[[Any], None]] = {
            core.Send: self._send,
            core.TellEnded: lambda a: listener.on_ended(a, self._info(a.node)),
            core.TellEndedHere: listener.on_ended_here,
            core.TellStarted: lambda a: listener.on_started(a, self._info(a.node)),
            core.TellRequeued: listener.on_requeued,
            core.TellValue: lambda a: listener.on_value(a, self._info(a.node)),
            core.TellPrinted: listener.on_printed,
            core.TellNode: self._tell_node,
            core.TellVacated: lambda a: listener.on_vacated(a, self._info(a.node)),
            core.TellCredit: lambda a: listener.on_credit(a, self._info(a.node)),
            core.TellFiles: listener.on_files,
        }

    @property
    def state(self) -> core.State:
        """The core's state, to be read only."""
        return self._machine.state

    def handle(self, event: core.Event) -> None:
        """Tell the core something and do what it decides."""
        perform = self._perform_by_type
        with self._lock:
            for action in self._machine.handle(event, self.clock.monotonic()):
                perform[type(action)](action)

    def submit(self, event: core.SubmitJobs) -> None:
        """Tell the core of new jobs; what that sends leaves at once."""
        self.handle(event)
        for link in self._by_node.values():
            if link.connection is not None:
                link.connection.flush()

    def try_submit(self, computation: int, job: node.Job) -> bool:
        """Submit a job from any thread, if it can leave for a node this moment; False if it cannot.

        The way of a single job whose program waits for it: no thread has to wake up for it here.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            known = self.state.computations.get(computation)
            if known is None or known.queue or not known.free or len(job.payload) >= limits.INLINE_MAX:
                return False
            for action in self._machine.handle(core.SubmitJobs(computation, [job]), self.clock.monotonic()):
                link = self._by_node.get(action.node) if type(action) is core.Send else None
                if (
                    link is None
                    or link.connection is None
                    or not self._send_now(link, link.connection, action)
                ):
                    self._loop.call_soon_threadsafe(self._perform_by_type[type(action)], action)
            return True
        finally:
            self._lock.release()

    def _send_now(self, link: Link, connection: Connection, action: core.Action) -> bool:
        assert type(action) is core.Send
        acknowledge = link.acknowledge
        if not connection.try_send_now(
            [acknowledge, action.message] if acknowledge is not None else [action.message]
        ):
            return False
        if link.acknowledge is acknowledge:
            link.acknowledge = None
        return True

    def schedule_tick(self) -> None:
        """Look for misplaced jobs from time to time, while there are jobs and several nodes."""
        if self._tick is None and len(self._by_node) > 1:
            self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self.handle(core.Tick())
        if any(computation.open for computation in self.state.computations.values()):
            self.schedule_tick()

    def set_pulse(self, pulse_s: float) -> None:
        """Have nodes watched at another interval: one that is silent for five is dead (seconds)."""
        if pulse_s != self.pulse_s:
            self.pulse_s = pulse_s
            for link in self._links.values():
                link.set_pulse()

    # Links.

    def reach(self, target: Target) -> None:
        """Connect to a node, unless that is done or under way."""
        if target not in self._links:
            link = self._links[target] = Link(self, target)
            link.dial()

    def is_linked(self, target: Target) -> bool:
        """Whether there is a link to a target, standing or on its way."""
        return target in self._links

    def ask_jobs(self, node_id: NodeId, computation: int, serial: int) -> None:
        """Ask a node which jobs of a computation run there.

        Raises:
            SilenceError: The connection to it is broken.
        """
        link = self._by_node.get(node_id)
        if link is None or link.connection is None:
            raise SilenceError(
                "the connection to the node is broken and is being made again", hint="try again"
            )
        link.connection.send(node.ListJobs(computation, serial))

    def is_sending(self, node_id: NodeId) -> bool:
        """Whether large payloads are on their way to a node."""
        link = self._by_node.get(node_id)
        return link is not None and link.connection is not None and link.connection.is_streaming

    def silent_s(self, node_id: NodeId) -> float:
        """How long a node has said nothing (seconds), to half an interval."""
        link = self._by_node.get(node_id)
        return link.connection.silent_s if link is not None and link.connection is not None else 0.0

    def nodes(self) -> list[NodeInfo]:
        """All nodes that have introduced themselves and are not lost."""
        found = []
        for link in self._by_node.values():
            if link.info is not None:
                link.info.bytes_sent, link.info.bytes_received = link.traffic()
                found.append(link.info)
        return found

    def link_failed(self, link: Link, error: Exception) -> None:
        """A node cannot be reached (any more)."""
        self._links.pop(link.target, None)
        link.is_closed = True
        link.abort_unready()
        if link.info is None:
            self._listener.on_unreachable(link.target, error)
            return
        self._lose(link, f"node {link.info.name} ({link.target.host}:{link.target.port}) is lost: {error}")

    def link_slow(self, link: Link) -> None:
        """A node has not answered yet."""
        error = SilenceError(
            f"no answer for {SLOW_S:g} s",
            hint="check its address and port, and the firewalls on the way",
        )
        self._listener.on_unreachable(link.target, error)

    def link_replaced(self, link: Link) -> None:
        """At a known address another incarnation answers: the old one is dead."""
        assert link.info is not None
        self._lose(link, f"node {link.info.name} was started anew")

    def link_silent(self, link: Link) -> None:
        """A connection broke; the link dials again."""
        assert link.info is not None
        self.handle(core.NodeSilent(link.info.node))

    def link_welcome(self, link: Link, known: bool) -> None:
        """A node has introduced itself."""
        info = link.info
        assert info is not None
        other = self._by_node.get(info.node)
        if other is not None and other is not link:
            # The same node under another of its names: one link is enough.
            self._links.pop(link.target, None)
            self._links[link.target] = other
            link.info = None
            link.is_closed = True
            if link.connection is not None:
                link.connection.close()
            return
        is_new = other is None
        self._by_node[info.node] = link
        self.handle(core.NodeUp(info.node, info.name, info.cpus, known))
        if is_new or not known:
            self._listener.on_node_known(info)
        else:
            self._listener.on_cpus(info)
        # Jobs may have been submitted before there was a second node.
        self.schedule_tick()

    def link_message(self, link: Link, message: node.FromNode) -> None:
        """A node said something."""
        assert link.info is not None
        if type(message) is node.Leaving:
            name = link.info.name
            self._links.pop(link.target, None)
            link.close()
            self._lose(link, f"node {name} left: {message.reason}")
            return
        if type(message) is node.Available:
            link.info.available = message
            self._listener.on_available(link.info)
            return
        if type(message) is node.NeedFiles:
            self._listener.on_files_needed(message, link.info)
            return
        if type(message) is node.JobsListed:
            self._listener.on_jobs_listed(link.info, message)
            return
        if type(message) is node.NodeCpus:
            link.info.cpus = message.cpus
        self.handle(core.FromNodeEvent(link.info.node, message))
        if type(message) is node.NodeCpus:
            self._listener.on_cpus(link.info)

    def _lose(self, link: Link, reason: str) -> None:
        info = link.info
        assert info is not None
        for target in [
            target for target, other in self._links.items() if other is link and other.is_closed
        ]:
            del self._links[target]
        self.handle(core.NodeLost(info.node, reason))
        self._by_node.pop(info.node, None)
        self._listener.on_node_gone(info, reason)

    def _info(self, node_id: NodeId) -> NodeInfo:
        info = self._by_node[node_id].info
        assert info is not None
        return info

    # Doing what the core decides.

    def _send(self, action: core.Send) -> None:
        link = self._by_node.get(action.node)
        if link is None or link.connection is None:
            return
        connection = link.connection
        message = action.message
        if type(message) is node.Acknowledge:
            # A packet of its own for it would double what a node reads in a sequence of single jobs.
            if not link.is_acknowledging:
                link.is_acknowledging = True
                self._loop.call_later(ACKNOWLEDGE_S, link.on_acknowledge_due)
            # All up to here, which is not the last that came if a larger one is still on its way.
            if self.after_note is None:
                link.acknowledge = node.Acknowledge(link.received)
            else:
                # In the next turn: what is to be noted of these results is then on its way.
                self._loop.call_soon(self.after_note, partial(self._acknowledge_noted, link, link.received))
            return
        if link.acknowledge is not None:
            link.send_acknowledge()
        if type(message) is node.RunJobs:
            if message.computation in self.on_send:
                self.on_send[message.computation](message)
            self._send_jobs(link, connection, message)
        elif type(message) is node.CancelJobs:
            self._send_cancel(link, connection, message)
        elif type(message) is node.PutObject and len(message.payload) >= limits.INLINE_MAX:
            self._send_object(link, connection, message)
        elif type(message) is node.Compute and len(message.code) >= limits.INLINE_MAX:
            large = msgspec.structs.replace(message, code=b"")
            connection.send_streamed([(large, "stream", MemorySource(message.code))], large)
        else:
            if type(message) is node.CloseComputation:
                link.give_up_all(connection, message.computation)
            connection.send(message)

    def _acknowledge_noted(self, link: Link, received: int) -> None:
        """Results are where they have to be before a node may forget them."""
        link.noted = max(link.noted, min(received, link.received))
        link.acknowledge = node.Acknowledge(link.noted)
        link.send_acknowledge()

    def _send_jobs(self, link: Link, connection: Connection, message: node.RunJobs) -> None:
        jobs = message.jobs
        large = [job for job in jobs if len(job.payload) >= limits.INLINE_MAX]
        if large:
            jobs = [job for job in jobs if len(job.payload) < limits.INLINE_MAX]
        if large and link.shared:
            streamed = []
            for job in large:
                given = self._give(link, job.payload)
                if given:
                    jobs.append(node.Job(job.number, job.attempt, b"", given=given))
                else:
                    streamed.append(job)
            large = streamed
            message = node.RunJobs(message.computation, jobs, message.watched, message.files)
        if jobs:
            small = node.RunJobs(message.computation, jobs, message.watched, message.files)
            connection.send(small if large else message)
        for job in large:
            watched = [job.number] if job.number in message.watched else []
            files = [item for item in message.files if item.number == job.number]
            link.send_job(connection, message.computation, job, watched, files)

    def send_pieces(self, node_id: NodeId, computation: int, pieces: list[node.FilePiece]) -> None:
        """Send pieces of files that a node has asked for: large ones as streams, small ones together.

        If it is not connected they are dropped: it asks again.
        """
        link = self._by_node.get(node_id)
        connection = link.connection if link is not None else None
        if connection is None or not connection.is_ready:
            return
        batch: list[node.FilePiece] = []
        size = 0
        for piece in pieces:
            if len(piece.data) >= limits.INLINE_MAX:
                bare = node.FilePiece(piece.digest, piece.offset, b"")
                source = MemorySource(piece.data)
                connection.send_streamed([(bare, "stream", source)], node.FileData(computation, [bare]))
                continue
            batch.append(piece)
            size += len(piece.data)
            if size >= PIECES_BATCH or len(batch) == limits.PIECES_MAX:
                connection.send(node.FileData(computation, batch))
                batch, size = [], 0
        if batch:
            connection.send(node.FileData(computation, batch))

    def send_unreadable(self, node_id: NodeId, message: node.FileUnreadable) -> None:
        """Tell a node that it will not get a file."""
        link = self._by_node.get(node_id)
        if link is not None and link.connection is not None and link.connection.is_ready:
            link.connection.send(message)

    def _send_cancel(self, link: Link, connection: Connection, message: node.CancelJobs) -> None:
        """Cancels overtake arguments: what the node does not know yet is not sent to it any more."""
        given_up = link.give_up(connection, message)
        if given_up:
            assert link.info is not None
            returned = node.JobsReturned(message.computation, given_up)
            self._loop.call_soon(self.handle, core.FromNodeEvent(link.info.node, returned))
            left = [attempt for attempt in message.attempts if attempt not in given_up]
            message = node.CancelJobs(message.computation, left)
        if message.attempts:
            connection.send(message)

    def _give(self, link: Link, data: Payload) -> int:
        """Link a payload's file into the directory of a node that we see; returns its name there, 0 for none."""
        if not link.shared or self.memory is None:
            return 0
        self._given += 1
        is_given = self.memory.link(data, f"{link.shared}/{GIVEN}/{self._given}")  # type: ignore[arg-type]
        return self._given if is_given else 0

    def _send_object(self, link: Link, connection: Connection, message: node.PutObject) -> None:
        data = message.payload
        bare = node.PutObject(message.computation, message.number, b"", given=self._give(link, data))
        if bare.given:
            connection.send(bare)
        else:
            connection.send_streamed([(bare, "stream", MemorySource(data))], bare)

    def _tell_node(self, action: core.TellNode) -> None:
        if action.node in self._by_node:
            self._listener.on_usable(action, self._info(action.node))

    def close(self, *, forget: bool = True) -> None:
        """End all links; nodes forget us, or keep what they have."""
        if self._tick is not None:
            self._tick.cancel()
        for link in list(self._links.values()):
            link.close(forget=forget)
