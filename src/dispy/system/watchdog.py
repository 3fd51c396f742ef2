"""Watchdog: reports work that stands still for too long, once."""

from __future__ import annotations

STALL_S = 10.0
"""Seconds that work which could go on may stand still: far longer than any intended pause."""


class Stall:
    """Watches whether the same work stands still for too long.

    Args:
        limit_s: Seconds that it may stand still.
    """

    def __init__(self, limit_s: float = STALL_S) -> None:
        self.limit_s = limit_s
        self._found = ""
        self._since = 0.0
        self._is_told = False

    def look(self, found: str, now: float) -> str:
        """Note which work stands still now. To be called again and again, at least once within the limit.

        Args:
            found: A text about the work that stands still, which differs once anything has moved; empty if none does.
            now: Monotonic time (seconds).

        Returns:
            ``found``, at the first call after it has stood still for the limit; otherwise an empty text.
        """
        if found != self._found:
            self._found, self._since, self._is_told = found, now, False
        if not found or self._is_told or now - self._since < self.limit_s:
            return ""
        self._is_told = True
        return found
