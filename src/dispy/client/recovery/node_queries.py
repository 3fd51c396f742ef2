"""Questions to the nodes of a dead program, in its name: what do you have of my jobs?

Theory of operation. Each node is a *peer*, asked over one connection at a time; a broken connection is replaced, and
the questions are asked anew. With each peer:

1. ``Attach`` with the identity of the dead program; the peer answers ``Welcome``.
2. ``Recover`` for each session, that is, for each journal's part of the program; the peer answers ``Held``: what has
   not ended, which batches of results it keeps, and what was lost. These answers come in the order of the questions.
3. The results come (``JobsEnded``), then those of jobs that still run, until ``core.recovery`` has all. Nothing is
   acknowledged, so that the peer keeps everything should this recovery die.
4. Once all is safe here, ``release``: ``CloseComputation`` for each computation, and ``Recover`` once more. An empty
   ``Held`` says that the peer has heard and dropped it all.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import TypeVar, assert_never

from dispy.client.engine.loop_thread import LoopThread
from dispy.client.recovery.dead_program import PastSession, noted_tls
from dispy.core.recovery import PlaceStatus, Recovery
from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.journal.rows import GIVEN_UP, USED, NodeRow
from dispy.net.connection import Connection
from dispy.net.dialing import Target, dial
from dispy.net.discovery import Listing, Lookout
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node
from dispy.protocol.batches import Arrived
from dispy.protocol.node import from_node_decoder
from dispy.scheduler.result_payloads import drop_parts, take_parts
from dispy.security import reach
from dispy.security.tls import DialerTls, check, dialer_tls
from dispy.settings import PULSE_S
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.escaping import block, line

T = TypeVar("T")

SILENT_S = 10.0
"""Seconds from the start of a recovery after which a node that has not answered is given up for now (``SILENT``):
its jobs stay there for a later recovery, and nothing is released. Also the limit for one attempt to connect."""

REFUSED_S = 3.0
"""Seconds that replace ``SILENT_S`` for a node whose port refuses connections: nothing listens there. The time is
enough for a node to be started anew."""

LOOK_S = 0.2
"""Interval (seconds) in which the loop looks for nodes, dials again those without a connection, and gives up nodes
that do not answer."""


class Ask:
    """A peer that is asked: one node, over successive connections. On the loop of ``Net``.

    Args:
        asking: The questions to all nodes of the program.
        peer: Name of the peer, "host:port".
        target: Address, secret and TLS of the node.
        fault: Why the node must not be dialed; None if it may be.

    Attributes:
        peer: As the parameter; ``core.recovery.Recovery`` keeps the node's answers by this name.
        target: As the parameter.
        welcome: The node's last ``Welcome``; None until it has introduced itself.
        error: Why the node could not be reached, or why the last connection ended: part of the message to the user.
            Empty if neither has happened.
        is_refused: True if the last attempt to connect that failed was refused: nothing listened at the port, so
            the node is given up after ``REFUSED_S`` and not ``SILENT_S``.
    """

    def __init__(self, asking: Asking, peer: str, target: Target, fault: Exception | None = None) -> None:
        self._asking = asking
        self.peer = peer
        self.target = target
        self.welcome: node.Welcome | None = None
        self.error = str(fault or "")
        self.is_refused = False
        self._connection: Connection | None = None
        """Connection to the node, maybe not ready yet; None before the first one, and after one has ended."""
        self._task: asyncio.Task[None] | None = None
        """Attempt to connect, under way or done; None before the first one. Only one runs at a time."""
        self._is_over = fault is not None
        """True if the node is not dialed any more: a fault, the recovery ends, or the secret or version is wrong."""
        self._address = target.host
        """IP address of the node once it is connected, before that its host name: ``ip_addr`` of its jobs."""
        self._asked: deque[tuple[PastSession, bool]] = deque()
        """``Recover`` questions without an answer, in the order sent: their session, and True if they belong to a
        release. The node answers in this order, so that each ``Held`` finds its session."""
        self._arrived = Arrived()
        """Batches of results that have arrived from the present run of the node. None is ever released, and so none
        acknowledged: the node keeps them should this recovery die."""
        self._released: set[int] = set()
        """Sessions (Python's ``id`` of each) of which the node has said, after ``release``, that it keeps nothing."""

    def dial(self) -> None:
        """Begin to connect, unless there is a connection or an attempt, or none can help (``_is_over``)."""
        if self._connection is None and not self._is_over and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        """Connect within ``SILENT_S``. After a failure set ``error`` and ``is_refused``; ``Asking`` dials again."""
        target = self.target
        try:
            async with asyncio.timeout(SILENT_S):
                await dial(target.socket, target.host, target.port, self._new_connection)
        except (OSError, TimeoutError) as error:
            self.error = (error.strerror if isinstance(error, OSError) else None) or "no answer"
            self.is_refused = isinstance(error, ConnectionRefusedError)

    def _new_connection(self, is_unix: bool) -> Connection:
        """Return, and store, the protocol object of a connection that is made; ``is_unix``: one without TLS."""
        target = self.target
        self._connection = Connection(
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
            clock=self._asking.clock,
        )
        return self._connection

    def send(self, messages: Iterable[node.ToNode]) -> None:
        """Send messages in the order given; drop them if the node is not connected: it is asked anew later."""
        connection = self._connection
        if connection is not None and connection.is_ready:
            for message in messages:
                connection.send(message)

    def _ask(self, session: PastSession, messages: list[node.ToNode], *, is_release: bool) -> None:
        """Send messages about a session; note each ``Recover`` in ``_asked``, so that ``Held`` finds its session."""
        self._asked.extend((session, is_release) for message in messages if type(message) is node.Recover)
        self.send(messages)

    def release(self) -> None:
        """Have the node drop all jobs and results of the program for good, and ask what is left.

        An empty answer proves that the node has heard: ``is_released`` is True then.
        """
        self._released.clear()
        for session in self._sessions():
            numbers = session.recovery.computations
            self._ask(
                session, [*map(node.CloseComputation, numbers), node.Recover(numbers)], is_release=True
            )

    def is_released(self) -> bool:
        """True if the node has said, after ``release``, for each session that it keeps nothing any more.

        True also for a node that knew no session when it was asked, and for one that never answered.
        """
        return all(id(session) in self._released for session in self._sessions())

    def _sessions(self) -> list[PastSession]:
        """Return the sessions of whose jobs the node may keep something: it knew the program on this connection."""
        return [session for session in self._asking.sessions if session.recovery.has_answer(self.peer)]

    def close(self) -> None:
        """Close the connection, and stop an attempt to connect; the node is not dialed any more."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close()

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """Send ``Attach`` with the dead program's identity, once both sides have proved the secret to the other."""
        self._asked.clear()
        self._address = connection.peer_address
        session = self._asking.sessions[0]
        connection.set_pulse(PULSE_S)
        connection.send(node.Attach(session.identity, session.program, self._arrived.attach()))

    def on_message(self, connection: Connection, message: node.FromNode) -> None:
        """Handle a message of the node: answers and news of jobs go to the ``Recovery`` of their session.

        A provisional result is acknowledged and dropped, so that its job goes on; a file that a job sends is refused.
        Messages that no node may send were refused when they were decoded.

        Raises:
            RemoteProtocolError: The node answers a question that was not asked.
            MemoryError: There is no memory for a result.
        """
        match message:
            case node.Welcome():
                message.name = line(message.name)
                self._compare(message)
                for session in self._asking.sessions:
                    self._ask(session, session.recovery.on_welcome(self.peer, message), is_release=False)
                if self._asking.is_releasing:
                    self.release()
            case node.Held():
                if not self._asked:
                    raise RemoteProtocolError("it says what it holds, and was not asked")
                session, is_release = self._asked.popleft()
                if is_release and not message.open and not message.batches:
                    self._released.add(id(session))
                session.recovery.on_held(self.peer, message, self._arrived)
            case node.JobsEnded() if self._arrived.has(message.batch):
                drop_parts(connection, message)  # from an earlier connection
            case node.JobsEnded():
                take_parts(connection, message, _adopt_none, may_lose=False)
                self._arrived.arrive(message.batch)
                for recovery in self._recoveries(message.computation):
                    recovery.on_ended(self.peer, message, self._address)
            case node.JobsStarted():
                for recovery in self._recoveries(message.computation):
                    recovery.on_started(self.peer, message, self._address)
            case node.JobsReturned():
                message.reason = block(message.reason)
                for recovery in self._recoveries(message.computation):
                    recovery.on_returned(self.peer, message)
            case node.Provisional():
                # The job waits for this acknowledgement; there is no program to show the value to.
                if message.stream:
                    connection.take_stream(message.stream)
                number = message.computation
                passed = node.AcknowledgeProvisional(
                    number, message.number, message.attempt, message.serial
                )
                if message.file is not None:
                    passed.delivered, passed.reason = False, "its program has died, and nobody takes files"
                self.send([passed])
            case (
                node.ComputationReady() | node.ComputationFailed() | node.Credit() | node.Reconciled()
                | node.Leaving() | node.NodeCpus() | node.ObjectStored() | node.JobsPrinted() | node.JobsListed()
                | node.Available() | node.NeedFiles() | node.FilesProgress() | node.FilesPlaced()
                | node.NodeCredit()
            ):  # fmt: skip
                pass  # for a scheduler: there is none any more
            case _:
                assert_never(message)

    def _compare(self, message: node.Welcome) -> None:
        """Note which run of the node answers, and which batches of results it sends: those that have arrived over an
        earlier connection to the same run are not taken twice."""
        is_same = self.welcome is None or self.welcome.node == message.node
        self._arrived = self._arrived.compare(
            message.last, message.kept, is_known=message.known, is_same=is_same
        )
        self.welcome = message

    def _recoveries(self, computation: int) -> list[Recovery]:
        """Return the recoveries of all sessions that have a computation of this number: they get news of its jobs."""
        recoveries = [session.recovery for session in self._asking.sessions]
        return [recovery for recovery in recoveries if computation in recovery.computations]

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Note that the connection is gone: the node's answers are forgotten, and asked for over the next connection.

        Answers about a session that is released already are kept. After a wrong secret or version no dial follows.
        """
        if self._connection is not connection:
            return
        self._connection = None
        self.error = str(error) if error is not None else "the connection was closed"
        if isinstance(error, (AuthenticationError, VersionError)):
            self._is_over = True
        self._asked.clear()
        for session in self._sessions():
            if id(session) not in self._released:
                session.recovery.on_broken(self.peer)


def _adopt_none(computation: int, segment: int) -> Sized:
    """Refuse a result that a node names as a file of its memory: no node was told that its memory is seen here."""
    raise ValueError("the node was not asked for files")


class Asking:
    """Questions to all nodes of one program that died. On the loop of ``Net``.

    Args:
        sessions: The program's sessions in journals, one or several. To its nodes the program is one client, and a
            node talks to a client over one connection only, so all sessions are asked about together.
        running: Returns the running nodes of this machine whose secret has the given fingerprint; None: by the list
            of this machine's nodes.
        clock: Source of time for connections (heartbeat).

    Attributes:
        sessions: As the parameter.
        clock: As the parameter.
        is_releasing: True once nodes may drop all that they keep of the program: a node that connects later is told
            so at once.
    """

    def __init__(
        self,
        sessions: list[PastSession],
        running: Callable[[str], Iterable[Listing]] | None = None,
        clock: Clock = time,
    ) -> None:
        self.sessions = sessions
        self.clock = clock
        self._running = running or Lookout().with_secret
        self._asks: dict[str, Ask] = {}
        """One ``Ask`` for each node that was dialed, by "host:port". No element is ever removed."""
        self.is_releasing = False

    def look(self, elapsed_s: float) -> None:
        """Dial the nodes that are to be asked, and give up those that do not answer. Called every ``LOOK_S``.

        Args:
            elapsed_s: Seconds since the recovery began.
        """
        for session in self.sessions:
            self._look_for(session)
        for session in self.sessions:
            self._decide(session, elapsed_s)

    def _look_for(self, session: PastSession) -> None:
        """Dial the nodes of a session that are not connected, and nodes of this machine that have its secret."""
        for row in session.nodes:
            if row.incarnation in session.recovery.places and row.state == USED:
                self._reach(session, row.fingerprint, row, row.name, "")
        if any(is_loopback(row.host) for row in session.nodes) or not session.nodes:
            # A node of this machine may have been started anew on another port.
            for fingerprint in session.keys:
                for listing in self._running(fingerprint):
                    self._reach(session, fingerprint, listing, listing.host, listing.socket_here())

    def _decide(self, session: PastSession, elapsed_s: float) -> None:
        """Give up the nodes of a session that no peer speaks for, with a reason for the user.

        For ever (``GONE``) if another run answers under the node's name: the node was started anew without its
        results. For now (``SILENT``) if none has answered after ``SILENT_S`` or ``REFUSED_S``; one may do so later.
        """
        recovery = session.recovery
        for incarnation in recovery.sought():
            row = next(row for row in session.nodes if row.incarnation == incarnation)
            ask = self._asks.get(f"{row.host}:{row.port}")
            welcome = ask.welcome if ask is not None else None
            is_other = welcome is not None and welcome.node != incarnation
            if is_other and welcome is not None and welcome.name == row.label and self._have_answered():
                reason = f"node {row.label} was started anew, and has nothing of what it had"
                recovery.give_up(incarnation, PlaceStatus.GONE, reason)
            elif elapsed_s > (REFUSED_S if ask is not None and ask.is_refused else SILENT_S):
                error = ask.error if ask is not None and ask.error else "another one answers in its place"
                reason = f"node {row.label} ({row.host}:{row.port}) does not answer: {error}"
                recovery.give_up(incarnation, PlaceStatus.SILENT, reason)

    def _have_answered(self) -> bool:
        """True if each peer has introduced itself or failed: no other may still turn out to have a node's results."""
        return all(ask.welcome is not None or ask.error for ask in self._asks.values())

    def _reach(
        self, session: PastSession, fingerprint: str, found: NodeRow | Listing, name: str, socket: str
    ) -> None:
        """Dial a node unless it is connected. Does nothing if the session has no such secret.

        Args:
            session: PastSession that wants to ask the node, with the certificate files that its cluster used.
            fingerprint: Fingerprint of the secret that the node has.
            found: The node, in the journal or in the list of this machine's nodes: its address, and if it speaks TLS.
            name: Name that the node's certificate must be for.
            socket: Path of the node's Unix socket, if it is listed here; empty: only its address is known.

        Raises:
            UsageError: A certificate file cannot be used.
        """
        peer = f"{found.host}:{found.port}"
        ask = self._asks.get(peer)
        if ask is None:
            known = session.keys.get(fingerprint)
            if known is None:
                return
            secret, options = known
            wanted = check(noted_tls(options))
            tls: Callable[[], DialerTls] | None = partial(dialer_tls, wanted) if found.tls else None
            is_checked = found.tls and wanted.checks_listener
            fault = None if socket else reach.dial_fault(secret, found.host, checks_listener=is_checked)
            target = Target(found.host, found.port, secret.key, name, tls, socket)
            ask = self._asks[peer] = Ask(self, peer, target, fault)
        ask.dial()

    def give_up_silent(self) -> None:
        """Give up, for now (``SILENT``), the nodes that have not answered: the time of the recovery is over."""
        for session in self.sessions:
            for incarnation in session.recovery.sought():
                row = next(row for row in session.nodes if row.incarnation == incarnation)
                reason = f"node {row.label} ({row.host}:{row.port}) has not answered"
                session.recovery.give_up(incarnation, PlaceStatus.SILENT, reason)

    def cancel_open(self) -> None:
        """Have nodes cancel the jobs that have not ended. Does not wait; their ends come as messages."""
        for session in self.sessions:
            for peer, message in session.recovery.cancels():
                self._asks[peer].send([message])

    def release(self) -> None:
        """Have all nodes drop all jobs and results of the program, also nodes that connect later. Does not wait."""
        self.is_releasing = True
        for ask in self._asks.values():
            ask.release()

    def is_released(self) -> bool:
        """True if all nodes that knew the program have said that they keep nothing of it any more."""
        return all(ask.is_released() for ask in self._asks.values())

    def close(self) -> None:
        """Close all connections to nodes, and dial none any more."""
        for ask in self._asks.values():
            ask.close()


def by_program(sessions: list[PastSession]) -> list[list[PastSession]]:
    """Return the sessions in groups, one for each program, that is, for each identity under which nodes know it.

    A node that one journal of a program says is lost counts as lost in all its journals, also where the end of one is
    missing: a node forgets a client as a whole, so all clusters of the program were told.
    """
    groups: dict[bytes, list[PastSession]] = {}
    for session in sessions:
        groups.setdefault(session.identity, []).append(session)
    for group in groups.values():
        lost = [row.incarnation for session in group for row in session.nodes if row.state == GIVEN_UP]
        for session in group:
            session.recovery.disown(lost)
    return list(groups.values())


class Net(LoopThread):
    """The loop on which the nodes of dead programs are asked, in a thread of its own. Started when it is made.

    Args:
        sessions: The sessions of all journals.

    Attributes:
        asking: The questions, one element for each program (identity). Use them only on the loop, by ``call``.
    """

    def __init__(self, sessions: list[PastSession]) -> None:
        super().__init__("dispy recovery")
        self.asking = [Asking(group) for group in by_program(sessions)]
        self._started = time.monotonic()
        """When the recovery began (monotonic seconds); ``SILENT_S`` counts from here."""
        self.start()

    async def _main(self) -> None:
        """Look at all nodes every ``LOOK_S`` until the loop is to stop or an error ends it; then close all."""
        self._ready.set_result(None)
        while not self._stopping.is_set():
            elapsed_s = time.monotonic() - self._started
            try:
                for asking in self.asking:
                    asking.look(elapsed_s)
            except Exception as error:  # a certificate that cannot be read, say: the caller gets the error
                self._failure = error
                break
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        for asking in self.asking:
            asking.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop, wait for it, and return its result. On any thread but the loop's.

        Raises:
            Exception: The error of the function, or the one by which the loop has ended early.
        """
        return self.result(self.request(function))

    def wait(self, is_done: Callable[[], bool], until: float | None) -> bool:
        """Wait until a condition holds, which is checked on the loop every 5 ms. On any thread but the loop's.

        Args:
            is_done: The condition: True ends the wait.
            until: When to give up (monotonic seconds); None: never.

        Returns:
            False if the condition does not hold in time.
        """
        while not self.call(is_done):
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(0.005)
        return True

    def stop(self) -> None:
        """Close all connections and end the loop. Waits for that."""
        self.stop_loop()
