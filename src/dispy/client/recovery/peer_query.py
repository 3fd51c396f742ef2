"""A peer of a dead program that is asked in its name: a node, or a shared scheduler. Here is how it is reached.

A peer is asked over one connection at a time. A broken connection is replaced, and the questions are asked anew.
``node_query`` and ``scheduler_query`` have the questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from dispy.client.recovery.dead_program import PastSession
from dispy.errors import AuthenticationError, VersionError
from dispy.net.connection import Connection
from dispy.net.dialing import Target, dial
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node
from dispy.system.clock import Clock

SILENT_S = 10.0
"""Seconds from the start of a recovery after which a peer that has not answered is given up for now (``SILENT``):
its jobs stay there for a later recovery, and nothing is released. Also the limit for one attempt to connect."""


class Asked(Protocol):
    """The program that peers are asked about (``node_queries.Asking``)."""

    @property
    def sessions(self) -> Sequence[PastSession]:
        """Sessions of the program in journals."""
        ...

    @property
    def is_releasing(self) -> bool:
        """True once peers may drop all that they keep of the program."""
        ...

    @property
    def clock(self) -> Clock:
        """Source of time for connections."""
        ...


class Ask:
    """A peer that is asked, over successive connections. On the loop of ``Net``.

    Args:
        asking: The program.
        peer: Name of the peer, "host:port".
        target: Address, secret and TLS of the peer.
        fault: Why the peer must not be dialed; None if it may be.

    Attributes:
        peer: As the parameter; ``core.recovery.Recovery`` keeps the peer's answers by this name.
        target: As the parameter.
        welcome: The peer's last introduction; None until it has introduced itself.
        error: Why the peer could not be reached, or why the last connection ended: part of the message to the user.
            Empty if neither has happened.
        is_refused: True if the last attempt to connect that failed was refused: nothing listened at the port, so
            the peer is given up after ``REFUSED_S`` and not ``SILENT_S``.
    """

    role = "node"
    """Kind of the peer, for the handshake."""

    def __init__(self, asking: Asked, peer: str, target: Target, fault: Exception | None = None) -> None:
        self._asking = asking
        self.peer = peer
        self.target = target
        self.welcome: node.Welcome | None = None
        self.error = str(fault or "")
        self.is_refused = False
        self._connection: Connection | None = None
        """Connection to the peer, maybe not ready yet; None before the first one, and after one has ended."""
        self._task: asyncio.Task[None] | None = None
        """Attempt to connect, under way or done; None before the first one. Only one runs at a time."""
        self._is_over = fault is not None
        """True if the peer is not dialed any more: a fault, the recovery ends, or the secret or version is wrong."""
        self._released: set[int] = set()
        """Sessions (Python's ``id`` of each) of which the peer has said, after ``release``, that it keeps nothing."""

    # What each kind of peer is asked.

    def decoder(self) -> Any:
        """Return the decoder of the peer's messages."""
        raise NotImplementedError

    def on_ready(self, connection: Connection) -> None:
        """Introduce ourselves with the dead program's identity: both sides have proved the secret to the other."""
        raise NotImplementedError

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of the peer: answers and news of jobs go to the ``Recovery`` of their session."""
        raise NotImplementedError

    def cancel(self, message: node.CancelJobs) -> None:
        """Have the peer cancel jobs; dropped if it is not connected."""
        raise NotImplementedError

    def release(self) -> None:
        """Have the peer drop all jobs and results of the program for good, and ask what is left.

        An empty answer proves that the peer has heard: ``is_released`` is True then.
        """
        raise NotImplementedError

    def on_lost(self) -> None:
        """The connection is gone: answers that were to come over it do not."""
        raise NotImplementedError

    # Connecting.

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
            self.decoder(),
            target.keys,
            "client",
            self.role,
            is_dialer=True,
            tls=target.tls() if target.tls is not None and not is_unix else None,
            peer_name=target.name or target.host,
            unix_address=target.host,
            make_sink=PoolSink,
            clock=self._asking.clock,
        )
        return self._connection

    def is_released(self) -> bool:
        """True if the peer has said, after ``release``, for each session that it keeps nothing any more.

        True also for a peer that knew no session when it was asked, and for one that never answered.
        """
        return all(id(session) in self._released for session in self._sessions())

    def _sessions(self) -> list[PastSession]:
        """Return the sessions of whose jobs the peer may keep something: it knew the program on this connection."""
        return [session for session in self._asking.sessions if session.recovery.has_answer(self.peer)]

    def close(self) -> None:
        """Close the connection, and stop an attempt to connect; the peer is not dialed any more."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close()

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Note that the connection is gone: the peer's answers are forgotten, and asked for over the next connection.

        Answers about a session that is released already are kept. After a wrong secret or version no dial follows.
        """
        if self._connection is not connection:
            return
        self._connection = None
        self.error = str(error) if error is not None else "the connection was closed"
        if isinstance(error, (AuthenticationError, VersionError)):
            self._is_over = True
        self.on_lost()
        for session in self._sessions():
            if id(session) not in self._released:
                session.recovery.on_broken(self.peer)
