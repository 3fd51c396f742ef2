"""Clients as the node's log has shown them, and how many lines the log may still have this minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from dispy.core.execution.ids import ClientId
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.node")

LINES_MAX = 100
"""Lines a minute about programs and computations: a program that makes a cluster a second fills no disk."""

EVERY_S = 60.0
"""Seconds after which lines are counted anew."""

MORE = "comings and goings of programs and computations"
"""Name of the lines that are left out, in the line that tells their number."""


class Guest(Struct):
    """A client as its lines in the log have shown it.

    Attributes:
        name: As others see it.
        lost_at: When its connection was lost; 0.0: it stands.
        is_dead: It was said that it is taken for dead.
        finished: Jobs of computations that have left, which succeeded.
        failed: The others that ran.
    """

    name: str
    lost_at: float = 0.0
    is_dead: bool = False
    finished: int = 0
    failed: int = 0


class Reports:
    """The state of the log of one node: its guests, and how many lines there were.

    Args:
        call_later: Of the node's event loop.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self.guests: dict[ClientId, Guest] = {}
        self.limit = LogLimit(EVERY_S, LINES_MAX, logger.info, call_later)
        self.drain_said_at = 0.0
        """When it was last said what the node waits for."""
        self._count = 0

    def say(self, text: str) -> None:
        """Log a line, or count it."""
        self._count += 1
        self.limit.line(MORE, str(self._count), "%s", text)
