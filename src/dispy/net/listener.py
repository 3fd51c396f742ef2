"""A listening socket: accepts connections, and ends those that do not prove themselves in time.

A connection that has not proved itself is *half open*. ``net.admission`` decides whose turn it is among them, and
which one gives way when there are too many. Each has one deadline for everything up to the proof.

The life of a half-open connection:

    step                            stage, state of ``HalfOpen``     next
    accepted                        silent, socket                   first bytes are there: look; else wait for them
    first bytes looked at           waiting, socket                  a stranger for sure: refused; else waits its turn
    has its turn                    busy, task, then connection      proof: no longer half open; error: closed

Every connection is accepted within milliseconds. A pause is one for all dialers, since the kernel queues them in one
row. A silent connection costs about 0.1 ms of CPU time from accept to close, most of it in the kernel.

The first bytes are looked at before a ``Connection`` is made: they give away most strangers, at a third of the cost
of a connection. The fault of a stranger is logged in one line, with a limit on the number of lines; the stranger gets
one constant refusal. Whoever only gives way to others is told nothing: a refusal would tell an honest dialer that his
secret is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.net.admission import HALF_OPEN_MAX, Admission, dialer_of
from dispy.net.connection import Connection
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.protocol.frames import CONTROL, header
from dispy.protocol.handshake import REFUSAL, find_fault
from dispy.system.escaping import line
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.net")

BACKLOG = 1024
"""Connections that the kernel queues until we accept them. When the queue is full it does not answer further dialers,
whose kernels try again."""

ACCEPTS_PER_TURN = 32
"""Most connections accepted in one turn of the loop; the next ones wait until other work has had its turn."""

STARTS_PER_TURN = 8
"""Most connections whose handshake begins in one turn of the loop: up to 13 ms with TLS, until jobs go on."""

REFILL_S = 0.05
"""Interval (seconds) after which dialers without a token are looked at again: a bucket gets one in that time."""

FIRST_LOOK = 1024
"""Most first bytes of a connection that are looked at, without reading them, to find out strangers: the largest frame
of the handshake fits, and TLS needs fewer to be recognised."""

FLOOD_PAUSE_S = 0.005
"""Pause in accepting (seconds) when all that came are accepted and some had to give way. At 1,500 connections per
second seven are then accepted in one turn of the loop instead of one, which takes a third less of its time."""

FULL_PAUSE_S = 0.2
"""Pause in accepting (seconds) after an error, and where no descriptor is left although no connection is half open;
meanwhile the kernel queues connections."""
FULL_SHARE = 4
"""Where no descriptor is left, one of so many half-open connections is closed, in the order of ``give_way``; then
there is room for no more than the others. That leaves descriptors for what else the process opens."""
FULL_S = 60.0
"""Time (seconds) after which there is room again for as many half-open connections as usual."""

_RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER (on, 0 seconds) with which ``close`` resets a connection. Otherwise the kernel would remember
each connection that gave way for a minute (TIME_WAIT): 90,000 of them at 1,500 per second."""

LOG_EVERY_S = 60.0
"""Length of the interval (seconds) in which ``LOG_LINES_MAX`` log lines about refused connections are written."""
LOG_LINES_MAX = 10
"""Log lines per interval for each kind of refusal, at most one per address; the rest is counted in one line. That is
10 MB a day at most."""

# Kinds of refusals, as words for the count of lines that were left out.
NO_DISPY = "connections refused that do not speak the protocol of dispy"
NO_SECRET = "connections refused for another secret or version"
NO_PROOF = "connections refused that said too little for too long"
GAVE_WAY = "connections closed to make room for others, before they had said enough"
NO_ROOM = "connections that could not be accepted"


class HalfOpen:
    """A connection between accept and proof.

    Attributes:
        host: IP address of the peer; empty on a local socket.
    """

    __slots__ = ("connection", "deadline", "host", "is_silent", "socket", "task")

    def __init__(self, host: str, accepted: socket.socket) -> None:
        self.host = host
        self.socket: socket.socket | None = accepted
        """The accepted socket; None once the task has taken it."""
        self.is_silent = False
        """True while the loop tells us when the first bytes come."""
        self.deadline: asyncio.TimerHandle
        """Timer that refuses the connection if it has not proved itself ``HANDSHAKE_S`` after the accept."""
        self.task: asyncio.Task[None] | None = None
        """Task that makes the ``Connection``; None until the connection has its turn."""
        self.connection: Connection | None = None
        """The connection; None until the task has made it."""


class Listener:
    """Accepts connections on one address. Everything runs on the loop.

    Args:
        make: Makes the ``Connection`` of an accepted socket. Its argument must become the connection's
            ``on_settled``, which tells the listener that the connection is no longer half open.
        tls: True if these connections speak TLS only: a dialer that begins otherwise is refused.
        prepare: Awaited before each call of ``make``: makes what the first connection needs. None: nothing is.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Connection], None]], Connection],
        *,
        tls: bool,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._make = make
        self._prepare = prepare
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        """The listening sockets; empty before ``listen`` and after ``close``."""
        self._admission: Admission[HalfOpen] = Admission()
        """All half-open connections, with what decides about them."""
        self._next_turn: asyncio.Handle | None = None
        """Call of ``_on_turn`` in the loop's next turn; None: nobody has a turn."""
        self._next_refill: asyncio.TimerHandle | None = None
        """Timer of the next ``_on_refill``; None: nobody waits for a token."""
        self._log = LogLimit(LOG_EVERY_S, LOG_LINES_MAX, logger.warning, self._loop.call_later)

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begin to listen on an IP address; port 0 takes any free port.

        Returns:
            The IP address and port that are listened on.

        Raises:
            OSError: The address or port cannot be used.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        self._begin(listening)
        address = listening.getsockname()
        return address[0], address[1]

    def _begin(self, listening: socket.socket) -> None:
        """Accept from a listening socket, of any family, that does not block; ``close`` closes it."""
        self._sockets.append(listening)
        self._loop.add_reader(listening, self._on_acceptable, listening)

    def close(self) -> None:
        """Stop listening, and refuse half-open connections. Connections that have proved themselves stay.

        The numbers of refused connections that had no log line of their own are logged, in one line for each kind.
        """
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()
        for half_open in self._admission.connections():
            self._drop(half_open)
        for handle in (self._next_turn, self._next_refill):
            if handle is not None:
                handle.cancel()
        self._log.tell_count()

    @property
    def half_open(self) -> int:
        """Number of half-open connections of this listener, at most ``HALF_OPEN_MAX``."""
        return len(self._admission)

    # Accepting.

    def _on_acceptable(self, listening: socket.socket) -> None:
        gave_way = False
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                if gave_way:
                    self._pause(listening, FLOOD_PAUSE_S)
                return
            except OSError as error:
                self._log.line(NO_ROOM, "", "no connection can be accepted: %s", error.strerror)
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._make_room():
                    self._pause(listening, FULL_PAUSE_S)
                return
            gave_way |= self._on_accepted(accepted, address[0] if isinstance(address, tuple) else "")

    def _make_room(self) -> bool:
        """Close some half-open connections, as no descriptor is left; returns False if there are none."""
        count = -(-len(self._admission) // FULL_SHARE)
        for _ in range(count):
            gone = self._admission.give_way(self._loop.time())
            assert gone is not None
            self._push_out(gone)
        if count and self._admission.room == HALF_OPEN_MAX:
            self._loop.call_later(FULL_S, self._on_room)
        if count:
            self._admission.room = max(1, len(self._admission))
        return count > 0

    def _on_room(self) -> None:
        self._admission.room = HALF_OPEN_MAX

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._on_acceptable, listening)

    def _on_accepted(self, accepted: socket.socket, host: str) -> bool:
        """Take in a connection; returns True if another one had to give way to it."""
        accepted.setblocking(False)
        half_open = HalfOpen(host, accepted)
        gone = self._admission.arrive(half_open, host, self._loop.time())
        if gone is not None:
            self._push_out(gone)
        half_open.deadline = self._loop.call_later(HANDSHAKE_S, self._on_deadline, half_open)
        self._look(half_open)
        return gone is not None

    # From there to the proof.

    def _look(self, half_open: HalfOpen) -> None:
        """Look at a connection's first bytes, without taking them from the socket.

        Called after the accept, and again when bytes have come if there were none. Refuses a stranger; else has the
        connection wait for its turn. Forgets a connection that the dialer has closed.
        """
        accepted = half_open.socket
        assert accepted is not None
        try:
            first = accepted.recv(FIRST_LOOK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            half_open.is_silent = True
            self._loop.add_reader(accepted, self._on_first, half_open)
            return
        except OSError:
            first = b""
        if not first:
            self._forget(half_open)
            accepted.close()
            return
        fault = find_fault(first, tls=self._tls)
        if fault is None:
            self._admission.ask(half_open)
            self._have_turn()
            return
        reason, refusal = fault
        self._report(half_open.host, NO_DISPY, reason)
        self._forget(half_open)
        self._refuse(accepted, _frame(refusal))

    def _on_first(self, half_open: HalfOpen) -> None:
        assert half_open.socket is not None
        half_open.is_silent = False
        self._loop.remove_reader(half_open.socket)
        self._look(half_open)

    def _have_turn(self) -> None:
        """Have ``_on_turn`` called in the loop's next turn, unless that is arranged already."""
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        """Begin the handshakes of those whose turn it is."""
        self._next_turn = None
        for _ in range(STARTS_PER_TURN):
            turn = self._admission.take(self._loop.time())
            if turn is None:
                break
            half_open, gone = turn
            if gone is not None:
                self._push_out(gone)
            half_open.task = self._loop.create_task(self._see_through(half_open))
        if self._admission.has_turns:
            self._have_turn()
        if self._admission.has_dry and self._next_refill is None:
            self._next_refill = self._loop.call_later(REFILL_S, self._on_refill)

    def _on_refill(self) -> None:
        self._next_refill = None
        self._admission.refill()
        self._on_turn()

    @staticmethod
    def _refuse(accepted: socket.socket, said: bytes) -> None:
        """Send a stranger a refusal, if the socket takes it at once, and close the socket.

        ``said`` is the refusal as it is on the wire; empty: nothing is sent, as to a dialer that must speak TLS.
        """
        with contextlib.suppress(OSError):
            accepted.send(said)
        with contextlib.suppress(OSError):
            # Unread bytes would make the kernel reset the connection, and the refusal would be lost.
            accepted.recv(FIRST_LOOK)
        accepted.close()

    async def _see_through(self, half_open: HalfOpen) -> None:
        accepted, half_open.socket = half_open.socket, None
        assert accepted is not None

        def make() -> Connection:
            half_open.connection = self._make(lambda connection: self._on_settled(half_open, connection))
            return half_open.connection

        try:
            if self._prepare is not None:
                await self._prepare()
            await self._loop.connect_accepted_socket(make, accepted)
        except (OSError, asyncio.CancelledError):
            accepted.close()
            self._forget(half_open)

    def _on_settled(self, half_open: HalfOpen, connection: Connection) -> None:
        """Count a connection as half open no longer: it has proved itself, or is gone.

        Called once by the connection (``on_settled``). An error that ended it before the proof is logged.
        """
        is_half_open = half_open in self._admission
        self._forget(half_open, proved=connection.is_ready)
        if is_half_open and not connection.is_ready and connection.error is not None:
            is_secret = isinstance(connection.error, (AuthenticationError, VersionError))
            self._report(half_open.host, NO_SECRET if is_secret else NO_DISPY, str(connection.error))

    def _on_deadline(self, half_open: HalfOpen) -> None:
        self._report(half_open.host, NO_PROOF, f"no proof within {HANDSHAKE_S:g} s")
        self._drop(half_open)

    def _push_out(self, half_open: HalfOpen) -> None:
        """Close a connection that gives way, without a word. ``_admission`` has taken it out already."""
        self._report(half_open.host, GAVE_WAY, "too many connections that do not prove themselves")
        half_open.deadline.cancel()
        error = RemoteProtocolError("no room for more connections without a proof")
        self._stop(half_open, lambda connection: connection.abort(error))
        if half_open.socket is not None:
            with contextlib.suppress(OSError):
                half_open.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            half_open.socket.close()

    def _drop(self, half_open: HalfOpen) -> None:
        """Refuse a connection, in whatever stage it is."""
        self._forget(half_open)
        error = RemoteProtocolError("no proof in time")
        self._stop(half_open, lambda connection: connection.refuse(error))
        if half_open.socket is not None:
            self._refuse(half_open.socket, b"" if self._tls else _frame(REFUSAL))

    def _stop(self, half_open: HalfOpen, end: Callable[[Connection], None]) -> None:
        """Stop whatever goes on for a connection: what waits for its first bytes, its task, its ``Connection``."""
        if half_open.connection is not None:
            # Its task is over in a moment. Cancelled, it would close the transport behind the connection's back.
            end(half_open.connection)
        elif half_open.task is not None:
            half_open.task.cancel()
        if half_open.is_silent and half_open.socket is not None:
            self._loop.remove_reader(half_open.socket)

    def _forget(self, half_open: HalfOpen, *, proved: bool = False) -> None:
        half_open.deadline.cancel()
        self._admission.leave(half_open, self._loop.time(), proved=proved)
        if self._admission.has_turns:
            self._have_turn()

    def _report(self, host: str, kind: str, reason: str) -> None:
        self._log.line(kind, dialer_of(host), "refused a connection from %s: %s", host, line(reason))


def _frame(body: bytes) -> bytes:
    return header(CONTROL, len(body)) + body if body else b""
