"""The timer of a connection: up to the proof a dialer's deadline, then looks for signs of life of the peer.

One timer runs at a time, as the first ends where the second begins. When they are due is said in
``protocol.connection``: ``stranger.HANDSHAKE_S``, ``heartbeat``. Beside them there is one more where a derived key
expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dispy.errors import AuthenticationError, RemoteProtocolError
from dispy.net.sender import Sender
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.security.identities import Identity, another_key, when
from dispy.system.clock import Clock

EXPIRY_LOOK_S = 60.0
"""Most seconds between two looks at the clock for a key that expires: clocks are set, and machines sleep."""


class ConnectionTimer:
    """Tells the machine of a connection that time has passed. Everything runs on the loop.

    Args:
        machine: The machine.
        sender: Sends what comes of that, or closes the socket.
        call_later: The loop's method.
    """

    def __init__(
        self,
        machine: ConnectionMachine,
        sender: Sender,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
    ) -> None:
        self._machine = machine
        self._sender = sender
        self._call_later = call_later
        self._handle: asyncio.TimerHandle | None = None
        """The timer that runs; None: there is none."""
        self._expiry: asyncio.TimerHandle | None = None
        """Timer of the next look for a key that has expired; None: no key of this connection expires."""
        self._is_closed = False
        """True once the connection is gone: no timer runs any more."""

    def expect_proof(self) -> None:
        """Refuse the peer if it has not proved itself after ``HANDSHAKE_S``. For a dialer: a listener counts the time
        itself (``net.listener``)."""
        self._handle = self._call_later(HANDSHAKE_S, self._on_deadline)

    def stop(self) -> None:
        """Stop the timer: the peer has proved itself. ``set_pulse`` starts another one."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Stop all timers for good: the connection is gone."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        self.stop()

    def set_pulse(self, pulse_s: float) -> None:
        """Begin the heartbeat, or change its interval. The caller must tell the peer this interval (``SetPulse``).

        Args:
            pulse_s: Heartbeat interval (seconds): a sign of life is sent, and expected, in each. The connection
                ends with ``SilenceError`` if the peer is silent for five intervals.
        """
        self._machine.heartbeat.pulse_s = pulse_s
        self.stop()
        if not self._is_closed:
            self._look_later()

    def end_with(self, identity: Identity, clock: Clock) -> None:
        """End the connection with ``AuthenticationError`` once a derived key of one side has expired.

        Args:
            identity: Identity of the key, which expires.
            clock: Source of the time.
        """
        left_s = (identity.until or 0) - clock.time()
        if self._is_closed:
            return
        if left_s > 0:
            self._expiry = self._call_later(
                min(left_s, EXPIRY_LOOK_S), lambda: self.end_with(identity, clock)
            )
            return
        text = f"the key of {identity} has expired at {when(identity.until or 0)}"
        self._machine.refuse(AuthenticationError(text, hint=another_key(identity)))
        self._sender.flush_guarded()

    def _look_later(self) -> None:
        self._handle = self._call_later(self._machine.heartbeat.tick_s, self._on_look)

    def _on_look(self) -> None:
        if not self._machine.look():
            self._handle = None
            self._sender.abort()
            return
        if self._machine.has_work():
            self._sender.flush_soon()
        self._look_later()

    def _on_deadline(self) -> None:
        self._handle = None
        self._machine.refuse(RemoteProtocolError(f"no proof within {HANDSHAKE_S:g} s"))
        self._sender.flush_guarded()
