"""Tracing of the scheduler, at log level DEBUG: one line per message to and from nodes, per event and per action.

At other levels nothing of this is called: turning it on replaces the core's entry function and sets the connections'
``trace``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy.core import scheduling as core
from dispy.protocol.describe import describe

if TYPE_CHECKING:
    from dispy.scheduler.node_link import NodeLink, Trace
    from dispy.scheduler.service import SchedulerService

logger = logging.getLogger("dispy.scheduler")

# The core's entry function: event and time (monotonic seconds) to the actions that it decides on.
Decide = Callable[[core.Event, float], list[core.Action]]

_ON_LINKS = (core.FromNodeEvent, core.Send)
"""Types of events and actions that are not logged here: links log the messages in them already."""

_QUIET = (core.Tick,)
"""Types of events that are not logged: they come all the time (every 20 ms)."""


def set_tracing(service: SchedulerService, is_on: bool) -> None:
    """Turn tracing on or off, for all links of a scheduler, and for links made later. On the loop.

    Turn it on only while the logger ``dispy.scheduler`` has the level DEBUG: at others nothing would be shown.
    Nothing is done if tracing is on or off already.
    """
    links = service.links
    if is_on == links.is_traced:
        return
    links.tracer = tracer if is_on else None
    decide = service.machine.handle
    service.machine.handle = partial(_decide, decide) if is_on else decide.args[0]  # type: ignore
    for node_link in links.by_target.values():
        node_link.link.set_trace(tracer(node_link) if is_on else None)


def tracer(node_link: NodeLink) -> Trace:
    """Returns the function that a link's connection calls with each message, to log it (``Connection.trace``)."""
    return partial(_on_message, node_link)


def _on_message(node_link: NodeLink, arrow: str, message: Any) -> None:
    target = node_link.target
    name = node_link.info.name if node_link.info is not None else f"{target.host}:{target.port}"
    logger.debug("node %s %s %s", name, arrow, describe(message))


def _decide(decide: Decide, event: core.Event, now: float) -> list[core.Action]:
    actions = decide(event, now)
    if not isinstance(event, _ON_LINKS + _QUIET):
        logger.debug("core: %s", describe(event))
    for action in actions:
        if not isinstance(action, _ON_LINKS):
            logger.debug("core decides: %s", describe(action))
    return actions
