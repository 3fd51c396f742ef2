"""What clients say: who they are, jobs and what belongs to them, and that they are gone."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import Any

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId
from dispy.errors import InternalError, RemoteProtocolError, SilenceError
from dispy.files.fetching.wanted_files import SupplierId
from dispy.net.connection import Connection
from dispy.node import reporting
from dispy.node.payloads.room_shortage import is_passing, wait_for_room
from dispy.node.results.delivery import cancel_results, give_up_results, release_value
from dispy.node.staging.working_directories import forget_brought, place_files
from dispy.node.state import NodeState
from dispy.protocol import limits, node
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.addresses import is_loopback
from dispy.system.directories import given_prefix
from dispy.system.escaping import line

logger = logging.getLogger("dispy.node")


def on_message(service: NodeState, connection: Connection, message: Any) -> None:
    """A client said something: it is for us alone, or for the core, once we have done our part.

    Raises:
        RemoteProtocolError: It has not said who it is.
    """
    client = service._connections.get(connection)
    if client is None:
        if type(message) is not node.Attach:
            raise RemoteProtocolError(f"{type(message).__name__} before Attach")
        _attach(service, connection, message)
        return
    if type(message) is node.Detach or type(message) is node.Recover:
        reporting.on_said(service, client, message)
    if service._stopped.is_set():
        _take_farewell(service, client, message)
        return
    ours = _OURS.get(type(message))
    if ours is not None:
        ours(service, connection, client, message)
        return
    if type(message) is node.Compute and message.stream and not _take_code(service, connection, message):
        return
    before = _BEFORE.get(type(message))
    if before is not None:
        before(service, connection, client, message)
    service._handle(core.FromClient(client, message))
    if type(message) is node.Reconcile:
        service._stager.on_connected(SupplierId(client))
    elif type(message) is node.CancelJobs:
        forget_brought(service, (client, message.computation))


def on_closed(service: NodeState, connection: Connection, error: Exception | None) -> None:
    """A client is gone, perhaps to come back."""
    client = service._connections.pop(connection, None)
    service._told_available.pop(connection, None)
    if client is not None and service._clients.get(client) is connection:
        silent_s = connection.pulse_s * SILENT_PULSES if isinstance(error, SilenceError) else 0.0
        _lose(service, client, silent_s)
        reporting.on_lost(service, client, error)
        known = service._machine.state.clients.get(client)
        if isinstance(error, InternalError):
            logger.error(
                "client %s is given up: %s", known.name if known is not None else client.hex(), error
            )
            if known is not None and not known.was_away:
                # It was told that we leave it. What could not be said would be said again when it comes back.
                service._handle(core.FromClient(client, node.Detach()))


def _take_farewell(service: NodeState, client: ClientId, message: node.ToNode) -> None:
    """What clients say while we stop: that they have results, or that they go as well."""
    if type(message) is node.Detach:
        service._gone.add(client)
    elif type(message) is node.Acknowledge:
        service._handle(core.FromClient(client, message))


def _take_code(service: NodeState, connection: Connection, message: node.Compute) -> bool:
    """Put the code that came as a stream where it belongs; False if there was no room for it."""
    try:
        message.code = connection.take_stream(message.stream).read()
    except OSError as error:
        reason = f"the computation cannot be held on node {service.name}: {error}"
        connection.send(node.ComputationFailed(message.computation, reason, message.life))
        return False
    return True


def _attach(service: NodeState, connection: Connection, message: node.Attach) -> None:
    client = ClientId(message.client)
    before = service._clients.get(client)
    if before is not None:
        service._connections[before] = None
        before.abort(RemoteProtocolError("replaced by a newer connection"))
        _lose(service, client, 0.0)
    known = service._machine.state.clients.get(client)
    service._clients[client] = connection
    service._connections[connection] = client
    offered = 0 if service._machine.state.is_draining else service.cpus
    welcome = node.Welcome(service.incarnation, service.name, offered, platform.platform())
    if service._read_available is not None:
        welcome.available = service._read_available()
        service._told_available[connection] = service._clock.monotonic()
    if known is not None:
        welcome.known = True
        welcome.last = known.next_batch - 1
        welcome.kept = [batch.batch for batch in known.batches if batch.batch > message.received]
        welcome.before = known.before
    connection.send(welcome)
    name = line(message.name)
    if not is_loopback(connection.peer_address):
        name = f"{name} at {connection.peer_address}"
    service._handle(core.ClientAttached(client, name, message.received))
    reporting.on_attached(service, connection, message)


def _lose(service: NodeState, client: ClientId, since_s: float) -> None:
    """The connection of a client is lost, and all that was on its way on it."""
    del service._clients[client]
    if client in service._sharing:
        service._sharing.discard(client)
        service._segments.drop_given(given_prefix(client))
        # Should it be dead, it has let go of its lock by then.
        service._segments.sweep()
        service._loop.call_later(PULSE_S, service._segments.sweep)
    for key, loaded in service._loaded.items():
        if key[0] == client:
            for segment in loaded.values.values():
                service._segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)
            loaded.values.clear()
    service._stager.on_lost(SupplierId(client))
    service._handle(core.ClientSilent(client, since_s))


def _store_arguments(
    service: NodeState, connection: Connection, client: ClientId, message: node.RunJobs
) -> None:
    """Put large arguments where workers find them; jobs where that fails are left out."""
    if not any(job.stream or job.given for job in message.jobs):
        return
    key = (client, message.computation)
    loaded = service._loaded.get(key)
    kept = []
    for job in message.jobs:
        if job.given and loaded is None:
            service._segments.remove_given(job.given)
            _give_back(connection, message.computation, job)
            continue
        if job.given and loaded is not None:
            try:
                job.stream = service._segments.adopt_given(loaded.segments, job.given)
            except OSError as error:
                reason = f"the arguments have not arrived on node {service.name}: {error}"
                service._handle(core.JobRefused(key, job.number, job.attempt, reason))
                continue
        elif job.stream:
            incoming = connection.take_stream(job.stream)
            if loaded is None:
                # The computation is not there, and the job goes back.
                incoming.discard()
                _give_back(connection, message.computation, job)
                continue
            try:
                job.stream = service._segments.adopt(loaded.segments, incoming)
            except OSError as error:
                if is_passing(error):
                    wait_for_room(service, key, incoming.size, str(error), (job.number, job.attempt))
                    continue
                reason = f"the arguments cannot be held on node {service.name}: {error}"
                service._handle(core.JobRefused(key, job.number, job.attempt, reason))
                continue
        kept.append(job)
    message.jobs = kept


def _give_back(connection: Connection, computation: int, job: node.Job) -> None:
    attempt = node.Attempt(job.number, job.attempt)
    connection.send(node.JobsReturned(computation, [attempt], "computation not known here"))


def _put_object(
    service: NodeState, connection: Connection, client: ClientId, message: node.PutObject
) -> None:
    """Store what jobs of a computation read. One that is there already stays as it is."""
    loaded = service._loaded.get((client, message.computation))
    incoming = connection.take_stream(message.stream) if message.stream else None
    reason = ""
    again = False
    if loaded is None:
        # The computation is not there any more, or not yet again: it is sent once more if it is wanted.
        if incoming is not None:
            incoming.discard()
        return
    try:
        if len(loaded.objects) >= limits.OBJECTS_MAX:
            raise OSError(f"{limits.OBJECTS_MAX} objects are there")
        service._segments.put_object(loaded.segments, message, incoming)
        loaded.objects.add(message.number)
    except OSError as error:
        reason = f"what was put cannot be held on node {service.name}: {error}"
        again = is_passing(error)
        if again:
            size = incoming.size if incoming is not None else len(message.payload)
            wait_for_room(service, (client, message.computation), size, str(error))
    connection.send(node.ObjectStored(message.computation, message.number, reason, again))


def _drop_objects(
    service: NodeState, connection: Connection, client: ClientId, message: node.DropObjects
) -> None:
    """Remove objects; workers let go of them, now if they wait for jobs."""
    loaded = service._loaded.get((client, message.computation))
    if loaded is None:
        return
    for number in message.numbers:
        loaded.objects.discard(number)
        service._segments.drop_object(loaded.segments, number)
    for handle in loaded.host.workers.values():
        handle.drop_objects()


def _share_memory(
    service: NodeState, connection: Connection, client: ClientId, message: node.ShareMemory
) -> None:
    service._sharing.add(client)


def _set_pulse(
    service: NodeState, connection: Connection, client: ClientId, message: node.SetPulse
) -> None:
    connection.set_pulse(message.pulse_s)


def _on_file_data(
    service: NodeState, connection: Connection, client: ClientId, message: node.FileData
) -> None:
    pieces = [(p, connection.take_stream(p.stream) if p.stream else None) for p in message.pieces]
    service._stager.on_data(SupplierId(client), pieces)


def _on_file_unreadable(
    service: NodeState, connection: Connection, client: ClientId, message: node.FileUnreadable
) -> None:
    service._stager.on_unreadable(SupplierId(client), message.digest, message.reason)


_OURS: dict[type[node.ToNode], Callable[[NodeState, Connection, ClientId, Any], None]] = {
    node.ShareMemory: _share_memory,
    node.SetPulse: _set_pulse,
    node.PutObject: _put_object,
    node.DropObjects: _drop_objects,
    node.FileData: _on_file_data,
    node.FileUnreadable: _on_file_unreadable,
    node.PlaceFiles: place_files,
}
"""What the core knows nothing of."""

_BEFORE: dict[type[node.ToNode], Callable[[NodeState, Connection, ClientId, Any], None]] = {
    node.RunJobs: _store_arguments,
    node.AcknowledgeProvisional: release_value,
    node.CancelJobs: cancel_results,
    node.CloseComputation: give_up_results,
}
"""What is done before the core is told."""
