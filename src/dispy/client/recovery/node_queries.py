"""Questions to the peers of a dead program, in its name: its nodes, or the shared scheduler that has its jobs.

Here is whom to ask, and when a peer is given up. What is asked is in ``node_query`` and ``scheduler_query``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from dispy.client.engine.loop_thread import LoopThread
from dispy.client.recovery.dead_program import PastSession, noted_tls
from dispy.client.recovery.node_query import NodeAsk
from dispy.client.recovery.peer_query import SILENT_S, Ask
from dispy.client.recovery.scheduler_query import SchedulerAsk
from dispy.core.recovery import PlaceStatus
from dispy.journal.rows import GIVEN_UP, SCHEDULER, USED, NodeRow
from dispy.net.dialing import Target
from dispy.net.discovery import SCHEDULERS, Listing, Lookout
from dispy.security import reach
from dispy.security.tls import DialerTls, check, dialer_tls
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock

T = TypeVar("T")

REFUSED_S = 3.0
"""Seconds that replace ``SILENT_S`` for a peer whose port refuses connections: nothing listens there. The time is
enough for a node to be started anew."""

LOOK_S = 0.2
"""Interval (seconds) in which the loop looks for peers, dials again those without a connection, and gives up those
that do not answer."""


class Asking:
    """Questions to all nodes of one program that died. On the loop of ``Net``.

    Args:
        sessions: The program's sessions in journals, one or several. To its nodes the program is one client, and a
            node talks to a client over one connection only, so all sessions are asked about together.
        running: Returns the running nodes of this machine whose secret has the given fingerprint; None: by the lists
            of this machine's nodes and schedulers.
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
        self._schedulers = Lookout(SCHEDULERS).with_secret if running is None else running
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
            elif row.state == SCHEDULER:
                self._reach_scheduler(session, row)
        nodes = [row for row in session.nodes if row.state != SCHEDULER]
        if any(is_loopback(row.host) for row in nodes) or not session.nodes:
            # A node of this machine may have been started anew on another port.
            for fingerprint in session.keys:
                for listing in self._running(fingerprint):
                    self._reach(session, fingerprint, listing, listing.host, listing.socket_here())

    def _reach_scheduler(self, session: PastSession, row: NodeRow) -> None:
        """Dial a shared scheduler: as it is listed on this machine, or at the address that the program used."""
        found: NodeRow | Listing = row
        socket = ""
        if is_loopback(row.host):
            for listing in self._schedulers(row.fingerprint):
                if listing.node == row.incarnation.hex():
                    found, socket = listing, listing.socket_here()
        self._reach(session, row.fingerprint, found, row.name, socket, SchedulerAsk)

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
                reason = f"{_called(row)} was started anew, and has nothing of what it had"
                recovery.give_up(incarnation, PlaceStatus.GONE, reason)
            elif elapsed_s > (REFUSED_S if ask is not None and ask.is_refused else SILENT_S):
                error = ask.error if ask is not None and ask.error else "another one answers in its place"
                reason = f"{_called(row)} ({row.host}:{row.port}) does not answer: {error}"
                recovery.give_up(incarnation, PlaceStatus.SILENT, reason)

    def _have_answered(self) -> bool:
        """True if each peer has introduced itself or failed: no other may still turn out to have a node's results."""
        return all(ask.welcome is not None or ask.error for ask in self._asks.values())

    def _reach(
        self,
        session: PastSession,
        fingerprint: str,
        found: NodeRow | Listing,
        name: str,
        socket: str,
        kind: type[Ask] = NodeAsk,
    ) -> None:
        """Dial a node unless it is connected. Does nothing if the session has no such secret.

        Args:
            session: PastSession that wants to ask the node, with the certificate files that its cluster used.
            fingerprint: Fingerprint of the secret that the node has.
            found: The node, in the journal or in the list of this machine's nodes: its address, and if it speaks TLS.
            name: Name that the node's certificate must be for.
            socket: Path of the node's Unix socket, if it is listed here; empty: only its address is known.
            kind: Class of the questions: to a node, or to a scheduler.

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
            target = Target(found.host, found.port, secret.keys, name, tls, socket)
            ask = self._asks[peer] = kind(self, peer, target, fault)
        ask.dial()

    def give_up_silent(self) -> None:
        """Give up, for now (``SILENT``), the nodes that have not answered: the time of the recovery is over."""
        for session in self.sessions:
            for incarnation in session.recovery.sought():
                row = next(row for row in session.nodes if row.incarnation == incarnation)
                reason = f"{_called(row)} ({row.host}:{row.port}) has not answered"
                session.recovery.give_up(incarnation, PlaceStatus.SILENT, reason)

    def cancel_open(self) -> None:
        """Have nodes cancel the jobs that have not ended. Does not wait; their ends come as messages."""
        for session in self.sessions:
            for peer, message in session.recovery.cancels():
                self._asks[peer].cancel(message)

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


def _called(row: NodeRow) -> str:
    """Return the kind of a peer and its name, for the user."""
    return f"scheduler {row.label}" if row.state == SCHEDULER else f"node {row.label}"


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
