"""The clocks that services go by: an argument, so that whole clusters can be played in a time of their own."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """What is used of the module ``time``, which is the one of real programs."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def time(self) -> float:
        """Seconds since the epoch."""
