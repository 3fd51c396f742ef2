"""Large data that finds no room, neither in memory nor on disk: it waits where it is until there is some."""

from __future__ import annotations

import logging

from dispy.core import execution as core
from dispy.core.execution.ids import Key
from dispy.node.state import NodeState
from dispy.system.free_space import NoRoomError

logger = logging.getLogger("dispy.node")

LOOK_S = 0.5
"""How often it is looked whether there is room (seconds)."""

SAY_S = 60.0
"""How often it is said that there is none (seconds)."""


def is_passing(error: OSError) -> bool:
    """Whether there may be room later: others of this program or another hold it, and it would be enough."""
    return isinstance(error, NoRoomError) and error.is_passing


def wait_for_room(
    service: NodeState, key: Key, size: int, reason: str, returned: tuple[int, int] | None = None
) -> None:
    """Take no more jobs of a computation until there is room for so many bytes; its program is told the reason.

    Args:
        service: Of the node.
        key: The computation.
        size: Of the data that found no room.
        reason: What is full.
        returned: The job that it was of, which goes back (number and attempt).
    """
    now = service._clock.monotonic()
    if now > service._short_said + SAY_S:
        service._short_said = now
        logger.warning("a computation waits: %s", reason)
    if not service._short:
        service._loop.call_later(LOOK_S, _look, service)
    service._short[key] = max(size, service._short.get(key, 0))
    service._handle(core.ShortOfRoom(key, reason, returned))


def _look(service: NodeState) -> None:
    for key, size in list(service._short.items()):
        if key not in service._loaded:
            del service._short[key]
        elif service._segments.has_room(size):
            del service._short[key]
            service._handle(core.ShortOfRoom(key, ""))
    if service._short and not service._stopped.is_set():
        service._loop.call_later(LOOK_S, _look, service)
