"""Nodes are asked for what a dead program had there, in its name."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dispy.client.recovery.dead_program import Session
from dispy.core.recovery import PlaceStatus, Recovery
from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.journal.writer import GIVEN_UP, USED
from dispy.net.connection import Connection
from dispy.net.discovery import Listing, Lookout
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node
from dispy.protocol.node import from_node_decoder
from dispy.scheduler.arrived_batches import take_output
from dispy.scheduler.link import Target
from dispy.security.tls import Tls, check, dialer_tls
from dispy.settings import PULSE_S
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.escaping import block, line, lines
from dispy.system.processes import fill_standard_descriptors

T = TypeVar("T")

SILENT_S = 10.0
"""A node that has not answered after so long does not hold up the others any more."""

REFUSED_S = 3.0
"""One whose machine says that nothing listens there: time enough for it to be started anew."""

CALL_S = 0.5
"""After so long a call looks whether there is still somebody to answer."""

LOOK_S = 0.2
"""How often nodes are looked for, and dialed again."""


class Ask:
    """A peer that is asked: one node, over successive connections."""

    def __init__(self, asking: Asking, peer: str, target: Target) -> None:
        self._asking = asking
        self.peer = peer
        self.target = target
        self.welcome: node.Welcome | None = None
        self.error = ""
        self.is_refused = False
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._address = target.host
        self._asked: deque[tuple[Session, bool]] = deque()
        """Whose questions have not been answered, in order, and whether it may forget what it answers about."""
        self._released: set[int] = set()
        """Numbers of the sessions of which it has nothing any more, as it says."""

    def dial(self) -> None:
        """Connect, unless that is done or under way."""
        if self._connection is None and not self._is_over and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        target = self.target
        try:
            async with asyncio.timeout(SILENT_S):
                await asyncio.get_running_loop().create_connection(
                    self._new_connection, target.host, target.port
                )
        except (OSError, TimeoutError) as error:
            self.error = (error.strerror if isinstance(error, OSError) else None) or "no answer"
            self.is_refused = isinstance(error, ConnectionRefusedError)

    def _new_connection(self) -> Connection:
        target = self.target
        self._connection = Connection(
            self,
            from_node_decoder,
            target.key,
            "client",
            "node",
            is_dialer=True,
            tls=target.tls,
            peer_name=target.name or target.host,
            make_sink=PoolSink,
            clock=self._asking.clock,
        )
        return self._connection

    def send(self, messages: Iterable[node.ToNode]) -> None:
        """Say something, if there is a connection."""
        connection = self._connection
        if connection is not None and connection.is_ready:
            for message in messages:
                connection.send(message)

    def _ask(self, session: Session, messages: list[node.ToNode], *, is_release: bool) -> None:
        self._asked.extend((session, is_release) for message in messages if type(message) is node.Recover)
        self.send(messages)

    def release(self) -> None:
        """The node may forget it all; it is asked what is left, so that we know that it has heard that."""
        self._released.clear()
        for session in self._sessions():
            numbers = session.recovery.computations
            self._ask(
                session, [*map(node.CloseComputation, numbers), node.Recover(numbers)], is_release=True
            )

    def is_released(self) -> bool:
        """Whether it has nothing any more."""
        return all(id(session) in self._released for session in self._sessions())

    def _sessions(self) -> list[Session]:
        """Those of which it keeps something."""
        return [session for session in self._asking.sessions if session.recovery.has_answer(self.peer)]

    def close(self) -> None:
        """No more is wanted."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close()

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """The node has proved itself: it is asked in the name of the dead program."""
        self._asked.clear()
        self._address = connection.peer_address
        session = self._asking.sessions[0]
        connection.set_pulse(PULSE_S)
        connection.send(node.Attach(session.identity, session.program, 0))

    def on_message(self, connection: Connection, message: Any) -> None:
        """The node said something."""
        match message:
            case node.Welcome():
                message.name = line(message.name)
                self.welcome = message
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
                session.recovery.on_held(self.peer, message)
            case node.JobsEnded():
                _take_parts(connection, message)
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
                # The job waits for this; nobody is there to see the value.
                if message.stream:
                    connection.take_stream(message.stream)
                number = message.computation
                passed = node.AcknowledgeProvisional(
                    number, message.number, message.attempt, message.serial
                )
                if message.file is not None:
                    passed.delivered, passed.reason = False, "its program has died, and nobody takes files"
                self.send([passed])

    def _recoveries(self, computation: int) -> list[Recovery]:
        """Whom it concerns what is said of a computation."""
        recoveries = [session.recovery for session in self._asking.sessions]
        return [recovery for recovery in recoveries if computation in recovery.computations]

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone; another one is made."""
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


def _take_parts(connection: Connection, message: node.JobsEnded) -> None:
    for ended in message.ended:
        if ended.reason:
            ended.reason = lines(ended.reason)
        if ended.stream:
            data = connection.take_stream(ended.stream).data
            if data is None:
                raise MemoryError("there is not enough memory here for a job's result")
            ended.payload = data
        take_output(connection, ended)


class Asking:
    """Asks the nodes of one program that died; on the loop of ``Net``.

    Args:
        sessions: Its parts of journals, one or several: it is one client to its nodes, which talk to a client over
            one connection and no more.
        running: The nodes of this machine that have a secret with a fingerprint.
        clock: What it goes by.
    """

    def __init__(
        self,
        sessions: list[Session],
        running: Callable[[str], Iterable[Listing]] | None = None,
        clock: Clock = time,
    ) -> None:
        self.sessions = sessions
        self.clock = clock
        self._running = running or Lookout().with_secret
        self._asks: dict[str, Ask] = {}
        self.is_releasing = False
        """Nodes may forget it all."""

    def look(self, elapsed_s: float) -> None:
        """Dial what is to be asked, and decide about what does not answer."""
        for session in self.sessions:
            self._look_for(session)
        for session in self.sessions:
            self._decide(session, elapsed_s)

    def _look_for(self, session: Session) -> None:
        for row in session.nodes:
            if row.incarnation in session.recovery.places and row.state == USED:
                self._reach(session, row.fingerprint, row.host, row.port, row.name, row.tls)
        if any(is_loopback(row.host) for row in session.nodes) or not session.nodes:
            # A node of this machine may be started anew on another port.
            for fingerprint in session.keys:
                for listing in self._running(fingerprint):
                    self._reach(session, fingerprint, listing.host, listing.port, listing.host, listing.tls)

    def _decide(self, session: Session, elapsed_s: float) -> None:
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
        """Whether nobody is left who might speak for a node."""
        return all(ask.welcome is not None or ask.error for ask in self._asks.values())

    def _reach(
        self, session: Session, fingerprint: str, host: str, port: int, name: str, uses_tls: bool
    ) -> None:
        peer = f"{host}:{port}"
        ask = self._asks.get(peer)
        if ask is None:
            found = session.keys.get(fingerprint)
            if found is None:
                return
            key, options = found
            tls = None
            if uses_tls:
                wanted = Tls(
                    options.certfile or None, options.keyfile or None, options.cafile or None, options.tls
                )
                tls = dialer_tls(check(wanted))
            ask = self._asks[peer] = Ask(self, peer, Target(host, port, key, name, tls))
        ask.dial()

    def give_up_silent(self) -> None:
        """There is no more time for nodes that have not answered."""
        for session in self.sessions:
            for incarnation in session.recovery.sought():
                row = next(row for row in session.nodes if row.incarnation == incarnation)
                reason = f"node {row.label} ({row.host}:{row.port}) has not answered"
                session.recovery.give_up(incarnation, PlaceStatus.SILENT, reason)

    def cancel_open(self) -> None:
        """Kill what has not ended."""
        for session in self.sessions:
            for peer, message in session.recovery.cancels():
                self._asks[peer].send([message])

    def release(self) -> None:
        """Nodes may forget all this."""
        self.is_releasing = True
        for ask in self._asks.values():
            ask.release()

    def is_released(self) -> bool:
        """Whether they have."""
        return all(ask.is_released() for ask in self._asks.values())

    def close(self) -> None:
        """End all connections."""
        for ask in self._asks.values():
            ask.close()


def by_program(sessions: list[Session]) -> list[list[Session]]:
    """Sessions of one program together.

    What one of its journals says is lost was told as lost in all its clusters, also where the end of a journal is
    missing: a node forgets a client as a whole.
    """
    groups: dict[bytes, list[Session]] = {}
    for session in sessions:
        groups.setdefault(session.identity, []).append(session)
    for group in groups.values():
        lost = [row.incarnation for session in group for row in session.nodes if row.state == GIVEN_UP]
        for session in group:
            session.recovery.disown(lost)
    return list(groups.values())


class Net:
    """The loop on which nodes are asked, in a thread of its own: the caller may have a loop running."""

    def __init__(self, sessions: list[Session]) -> None:
        self.asking = [Asking(group) for group in by_program(sessions)]
        self._loop: asyncio.AbstractEventLoop
        self._started = time.monotonic()
        self._stop: asyncio.Event
        self._error: Exception | None = None
        """Why it has ended early."""
        fill_standard_descriptors()
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="dispy recovery", daemon=True)
        self._thread.start()
        ready.result()

    def _run(self, ready: concurrent.futures.Future[None]) -> None:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main(ready))

    async def _main(self, ready: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        ready.set_result(None)
        while not self._stop.is_set():
            elapsed_s = time.monotonic() - self._started
            try:
                for asking in self.asking:
                    asking.look(elapsed_s)
            except Exception as error:  # a certificate that cannot be read, say: it is the caller's
                self._error = error
                break
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stop.wait()
            except TimeoutError:
                pass
        for asking in self.asking:
            asking.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop; returns what it does."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(run)
        while self._error is None:
            with contextlib.suppress(TimeoutError):
                return done.result(CALL_S)
        raise self._error

    def wait(self, is_done: Callable[[], bool], until: float | None) -> bool:
        """Wait until something is so, by what nodes say; False if it is not in time (monotonic seconds)."""
        while not self.call(is_done):
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(0.005)
        return True

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
