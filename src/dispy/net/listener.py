"""A listening socket: accepts connections, and ends those that do not prove themselves in time.

A connection that has not proved itself is *half open*. Their number is limited, in all and per address. Above the
limit the oldest one is closed, so that strangers who are slow on purpose cannot keep others out. Each has one
deadline for everything up to the proof.

The life of a half-open connection:

    step                            state of ``HalfOpen``       next
    accepted                        socket                      first bytes are there: look; else wait for them
    first bytes looked at           socket                      a stranger for sure: refused; else a task takes over
    task makes a ``Connection``     task, then connection       proof: no longer half open; error or deadline: closed

The first bytes are looked at before a ``Connection`` is made: they give away most strangers, at a third of the cost
of a connection. The fault of a stranger is logged in one line, with a limit on the number of lines; the stranger gets
one constant refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.net.connection import HANDSHAKE_S, Connection
from dispy.protocol.frames import CONTROL, header
from dispy.protocol.handshake import REFUSAL, find_fault
from dispy.system.escaping import line
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.net")

HALF_OPEN_MAX = 512
"""Most half-open connections of a listener: about 10 MB with sockets and buffers. One more pushes out the oldest. A
handshake lasts milliseconds, so an honest crowd of thousands per second stays below this limit."""

HALF_OPEN_PER_ADDRESS = 128
"""Most half-open connections of one IP address; one more pushes out the oldest of that address. Many programs can be
behind one router, but rarely more than 128 start at the same moment."""

BACKLOG = 1024
"""Connections that the kernel queues until we accept them. When the queue is full it does not answer further dialers,
whose kernels try again."""

ACCEPTS_PER_TURN = 32
"""Most connections accepted in one turn of the loop; the next ones wait until other work has had its turn."""

YOUNG_MAX = 64
"""Half-open connections younger than ``YOUNG_S`` from which on no more are accepted for ``CROWD_PAUSE_S``; the kernel
queues them. So a crowd that comes at once is served in turn, and does not push its own connections out."""
YOUNG_S = 0.25
"""Age (seconds) up to which a half-open connection counts as young."""

FIRST_LOOK = 1024
"""Most first bytes of a connection that are looked at, without reading them, to find out strangers: the largest frame
of the handshake fits, and TLS needs fewer to be recognised."""

CROWD_PAUSE_S = 0.01
"""Pause in accepting (seconds) while ``YOUNG_MAX`` half-open connections are young; then they are counted again."""
FULL_PAUSE_S = 0.2
"""Pause in accepting (seconds) after an error, as when no descriptors are left; meanwhile the kernel queues
connections."""

LOG_EVERY_S = 60.0
"""Length of the interval (seconds) in which ``LOG_LINES_MAX`` log lines about refused connections are written."""
LOG_LINES_MAX = 10
"""Log lines per interval for each kind of refusal, at most one per address; the rest is counted in one line. That is
10 MB a day at most."""

# Kinds of refusals, as words for the count of lines that were left out.
NO_DISPY = "connections refused that do not speak the protocol of dispy"
NO_SECRET = "connections refused for another secret or version"
NO_PROOF = "connections refused that said too little for too long"
NO_ROOM = "connections that could not be accepted"


class HalfOpen:
    """A connection between accept and proof.

    Attributes:
        host: IP address of the dialer.
        since: Time of the accept (seconds of the loop's clock).
    """

    __slots__ = ("connection", "deadline", "host", "since", "socket", "task")

    def __init__(self, host: str, accepted: socket.socket, since: float) -> None:
        self.host = host
        self.since = since
        self.socket: socket.socket | None = accepted
        """The accepted socket; None once the task has taken it."""
        self.deadline: asyncio.TimerHandle
        """Timer that refuses the connection if it has not proved itself ``HANDSHAKE_S`` after the accept."""
        self.task: asyncio.Task[None] | None = None
        """Task that makes the ``Connection``; None until the first bytes were looked at."""
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
        self._socket: socket.socket | None = None
        """The listening socket; None before ``listen`` and after ``close``."""
        self._half_open: OrderedDict[HalfOpen, None] = OrderedDict()
        """Half-open connections, oldest first (an ordered set: the values are None)."""
        self._per_address: dict[str, int] = {}
        """Number of half-open connections by the dialer's IP address; addresses without any are absent."""
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
        self._socket = listening
        self._loop.add_reader(listening, self._on_acceptable)
        address = listening.getsockname()
        return address[0], address[1]

    def close(self) -> None:
        """Stop listening, and refuse half-open connections. Connections that have proved themselves stay.

        The numbers of refused connections that had no log line of their own are logged, in one line for each kind.
        """
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for half_open in list(self._half_open):
            self._drop(half_open)
        self._log.tell_count()

    @property
    def half_open(self) -> int:
        """Number of half-open connections of this listener, at most ``HALF_OPEN_MAX``."""
        return len(self._half_open)

    # Accepting.

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._socket is None:
                return
            if self._is_crowded():
                self._pause(CROWD_PAUSE_S)
                return
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.line(NO_ROOM, "", "no connection can be accepted: %s", error.strerror)
                self._pause(FULL_PAUSE_S)
                return
            self._on_accepted(accepted, address[0])

    def _is_crowded(self) -> bool:
        if len(self._half_open) < YOUNG_MAX:
            return False
        young = next(itertools.islice(reversed(self._half_open), YOUNG_MAX - 1, None))
        return self._loop.time() - young.since < YOUNG_S

    def _pause(self, seconds: float) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._on_acceptable)

    def _on_accepted(self, accepted: socket.socket, host: str) -> None:
        accepted.setblocking(False)
        count = self._per_address.get(host, 0)
        if count >= HALF_OPEN_PER_ADDRESS:
            self._push_out(next(h for h in self._half_open if h.host == host))
        elif len(self._half_open) >= HALF_OPEN_MAX:
            self._push_out(next(iter(self._half_open)))
        half_open = HalfOpen(host, accepted, self._loop.time())
        half_open.deadline = self._loop.call_later(HANDSHAKE_S, self._on_deadline, half_open)
        self._half_open[half_open] = None
        self._per_address[host] = self._per_address.get(host, 0) + 1
        self._look(half_open)

    # From there to the proof.

    def _look(self, half_open: HalfOpen) -> None:
        """Look at a connection's first bytes, without taking them from the socket.

        Called after the accept, and again when bytes have come if there were none. Refuses a stranger; else starts
        the task that makes a ``Connection``. Forgets a connection that the dialer has closed.
        """
        accepted = half_open.socket
        assert accepted is not None
        try:
            first = accepted.recv(FIRST_LOOK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
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
            half_open.task = self._loop.create_task(self._see_through(half_open))
            return
        reason, refusal = fault
        self._report(half_open.host, NO_DISPY, reason)
        self._forget(half_open)
        self._refuse(accepted, _frame(refusal))

    def _on_first(self, half_open: HalfOpen) -> None:
        assert half_open.socket is not None
        self._loop.remove_reader(half_open.socket)
        self._look(half_open)

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
        self._forget(half_open)
        if not connection.is_ready and connection.error is not None:
            is_secret = isinstance(connection.error, (AuthenticationError, VersionError))
            self._report(half_open.host, NO_SECRET if is_secret else NO_DISPY, str(connection.error))

    def _on_deadline(self, half_open: HalfOpen) -> None:
        self._report(half_open.host, NO_PROOF, f"no proof within {HANDSHAKE_S:g} s")
        self._drop(half_open)

    def _push_out(self, half_open: HalfOpen) -> None:
        self._report(half_open.host, NO_PROOF, "too many connections that do not prove themselves")
        self._drop(half_open)

    def _drop(self, half_open: HalfOpen) -> None:
        self._forget(half_open)
        if half_open.connection is not None:
            half_open.connection.refuse(RemoteProtocolError("no proof in time"))
            return
        if half_open.task is not None:
            half_open.task.cancel()
        if half_open.socket is not None:
            self._loop.remove_reader(half_open.socket)
            self._refuse(half_open.socket, b"" if self._tls else _frame(REFUSAL))

    def _forget(self, half_open: HalfOpen) -> None:
        if half_open not in self._half_open:
            return
        del self._half_open[half_open]
        half_open.deadline.cancel()
        left = self._per_address[half_open.host] - 1
        if left:
            self._per_address[half_open.host] = left
        else:
            del self._per_address[half_open.host]

    def _report(self, host: str, kind: str, reason: str) -> None:
        self._log.line(kind, host, "refused a connection from %s: %s", host, line(reason))


def _frame(body: bytes) -> bytes:
    return header(CONTROL, len(body)) + body if body else b""
