"""Guests: clients as the node's log has shown them; and the limit of lines a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from dispy.core.execution.ids import ClientId
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.node")

LINES_MAX = 100
"""Lines a minute about programs and computations; more are counted. A program that makes a cluster a second must not
fill the disk."""

EVERY_S = 60.0
"""Seconds after which the count of lines starts again."""

MORE = "comings and goings of programs and computations"
"""Subject of the lines that were left out, in the line that logs their number."""


class Guest(Struct):
    """A client as the log has shown it.

    Attributes:
        name: Name of the client in the log, cut and escaped.
        lost_at: Time at which its connection was lost (monotonic, seconds); 0.0: it is connected.
        is_dead: True if the log has said that the client is taken for dead.
        finished: Jobs that returned a value, of computations that have left.
        failed: Jobs of these computations that ran and did not return a value.
    """

    name: str
    lost_at: float = 0.0
    is_dead: bool = False
    finished: int = 0
    failed: int = 0


class Reports:
    """State of one node's log: its guests, and how many lines there were in the current minute.

    Args:
        call_later: Calls a function after a number of seconds, as the method of an event loop does.

    Attributes:
        guests: Clients that the log has shown, until they have left for good.
        limit: Logs lines up to the limit, and counts the others.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self.guests: dict[ClientId, Guest] = {}
        self.limit = LogLimit(EVERY_S, LINES_MAX, logger.info, call_later)
        self.drain_said_at = 0.0
        """Time at which the log last said what a drained node waits for (monotonic, seconds)."""
        self._count = 0

    def say(self, text: str) -> None:
        """Log a line at INFO, or count it if there were ``LINES_MAX`` in this minute."""
        self._count += 1
        self.limit.line(MORE, str(self._count), "%s", text)
