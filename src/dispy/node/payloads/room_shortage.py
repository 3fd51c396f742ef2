"""Back-pressure when large data finds no room: its computation gets no jobs until there is room again."""

from __future__ import annotations

import logging

from dispy.core import execution as core
from dispy.core.execution.ids import Key
from dispy.node import guard
from dispy.node.state import NodeState
from dispy.system.free_space import NoRoomError

logger = logging.getLogger("dispy.node")

LOOK_S = 0.5
"""Interval (seconds) at which the node looks whether there is room again for the computations that wait for it."""

SAY_S = 60.0
"""Minimum interval (seconds) between two warnings in the log that a computation waits for room."""


def is_passing(error: OSError) -> bool:
    """True if ``error``, raised when large data was stored, may pass: other payloads take the room now, and the file
    system is large enough.

    Then the caller calls ``wait_for_room``. On any other error the data is refused for good.
    """
    return isinstance(error, NoRoomError) and error.is_passing


def wait_for_room(
    service: NodeState, key: Key, size: int, reason: str, returned: tuple[int, int] | None = None
) -> None:
    """Take no more jobs of a computation until there is room for ``size`` bytes. Its program is told the reason.

    Args:
        service: The service of the node.
        key: The computation; its client and number.
        size: Bytes of the data that found no room. For several calls the largest number counts.
        reason: Text for the user that says what is full.
        returned: Number and attempt of the job that the data was of, which goes back to the program; None: no job
            goes back.
    """
    now = service.clock.monotonic()
    if now > service.short_said + SAY_S:
        service.short_said = now
        logger.warning("a computation waits: %s", reason)
    if not service.short:
        guard.later(service, LOOK_S, None, _look, service)
    service.short[key] = max(size, service.short.get(key, 0))
    service.handle(core.ShortOfRoom(key, reason, returned))


def _look(service: NodeState) -> None:
    """Tell the core which computations have room for their data again: these get jobs from now on.

    While others wait this function is called again after ``LOOK_S``, until the node stops.
    """
    for key, size in list(service.short.items()):
        if key not in service.loaded:
            del service.short[key]
        elif service.segments.has_room(size):
            del service.short[key]
            service.handle(core.ShortOfRoom(key, ""))
    if service.short and not service.stopped.is_set():
        guard.later(service, LOOK_S, None, _look, service)
