"""Containment of faults of the node's own program: an unexpected exception ends the party that it came for alone.

====================================================== ==============================================================
An exception that came for                             ends
====================================================== ==============================================================
a computation: an action of the core, a callback of    the computation, on this node, with the reason: its host is
its host or a worker, a timer, a message about it      killed and buried, and the core is told ``HostFailed``
a computation whose host cannot be buried              its client
a computation that has left, and is cleared away       nothing more: its process is killed, it leaves all tables
a client: what it is told, what it says                its connection: it is told that the node leaves it, and the
                                                       core that it has left. Its jobs run elsewhere, or end. If it
                                                       comes back, its computations are refused, with the reason
results on disk                                        nothing: they stay in memory
nobody: the pulse, the spare host, a line of the log   nothing: it is logged, and tried again when it is due again
the core                                               the node: its record and the machine differ from now on
====================================================== ==============================================================

Each fault is logged once with its traceback, to be reported.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.errors import InternalError
from dispy.node import guard
from dispy.node.guard import Owner
from dispy.node.processes.computations import bury_host, drop_failed
from dispy.node.state import Loaded, NodeState
from dispy.protocol import node
from dispy.system.wording import of_error

logger = logging.getLogger("dispy.node")

SAY_S = 60.0
"""Seconds between two log lines on one fault. A fault of the pulse comes back each second."""

_FAULTS_MAX = 100
"""Number of different faults that are remembered for ``SAY_S``; then all are forgotten, and said again."""

_GIVEN_UP_MAX = 1000
"""Number of clients that are remembered as given up; then all are forgotten, and may come back."""

_DISK = (core.Store, core.NoteOpen, core.DropNote, core.Erase)
"""Actions on results on disk. If one fails the results stay as they are, in memory or on disk: no reason to end the
connection of a client, which most times is not there."""


def owner_of(service: NodeState, action: core.Action) -> tuple[Owner, bool]:
    """Returns the party that an action of the core is performed for, and whether there is one.

    An action for results on disk has an owner that nothing ends: (None, True).
    """
    if isinstance(action, _DISK):
        return None, True
    owner = service.owners.get(getattr(action, "worker", WorkerId(0)))
    if owner is not None:
        return owner[0].key, True
    key: Owner = getattr(action, "key", None) or getattr(action, "client", None)
    return key, key is not None


def owner_of_message(service: NodeState, client: ClientId, message: Any) -> Owner:
    """Returns the party that a client's message is about: a computation that is here, or the client itself.

    None for a message about a computation that is not here: its sender is told so (``clients.answer_fault``).
    """
    number = getattr(message, "computation", None)
    if number is None:
        return client
    return (client, number) if (client, number) in service.machine.state.computations else None


def contain(service: NodeState, owner: Owner, error: Exception) -> None:
    """End the owner of a fault (see the table of this module), and log the fault."""
    if owner is None:
        _say(service, "a part of this node has a fault, and is tried again when it is due", error)
    elif isinstance(owner, tuple):
        _end_computation(service, owner, error)
    else:
        _say(service, f"client {_client_name(service, owner)} is given up", error)
        end_client(service, owner, error)


def _say(service: NodeState, what: str, error: Exception) -> None:
    """Log a fault with its traceback, unless the same one was logged in the last ``SAY_S``."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    now = service.clock.monotonic()
    key = f"{what} {place} {type(error).__name__}"
    if now - service.faults.get(key, -SAY_S) < SAY_S:
        return
    if len(service.faults) >= _FAULTS_MAX:
        service.faults.clear()
    service.faults[key] = now
    logger.error("%s; please report this", what, exc_info=error)


def _client_name(service: NodeState, client: ClientId) -> str:
    """Returns the name of a client, for the log."""
    known = service.machine.state.clients.get(client)
    return known.name if known is not None else client.hex()


# Computations.


def _end_computation(service: NodeState, key: Key, error: Exception) -> None:
    """Give a computation up because of a fault. Further faults for it until its host is buried are logged only."""
    computation = service.machine.state.computations.get(key)
    name = computation.spec.name if computation is not None else str(key[1])
    _say(service, f"computation {name} of {_client_name(service, key[0])} is given up", error)
    reason = f"node {service.name} has a fault: {of_error(error)}"
    loaded = service.loaded.get(key)
    if computation is None:
        _clear(service, key)
    elif loaded is None or loaded.host.is_dead:
        guard.soon(service, key[0], drop_failed, service, core.HostFailed(key, reason))
    elif not loaded.has_fault:
        loaded.has_fault = True
        loaded.failure = loaded.failure or reason
        service.loop.remove_reader(loaded.host.control)
        # Not at once: the core may be in the middle of its actions. If the burial fails, too, the client is ended.
        guard.soon(service, key[0], _bury, service, loaded)


def _bury(service: NodeState, loaded: Loaded) -> None:
    """Kill the host of a computation that is given up, and bury it, unless that has happened meanwhile."""
    if service.loaded.get(loaded.key) is loaded and not loaded.host.is_dead:
        bury_host(service, loaded.key, loaded)


def _clear(service: NodeState, key: Key) -> None:
    """Take a computation that the core does not know any more out of all tables, and kill its host.

    Its directories may stay until the node ends. If it was opened again meanwhile, and waits for this, it goes on.
    """
    for table in (service.loaded, service.leaving):
        loaded = table.pop(key, None)
        if loaded is None:
            continue
        for worker in [worker for worker, (other, _) in service.owners.items() if other is loaded]:
            del service.owners[worker]
            service.bringing.pop(worker, None)
        with suppress(Exception):  # a second fault, on the way out
            _kill(service, loaded)
    service.prepared.pop(key, None)
    service.dropping.discard(key)
    waiting = service.waiting.pop(key, None)
    if waiting is not None and not service.stopped.is_set():
        guard.soon(service, key, service.perform_by_type[type(waiting)], service, waiting)


def _kill(service: NodeState, loaded: Loaded) -> None:
    """Kill a host that is in no table any more, and close its channels."""
    host = loaded.host
    if host in service.ending:
        service.ending.remove(host)
    if host.is_dead:
        return
    host.is_dead = True
    service.loop.remove_reader(host.control)
    if host.output >= 0:
        service.loop.remove_reader(host.output)
    for handle in host.workers.values():
        service.loop.remove_reader(handle.replies)
    host.kill()
    host.process.wait()
    host.kill_workers()
    host.close()


# Clients.


def end_client(service: NodeState, client: ClientId, error: Exception) -> None:
    """End a client's connection because of a fault. The client is told that the node leaves it, with the reason.

    ``clients.on_closed`` then tells the core that the client has left for good; for a client without a connection
    that is done here. The client is remembered: it finds this node again, and the same would happen again and again.
    """
    if len(service.given_up) >= _GIVEN_UP_MAX:
        service.given_up.clear()
    reason = service.given_up[client] = f"node {service.name} has a fault: {of_error(error)}"
    connection = service.clients.get(client)
    if connection is not None and connection.is_ready:
        connection.fail(InternalError(reason))
        return
    if connection is not None:  # it was closed, and could not be forgotten
        del service.clients[client]
        service.connections.pop(connection, None)
    if client in service.machine.state.clients:
        service.loop.call_soon(service.handle, core.FromClient(client, node.Detach()))
