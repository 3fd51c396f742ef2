"""A link: we and one peer, over successive connections.

The link makes connections and notices when they break; its owner knows what is said over them. Either side may dial,
whatever its role: a link with a ``Target`` dials, one without takes the connections that the peer has dialed
(``accept``). Both sides compare what they hold after each break (``Owner.on_up``).

    state     event                                       next      what is done
    dialing   dial fails, or connection ends early        closed    ``on_failed``: the peer cannot be reached
    dialing   both sides have proved themselves           up        ``on_up``
    up        connection breaks before ``is_known``       closed    ``on_failed``: who listens there is no such peer
    up        connection breaks, or peer is silent        broken    ``on_broken``; dial at once, then with pauses
    broken    both sides have proved themselves           up        ``on_up``
    broken    nothing listens, or refused twice           closed    ``on_failed``: the peer is lost
    broken    the time is over                            closed    ``on_failed``: the peer is lost
    any       a message of ours is too large              closed    ``on_failed``: a redial would send it again
    any       ``close``                                   closed

"The time" is five heartbeat intervals after the connection broke (``Patience.pulses``). A peer that was silent
(``SilenceError``) has used up all but one look of it, half an interval. It is counted in our own timer ticks, not by
the clock: time in which this process stood still does not count. A link whose ``Patience`` has no end stays broken,
and dials until it is closed.

Everything runs on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from dispy.errors import (
    AuthenticationError,
    DispyError,
    InternalError,
    RemoteProtocolError,
    SilenceError,
    VersionError,
)
from dispy.net.connection import Connection
from dispy.net.dialing import Target, dial
from dispy.protocol import streams
from dispy.protocol.connection.heartbeat import TICKS
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.clock import Clock

logger = logging.getLogger("dispy.net")

DIAL_S = 10.0
"""Seconds after which a dial is given up: a known peer is dialed again, the link to any other one fails."""

SLOW_S = 1.5
"""Seconds without an introduction of the peer, from the first dial, after which the owner is told that it is slow
(``Owner.on_slow``). The link goes on trying."""

REDIAL_S = 0.1
"""Pause (seconds) between two attempts to reach a peer whose connection broke; the first one, if they grow."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Both sides' roles, and what the peer may say: the same on all connections of a link, whoever dials.

    Attributes:
        ours: Our role ("client").
        peer: Role that the peer must have ("node").
        decoder: Decodes the messages that the peer may send.
        make_sink: Makes the sinks of payloads that arrive as streams (``Connection``).
    """

    ours: str
    peer: str
    decoder: msgspec.msgpack.Decoder[Any]
    make_sink: Callable[[int], streams.Sink] = streams.MemorySink


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a link tries to get its peer back.

    Attributes:
        pulses: Heartbeat intervals after which a peer that does not come back is lost. None: never, not even if
            nothing listens there or it refuses us.
        redial_max_s: Pauses (seconds) between dials double from ``REDIAL_S`` up to this one.
    """

    pulses: int | None = SILENT_PULSES
    redial_max_s: float = REDIAL_S


class Owner(Protocol):
    """The object above a link, which knows what is said over it: ``NodeLink`` of a scheduler."""

    def on_up(self, connection: Connection) -> None:
        """The peer has proved itself on a new connection, and can be sent messages: say who we are."""

    def on_message(self, connection: Connection, message: Any) -> None:
        """The peer has sent a message. A ``DispyError`` raised here ends the connection."""

    def on_broken(self) -> None:
        """The connection of a known peer broke; the link tries to get it back."""

    def on_failed(self, error: Exception) -> None:
        """The peer cannot be reached, or is lost. The link is closed."""

    def on_slow(self) -> None:
        """The peer has not introduced itself for ``SLOW_S`` since a dial; the link goes on trying."""


class Link:
    """One peer, over successive connections, and how they are made (states: see the module).

    Args:
        owner: Object that is told what happens to the link.
        roles: Who we are to the peer.
        clock: Source of the time (monotonic seconds).
        target: Address of the peer; None: the peer dials.
        patience: How long to try to get the peer back.
        pulse_s: Heartbeat interval (seconds); change it by ``set_pulse``.
    """

    def __init__(
        self,
        owner: Owner,
        roles: Roles,
        clock: Clock,
        target: Target | None = None,
        *,
        patience: Patience = Patience(),
        pulse_s: float = PULSE_S,
    ) -> None:
        self._owner = owner
        self._roles = roles
        self._clock = clock
        self._target = target
        self._patience = patience
        self._pulse_s = pulse_s
        self.connection: Connection | None = None
        """The connection that has proved itself; None while there is none: nothing can be sent."""
        self.is_known = False
        """True once the peer has introduced itself, as its owner says: it is dialed again after a break."""
        self.is_closed = False
        """True once the link was closed or has failed: it does not dial again."""
        self._trace: Callable[[str, Any], None] | None = None
        """Function that logs messages (``Connection.trace``); None: they are not logged."""
        self._broken_at: float | None = None
        """Time (monotonic seconds) at which the connection broke, until the peer has proved itself again; else None.
        Tells timers of an earlier break from those of this one."""
        self._refusals = 0
        """Refusals by the peer in a row (other secret or version). At the second the peer counts as lost."""
        self._pause_s = 0.0
        """Seconds to wait before the next dial: none for the first one since the peer has proved itself."""
        self._task: asyncio.Task[None] | None = None
        """Task that dials; None or done while no dial is under way."""
        self._past = (0, 0)
        """Bytes sent, and bytes received, over earlier connections that had proved themselves."""
        self._made: Connection | None = None
        """The last connection that we have dialed, to be aborted by ``close``; it may not have proved itself yet."""

    # Making connections.

    def dial(self) -> None:
        """Begin to connect in background, unless that is under way: ``on_up`` or ``on_failed`` follows."""
        if self._task is None or self._task.done():
            assert self._target is not None, "the peer dials"
            self._task = asyncio.get_running_loop().create_task(self._dial(self._target))

    async def _dial(self, target: Target) -> None:
        asyncio.get_running_loop().call_later(SLOW_S, self._on_slow)
        while not self.is_closed:
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            self._pause_s = min(max(REDIAL_S, 2 * self._pause_s), self._patience.redial_max_s)
            try:
                async with asyncio.timeout(DIAL_S):
                    await dial(target.socket, target.host, target.port, self._new_connection)
                return
            except Exception as error:
                if not isinstance(error, OSError):
                    logger.exception("the link to %s failed", self._address())
                    self._fail(error)
                    return
                is_gone = isinstance(error, ConnectionRefusedError) and self._patience.pulses is not None
                if is_gone or not self.is_known:
                    self._fail(error)
                    return

    def _on_slow(self) -> None:
        """Tell the owner if the peer has not introduced itself yet, ``SLOW_S`` after a dial: its users may wait."""
        if not self.is_known and not self.is_closed:
            self._owner.on_slow()

    def _new_connection(self, is_unix: bool) -> Connection:
        target, roles = self._target, self._roles
        assert target is not None
        self._made = Connection(
            self,
            roles.decoder,
            target.keys,
            roles.ours,
            roles.peer,
            is_dialer=True,
            tls=target.tls() if target.tls is not None and not is_unix else None,
            peer_name=target.name or target.host,
            unix_address=target.host,
            make_sink=roles.make_sink,
            clock=self._clock,
        )
        if self._trace is not None:
            self._made.trace = self._trace
            logger.debug("%s is dialed", self._address())
        return self._made

    def accept(self, connection: Connection) -> None:
        """Go on with a connection that the peer has dialed and on which it has proved itself; ``on_up`` follows.

        A connection that stands already is aborted: the peer dials when that one is broken for it.
        """
        before = self.connection
        connection.owner = self
        connection.trace = self._trace
        self.on_ready(connection)
        if before is not None:
            before.abort(RemoteProtocolError("replaced by a newer connection"))

    def _address(self) -> str:
        if self._target is None:
            return f"the {self._roles.peer} that dials"
        return f"{self._target.host}:{self._target.port}"

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        """Begin the heartbeat, and have the owner introduce us: the peer has proved itself."""
        if self.is_closed:
            connection.abort(ConnectionError("not wanted any more"))
            return
        logger.debug("%s has proved itself", self._address())
        self._keep_traffic()
        self.connection = connection
        self._refusals = 0
        self._pause_s = 0.0
        # The peer is back. From now on only the heartbeat counts: its introduction may take its time.
        self._broken_at = None
        self._owner.on_up(connection)
        connection.set_pulse(self._pulse_s)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Pass on a message of the peer, if the connection is the present one."""
        if connection is self.connection:
            self._owner.on_message(connection, message)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Dial again, as the connection is gone. The link fails if the peer refused us twice or was never known."""
        logger.debug("the connection to %s is gone: %s", self._address(), error or "closed")
        if self.connection is connection:
            self._keep_traffic()
        elif self.connection is not None:
            return  # a newer one has replaced it
        if self.is_closed:
            return
        if isinstance(error, InternalError):
            # The message that was too large would be sent again after each reconnect.
            self._fail(error)
            return
        if isinstance(error, (AuthenticationError, VersionError)):
            self._refusals += 1
        # One refusal is no proof: a known peer that stood still may have refused us for being late. Ask once more.
        is_refused = self._refusals > 1 and self._patience.pulses is not None
        if not self.is_known or is_refused:
            if not isinstance(error, DispyError):
                error = RemoteProtocolError(
                    "what listens there closed the connection",
                    hint=f"check that it is a {self._roles.peer}'s address and port",
                )
            self._fail(error)
            return
        if self._broken_at is None:
            self._broken_at = self._clock.monotonic()
            if self._patience.pulses is not None:
                # Looks (two per heartbeat interval) left until the peer is lost. A silent one has used all but one.
                ticks = 1 if isinstance(error, SilenceError) else TICKS * self._patience.pulses
                self._await_return(self._broken_at, ticks)
            self._owner.on_broken()
        if self._target is not None:
            self._task = None
            self.dial()

    def _await_return(self, broken_at: float, ticks: int) -> None:
        """Give the peer up after ``ticks`` of our timer (half a heartbeat interval each), unless it is back by then.

        ``broken_at`` is ``_broken_at`` of the break that is meant. Time in which we stood still does not count.
        """
        if self._broken_at == broken_at and not self.is_closed:
            if ticks:
                tick_s = self._pulse_s / TICKS
                asyncio.get_running_loop().call_later(tick_s, self._await_return, broken_at, ticks - 1)
                return
            if self._task is not None:
                self._task.cancel()
            if self.connection is not None:
                self.connection.abort(SilenceError("given up"))
            self._fail(SilenceError("it does not answer any more"))

    # What owners do.

    def set_pulse(self, pulse_s: float) -> None:
        """Change our heartbeat interval (seconds). The owner tells the peer."""
        self._pulse_s = pulse_s
        if self.connection is not None:
            self.connection.set_pulse(pulse_s)

    def set_trace(self, trace: Callable[[str, Any], None] | None) -> None:
        """Log the messages of this connection and those to come (``Connection.trace``); None: log none."""
        self._trace = trace
        if self.connection is not None:
            self.connection.trace = trace

    def traffic(self) -> tuple[int, int]:
        """Returns bytes sent, and bytes received, over all connections of this link that have proved themselves."""
        connection = self.connection
        sent, received = self._past
        if connection is None:
            return sent, received
        return sent + connection.bytes_sent, received + connection.bytes_received

    def _keep_traffic(self) -> None:
        self._past = self.traffic()
        self.connection = None

    def close(self) -> None:
        """End the link for good. Messages that were sent before leave."""
        self.is_closed = True
        self._abort_unready()
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.close()

    def _fail(self, error: Exception) -> None:
        self.is_closed = True
        self._abort_unready()
        self._owner.on_failed(error)

    def _abort_unready(self) -> None:
        """End the connection that has not proved itself yet, if any."""
        if self._made is not None and self._made is not self.connection:
            self._made.abort(ConnectionError("not wanted any more"))
