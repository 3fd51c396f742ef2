"""Guests: what the node's log has said of each client so far, so that nothing is said twice; and the limit of lines
a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from dispy.core.execution.ids import ClientId
from dispy.system.log_writer import LogLimit

logger = logging.getLogger("dispy.node")

LINES_MAX = 100
"""Log lines in ``EVERY_S`` about comings and goings of programs and computations. Further lines are left out, and
only their number is logged: a program that makes a cluster a second must not fill the disk."""

EVERY_S = 60.0
"""Seconds to which ``LINES_MAX`` applies. Then the number of left-out lines is logged, and counting begins anew."""

MORE = "comings and goings of programs and computations"
"""Words for the left-out lines, in the log line that has their number."""


class Guest(Struct):
    """Account of what the node's log has said of one client, so that each thing is said once.

    Attributes:
        name: Name of the client in the log, cut and escaped.
        lost_at: Time at which its connection was lost (monotonic, seconds); 0.0: it is connected. The line on its
            return has the time between.
        is_dead: True if the log has said that the client is taken for dead, and it has not come back since.
        finished: Jobs that returned a value, of its computations that have left. Logged when the client leaves.
        failed: Jobs of these computations that ran and did not return a value. Logged when the client leaves.
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
        guests: What the log has said of each client, by its identity. Removed when the client leaves for good, or
            the node forgets it at the end of its lease.
        limit: Logs up to ``LINES_MAX`` lines in ``EVERY_S``, and counts the others.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self.guests: dict[ClientId, Guest] = {}
        self.limit = LogLimit(EVERY_S, LINES_MAX, logger.info, call_later)
        self.drain_said_at = 0.0
        """Time at which the log last said what a drained node waits for (monotonic, seconds); 0.0: not yet. It is
        said again after ``reporting.WAITS_S``."""
        self._count = 0
        """Lines that ``say`` was given so far. The number is each line's key at ``limit``, which logs a key only
        once."""

    def say(self, text: str) -> None:
        """Log a line at INFO, or only count it if ``LINES_MAX`` lines were logged in the current ``EVERY_S``."""
        self._count += 1
        self.limit.line(MORE, str(self._count), "%s", text)
