"""What stands still for too long is said, once."""

from __future__ import annotations

STALL_S = 10.0
"""How long work may stand still that could go on (seconds): far longer than any pause that is meant."""


class Stall:
    """Watches whether the same thing stands still for too long.

    Args:
        limit_s: How long that is (seconds).
    """

    def __init__(self, limit_s: float = STALL_S) -> None:
        self.limit_s = limit_s
        self._found = ""
        self._since = 0.0
        self._is_told = False

    def look(self, found: str, now: float) -> str:
        """Take note of what stands still now.

        Args:
            found: What it is, in words that change when anything moves; empty for nothing.
            now: Seconds of a clock that nobody sets.

        Returns:
            ``found`` when it has stood still for longer than the limit, the first time; otherwise nothing.
        """
        if found != self._found:
            self._found, self._since, self._is_told = found, now, False
        if not found or self._is_told or now - self._since < self.limit_s:
            return ""
        self._is_told = True
        return found
