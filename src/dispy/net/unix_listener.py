"""A node's Unix socket: accepts programs of the node's own user, and ends those that do not prove the secret.

Other users cannot reach the socket, so there is no need for the shares and first looks of ``net.listener``. A program
of the user that does not prove the secret within ``HANDSHAKE_S`` is refused; its fault is logged in one line, with a
limit on the number of lines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dispy.errors import RemoteProtocolError
from dispy.net import unix_sockets
from dispy.net.connection import Connection
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.system.escaping import line
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.net")

ACCEPTS_PER_TURN = 32
"""Most connections accepted in one turn of the loop; the next ones wait until other work has had its turn."""

HALF_OPEN_MAX = 512
"""Most connections without proof at once; one more is closed. Programs of one user that start at the same moment stay
far below it, as a handshake takes a millisecond."""

FULL_PAUSE_S = 0.2
"""Pause in accepting (seconds) after an error, as when no descriptors are left; meanwhile the kernel queues
connections."""

LOG_EVERY_S = 60.0
"""Length of the interval (seconds) in which ``LOG_LINES_MAX`` log lines about refused connections are written."""
LOG_LINES_MAX = 10
"""Log lines per interval; the rest is counted in one line."""

_REFUSED = "connections to the node's Unix socket refused"
"""Kind of the log lines, as words for the count of lines that were left out."""


class UnixListener:
    """Accepts connections on one Unix socket. Everything runs on the loop.

    Args:
        make: Makes the ``Connection`` of an accepted socket. Its argument must become the connection's
            ``on_settled``.
        host: IP address that the node listens on as well.
        port: TCP port that the node listens on as well.

    Attributes:
        path: Path of the socket.

    Raises:
        StateDirectoryError: The socket cannot be made.
    """

    def __init__(
        self, make: Callable[[Callable[[Connection], None]], Connection], host: str, port: int
    ) -> None:
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._half_open: set[asyncio.Task[None]] = set()
        """Tasks of connections that have not proved themselves."""
        self._log = LogLimit(LOG_EVERY_S, LOG_LINES_MAX, logger.warning, self._loop.call_later)
        self._socket: socket.socket | None
        """The listening socket; None after ``close``."""
        self.path: Path
        self._socket, self.path = unix_sockets.open_at(host, port)
        self._loop.add_reader(self._socket, self._on_acceptable)

    def close(self) -> None:
        """Stop listening, remove the socket, and refuse connections without proof. Others stay.

        Call it before the node's port is closed: the next node on that port has the same path for its socket.
        """
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()  # fails unless this was the last node
        self._socket.close()
        self._socket = None
        for task in self._half_open:
            task.cancel()
        self._log.tell_count()

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._socket is None:
                return
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._report(f"it cannot be accepted: {error.strerror}")
                self._loop.remove_reader(self._socket)
                self._loop.call_later(FULL_PAUSE_S, self._resume)
                return
            self._on_accepted(accepted)

    def _resume(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._on_acceptable)

    def _on_accepted(self, accepted: socket.socket) -> None:
        user = unix_sockets.peer_user(accepted)
        if user != os.geteuid():
            self._report(f"it is by user {user}, and this node is of user {os.geteuid()}")
            accepted.close()
        elif len(self._half_open) >= HALF_OPEN_MAX:
            self._report("too many connections that do not prove themselves")
            accepted.close()
        else:
            accepted.setblocking(False)
            task = self._loop.create_task(self._see_through(accepted))
            self._half_open.add(task)
            task.add_done_callback(self._half_open.discard)

    async def _see_through(self, accepted: socket.socket) -> None:
        """Make the connection of an accepted socket, and wait until it has proved itself or is gone."""
        settled: asyncio.Future[None] = self._loop.create_future()

        def on_settled(_: Connection) -> None:
            if not settled.done():
                settled.set_result(None)

        try:
            _transport, connection = await self._loop.connect_accepted_socket(
                lambda: self._make(on_settled), accepted
            )
        except (OSError, asyncio.CancelledError):
            accepted.close()
            return
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await settled
        except TimeoutError:
            connection.refuse(RemoteProtocolError(f"no proof within {HANDSHAKE_S:g} s"))
        except asyncio.CancelledError:
            connection.refuse(RemoteProtocolError("no proof in time"))
            return
        if connection.error is not None and not connection.is_ready:
            self._report(str(connection.error))

    def _report(self, reason: str) -> None:
        self._log.line(_REFUSED, reason, "refused a connection to %s: %s", self.path, line(reason))
