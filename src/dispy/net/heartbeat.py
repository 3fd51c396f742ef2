"""Heartbeats: a connection shows its peer that we are alive, and notices a peer that is dead or cut off.

Both sides look at their connection twice per heartbeat interval (``pulse_s``). If nothing was sent since the last
look, a PING goes out. If nothing was received for five intervals (``settings.SILENT_PULSES``), the peer is given up:
the connection ends with ``SilenceError``. Any byte is a sign of life, so a long transfer needs no PING.

What follows is decided elsewhere: a scheduler dials the node again (``scheduler.link``), a node keeps the client's
results (``node.clients``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dispy.errors import SilenceError
from dispy.settings import PULSE_S, SILENT_PULSES

TICKS = 2
"""Looks at a connection per heartbeat interval: our own timer ticks, at which PINGs are sent and silence is
counted."""

SILENT_TICKS = TICKS * SILENT_PULSES - 1
"""Looks in a row without a byte from the peer after which it is given up (``SilenceError``): 9, which is 4.5 to 5
heartbeat intervals after its last byte. What is left of the five intervals is for dialing anew."""


class Heartbeat:
    """Watches the peer of one connection, and shows it that we are alive.

    The connection sets ``has_sent`` and ``has_received`` itself, as a call per message would cost more.

    Args:
        loop: The loop on which the connection runs; all methods are called there.
        on_idle: Called without arguments at a look if nothing was sent since the last one: must send a PING.
        on_silent: Called once with ``SilenceError`` when the peer is given up: must end the connection. No look
            follows.
    """

    __slots__ = (
        "_is_stopped", "_loop", "_on_idle", "_on_silent", "_silent_ticks", "_tick", "has_received", "has_sent",
        "pulse_s",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[], None],
        on_silent: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._on_idle = on_idle
        self._on_silent = on_silent
        self.pulse_s = PULSE_S
        """Heartbeat interval (seconds); looks are half of it apart."""
        self.has_received = False
        """True if a byte has arrived since the last look. Set by the connection, reset at each look."""
        self.has_sent = False
        """True if a byte has been sent since the last look. Set by the connection (any thread), reset at each
        look."""
        self._silent_ticks = 0
        """Number of looks in a row, up to the last one, that found no byte received since the look before. At
        ``SILENT_TICKS`` the peer is given up."""
        self._tick: asyncio.TimerHandle | None = None
        """Timer of the next look; None before ``start``."""
        self._is_stopped = False
        """True once ``stop`` was called: no look follows any more."""

    def start(self, pulse_s: float) -> None:
        """Begin to look at the connection twice per ``pulse_s`` (seconds), or change that interval.

        The first look is half an interval from now. After ``stop`` no look follows.
        """
        self.pulse_s = pulse_s
        if self._tick is not None:
            self._tick.cancel()
        if not self._is_stopped:
            self._tick = self._loop.call_later(pulse_s / TICKS, self._on_tick)

    def stop(self) -> None:
        """End the looks for good: the connection is gone."""
        self._is_stopped = True
        if self._tick is not None:
            self._tick.cancel()

    @property
    def silent_s(self) -> float:
        """Seconds since the peer's last byte, in steps of half an interval; 0.0 before ``start``."""
        return self._silent_ticks * self.pulse_s / TICKS

    def _on_tick(self) -> None:
        """Look whether anything was received and sent since the last look; send a PING, or give the peer up.

        Our own looks are counted, not the clock: time in which this process stood still is not held against the peer.
        """
        self._silent_ticks = 0 if self.has_received else self._silent_ticks + 1
        self.has_received = False
        if self._silent_ticks >= SILENT_TICKS:
            self._on_silent(SilenceError(f"silent for {self.pulse_s * SILENT_PULSES:g} s"))
            return
        if not self.has_sent:
            self._on_idle()
        self.has_sent = False
        self._tick = self._loop.call_later(self.pulse_s / TICKS, self._on_tick)
