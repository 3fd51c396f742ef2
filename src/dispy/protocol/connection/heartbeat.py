"""Heartbeat: what a connection that says nothing means, counted in looks.

Both sides look at their connection twice per heartbeat interval (``pulse_s``). If nothing was sent since the last
look, a PING goes out. If nothing was received for five intervals (``settings.SILENT_PULSES``), the peer is given up:
the connection ends with ``SilenceError``. Any byte is a sign of life, so a long transfer needs no PING.

What follows is decided elsewhere: a scheduler dials the node again (``net.links.link``), a node keeps the client's
results (``node.clients``).
"""

from __future__ import annotations

from dispy.errors import SilenceError
from dispy.settings import PULSE_S, SILENT_PULSES

TICKS = 2
"""Looks at a connection per heartbeat interval: our own timer ticks, at which PINGs are sent and silence is
counted."""

SILENT_TICKS = TICKS * SILENT_PULSES - 1
"""Looks in a row without a byte from the peer after which it is given up (``SilenceError``): 9, which is 4.5 to 5
heartbeat intervals after its last byte. What is left of the five intervals is for dialing anew."""


class Heartbeat:
    """Watches the peer of one connection. The caller must call ``look`` every ``tick_s`` seconds, from the first one
    half an interval after the proof on.

    The connection sets ``has_sent`` and ``has_received`` itself, as a call per message would cost more.
    """

    __slots__ = ("_silent_ticks", "has_received", "has_sent", "pulse_s")

    def __init__(self) -> None:
        self.pulse_s = PULSE_S
        """Heartbeat interval (seconds). Both sides must have the same."""
        self.has_received = False
        """True if a byte has arrived since the last look. Set by the connection, reset at each look."""
        self.has_sent = False
        """True if a byte has been sent since the last look. Set by the connection (any thread), reset at each
        look."""
        self._silent_ticks = 0
        """Number of looks in a row, up to the last one, that found no byte received since the look before. At
        ``SILENT_TICKS`` the peer is given up."""

    @property
    def tick_s(self) -> float:
        """Seconds between two looks: half a heartbeat interval."""
        return self.pulse_s / TICKS

    @property
    def silent_s(self) -> float:
        """Seconds since the peer's last byte, in steps of half an interval; 0.0 before the first look."""
        return self._silent_ticks * self.tick_s

    def look(self) -> bool:
        """Look whether anything was received and sent since the last look.

        Looks are counted, not the clock: time in which this process stood still is not held against the peer.

        Returns:
            True if nothing was sent: the caller must send a PING.

        Raises:
            SilenceError: The peer is given up. The caller must end the connection, and not look again.
        """
        self._silent_ticks = 0 if self.has_received else self._silent_ticks + 1
        self.has_received = False
        if self._silent_ticks >= SILENT_TICKS:
            raise SilenceError(f"silent for {self.pulse_s * SILENT_PULSES:g} s")
        was_idle = not self.has_sent
        self.has_sent = False
        return was_idle
