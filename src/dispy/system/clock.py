"""The clocks of services. They are an argument, so that tests can play whole clusters in simulated time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Functions of the module ``time`` that services use. Real programs pass that module."""

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary moment; never goes back."""
        ...

    def time(self) -> float:
        """Returns seconds since the epoch; goes back when the clock is set."""
        ...
