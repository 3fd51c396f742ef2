"""Watchdog: reports jobs that stand still though they could go on, once per standstill.

Nodes and programs look at their core now and then (``find_stall``) and pass what they find to ``Stall.look``.
After ``STALL_S`` seconds without any change it returns the text, which they log. Nothing is ended by it.
"""

from __future__ import annotations

STALL_S = 10.0
"""Seconds that jobs which could go on may stand still before a node or a program logs an error: far longer than any
intended pause."""

BLIND_S = 5.0
"""Pause between two looks (seconds) that shows that the process itself stood still: others are not blamed."""


class Stall:
    """Watches whether jobs stand still for too long though they could go on. Each standstill is reported once.

    Args:
        limit_s: Seconds that work may stand still before it is reported.
    """

    def __init__(self, limit_s: float = STALL_S) -> None:
        self.limit_s = limit_s
        self._found = ""
        """Text about the jobs that stood still at the last call of ``look``; empty if none did. The same text at the
        next call means that nothing has moved."""
        self._looked = 0.0
        """Time of the last call of ``look`` (monotonic, seconds)."""
        self._since = 0.0
        """Time of the call of ``look`` that got the text ``_found`` first (monotonic, seconds)."""
        self._is_told = False
        """True if ``look`` has returned the text ``_found``: the caller has logged it, and is not told again."""

    def look(self, found: str, now: float) -> str:
        """Note which jobs stand still now; returns a text for the caller to log.

        To be called once a second or more often. A caller that has not called for ``BLIND_S`` stood still itself
        (SIGSTOP, a machine without CPU time) and has seen nothing of what moved: the time counts from now on.

        Args:
            found: A text about the jobs that stand still, which differs once anything has moved; empty if none does.
            now: Monotonic time (seconds).

        Returns:
            ``found``, at the first call after it has stood still for the limit; otherwise an empty text.
        """
        if found != self._found or now - self._looked > BLIND_S:
            self._is_told = self._is_told and found == self._found
            self._found, self._since = found, now
        self._looked = now
        if not found or self._is_told or now - self._since < self.limit_s:
            return ""
        self._is_told = True
        return found
