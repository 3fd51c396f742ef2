"""Tracing, for ``dispynode -d``: a log line for each message of clients and hosts, event, and action of the core.

``begin`` wraps the core's ``handle`` and gives connections a ``trace`` function. Without ``-d`` it is not called, so
tracing costs nothing per message.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy.core import execution as core
from dispy.protocol.describe import describe
from dispy.system.escaping import line
from dispy.system.processes import describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dispy.net.connection import Connection
    from dispy.node.processes.hosts import HostProcess
    from dispy.node.state import NodeState

logger = logging.getLogger("dispy.node")

_ON_CONNECTIONS = (core.FromClient, core.Tell)
"""Types of events and actions that only carry a client's message. Not logged: ``_on_message`` logs the message."""

_QUIET = (core.Tick, core.Flush, core.FlushSoon, core.Look, core.Looked)
"""Types of events that happen up to a hundred times a second (clock, delayed results, looks at output), and of the
actions that they cause. Not logged: they would bury all other lines."""


def begin(service: NodeState) -> None:
    """Log at DEBUG all events and actions of the core, and all messages of connections made from now on.

    Call it once, before the node listens: connections that exist already are not traced.
    """
    service.machine.handle = partial(_decide, service, service.machine.handle)  # type: ignore[method-assign]
    service.entrance.tracer = partial(_tracer, service)


def _tracer(service: NodeState, connection: Connection) -> Callable[[str, Any], None]:
    """Returns the function for ``Connection.trace``, which logs one message.

    Its arguments are the message's direction in words, from the client's view ("says", "is told"), and the message.
    """
    return partial(_on_message, service, connection)


def _on_message(service: NodeState, connection: Connection, arrow: str, message: Any) -> None:
    """Log a message to or from a client, under the client's name, or under the peer's address before ``Attach``."""
    client = service.connections.get(connection)
    known = service.machine.state.clients.get(client) if client is not None else None
    name = known.name if known is not None else connection.peer_address
    logger.debug("client %s %s %s", name, arrow, describe(message))


def _decide(
    service: NodeState,
    decide: Callable[[core.Event, float], list[core.Action]],
    event: core.Event,
    now: float,
) -> list[core.Action]:
    """Call ``decide``, the core's ``handle``; log the event and the actions, and return the actions unchanged.

    Args:
        service: The node.
        decide: Method of the core that is wrapped.
        event: Event for the core.
        now: Time of the event (monotonic, seconds).
    """
    pid = _pid_of(service, event)
    actions = decide(event, now)
    if not isinstance(event, _ON_CONNECTIONS + _QUIET):
        logger.debug("core: %s%s", describe(event), pid)
    for action in actions:
        if not isinstance(action, _ON_CONNECTIONS + _QUIET):
            logger.debug("core decides: %s%s", describe(action), _pid_of(service, action))
    return actions


def _pid_of(service: NodeState, item: Any) -> str:
    """Returns ``" pid=N"`` for the worker that an event or action names; empty if it names none, or the pid is not
    known yet."""
    owner = service.owners.get(getattr(item, "worker", None))  # type: ignore[arg-type]  # None is no worker
    return f" pid={owner[1].pid}" if owner is not None and owner[1].pid else ""


def host_message(host: HostProcess, message: Any) -> None:
    """Log, at DEBUG, a message that a host has sent to the node. Called only with ``dispynode -d``."""
    logger.debug("host %d -> %s", host.process.pid, describe(message))


def host_ended(host: HostProcess) -> None:
    """Log, at DEBUG, the exit code or signal with which a host has ended. Call it after the host was reaped."""
    if logger.isEnabledFor(logging.DEBUG) and host.process.returncode is not None:
        logger.debug("host %d has ended with %s", host.process.pid, describe_exit(host.process.returncode))


def connection_made(connection: Connection) -> None:
    """Log, at DEBUG, that a peer has proved the secret. Its first message, ``Attach``, will name the client."""
    logger.debug("a connection from %s has proved itself", connection.peer_address)


def connection_lost(connection: Connection, error: Exception | None) -> None:
    """Log, at DEBUG, that a connection is gone, of a client or of a peer that has not said who it is, and why."""
    reason = f": {line(str(error))}" if error is not None else ""
    logger.debug("a connection from %s is gone%s", connection.peer_address, reason)
