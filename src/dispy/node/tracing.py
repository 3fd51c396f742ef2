"""``dispynode -d``: a line for each message of clients and hosts, and for what the execution core decides.

Without ``-d`` nothing of this is called: it is put in the place of what it calls when the node begins.
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
"""Events and actions that show as a message already."""

_QUIET = (core.Tick, core.Flush, core.FlushSoon, core.Look, core.Looked)
"""Events that happen a hundred times a second, and actions that come of them."""


def begin(service: NodeState) -> None:
    """Log what the core is told and decides from now on, and have connections log messages."""
    service._machine.handle = partial(_decide, service, service._machine.handle)  # type: ignore[method-assign]
    service._tracer = partial(_tracer, service)


def _tracer(service: NodeState, connection: Connection) -> Callable[[str, Any], None]:
    return partial(_on_message, service, connection)


def _on_message(service: NodeState, connection: Connection, arrow: str, message: Any) -> None:
    client = service._connections.get(connection)
    known = service._machine.state.clients.get(client) if client is not None else None
    name = known.name if known is not None else connection.peer_address
    logger.debug("client %s %s %s", name, arrow, describe(message))


def _decide(
    service: NodeState,
    decide: Callable[[core.Event, float], list[core.Action]],
    event: core.Event,
    now: float,
) -> list[core.Action]:
    pid = _pid_of(service, event)
    actions = decide(event, now)
    if not isinstance(event, _ON_CONNECTIONS + _QUIET):
        logger.debug("core: %s%s", describe(event), pid)
    for action in actions:
        if not isinstance(action, _ON_CONNECTIONS + _QUIET):
            logger.debug("core decides: %s%s", describe(action), _pid_of(service, action))
    return actions


def _pid_of(service: NodeState, item: Any) -> str:
    """Which process a worker is, once that has started."""
    owner = service._owners.get(getattr(item, "worker", None))  # type: ignore[arg-type]  # None is no worker
    return f" pid={owner[1].pid}" if owner is not None and owner[1].pid else ""


def host_message(host: HostProcess, message: Any) -> None:
    """A host has said something."""
    logger.debug("host %d -> %s", host.process.pid, describe(message))


def host_ended(host: HostProcess) -> None:
    """A host has ended, with all that it and its workers had started."""
    if logger.isEnabledFor(logging.DEBUG) and host.process.returncode is not None:
        logger.debug("host %d has ended with %s", host.process.pid, describe_exit(host.process.returncode))


def connection_made(connection: Connection) -> None:
    """A client has proved itself."""
    logger.debug("a connection from %s has proved itself", connection.peer_address)


def connection_lost(connection: Connection, error: Exception | None) -> None:
    """A connection of a client, or of somebody who has not said who it is, is gone."""
    reason = f": {line(str(error))}" if error is not None else ""
    logger.debug("a connection from %s is gone%s", connection.peer_address, reason)
