"""Messages of clients: who they are, their jobs and data, and that they leave. Also the loss of a connection.

Most messages are for the execution core, which gets them as ``FromClient``. Some are the service's alone (``_OURS``);
for some the service does its part before the core is told (``_BEFORE``), such as moving large arguments to where
workers find them.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from typing import Any, assert_never

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId, Key
from dispy.core.staging import SupplierId
from dispy.errors import InternalError, RemoteProtocolError, SilenceError
from dispy.net.connection import Connection
from dispy.node import guard, reporting
from dispy.node.payloads.room_shortage import is_passing, wait_for_room
from dispy.node.results.delivery import cancel_results, give_up_results, release_value
from dispy.node.staging.working_directories import forget_brought, place_files
from dispy.node.state import Loaded, NodeState
from dispy.protocol import limits, node
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.addresses import is_loopback
from dispy.system.directories import given_prefix
from dispy.system.escaping import line

logger = logging.getLogger("dispy.node")


def on_message(service: NodeState, connection: Connection, message: Any) -> None:
    """Handle a message of a client: do the service's part, and tell the core, unless the message is in ``_OURS``.

    While the node stops all messages after ``Attach`` are dropped, except ``Detach`` and ``Acknowledge``.

    Raises:
        RemoteProtocolError: The first message of a connection is not ``Attach``; the connection is closed.
    """
    client = service.connections.get(connection)
    if client is None:
        if type(message) is not node.Attach:
            raise RemoteProtocolError(f"{type(message).__name__} before Attach")
        _attach(service, connection, message)
        return
    if client in service.given_up:
        _drop_payloads(connection, message)
        _refuse(service, connection, client, message)
        return
    if type(message) is node.Detach or type(message) is node.Recover:
        reporting.on_said(service, client, message)
    if service.stopped.is_set():
        _drop_payloads(connection, message)
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
    service.handle(core.FromClient(client, message))
    if type(message) is node.Reconcile:
        service.stager.on_connected(SupplierId(client))
    elif type(message) is node.CancelJobs:
        forget_brought(service, (client, message.computation))


def on_closed(service: NodeState, connection: Connection, error: Exception | None) -> None:
    """Forget a connection that is closed. If it was the newest of its client, the core is told ``ClientSilent``.

    The client's jobs go on, and it may come back for their results until its lease ends. If a fault of this program
    (``InternalError``) ended the connection, the client was told that the node leaves it: its computations, jobs and
    results here are dropped at once.
    """
    client = service.connections.pop(connection, None)
    service.told_available.pop(connection, None)
    if client is not None and service.clients.get(client) is connection:
        silent_s = connection.heartbeat.pulse_s * SILENT_PULSES if isinstance(error, SilenceError) else 0.0
        _lose(service, client, silent_s)
        reporting.on_lost(service, client, error)
        known = service.machine.state.clients.get(client)
        if isinstance(error, InternalError):
            logger.error(
                "client %s is given up: %s", known.name if known is not None else client.hex(), error
            )
            if known is not None and not known.was_away:
                # The client was told that the node leaves it. If its state stayed, the message that could not be sent
                # would be sent again when it comes back, and fail again.
                service.handle(core.FromClient(client, node.Detach()))


def _drop_payloads(connection: Connection, message: node.ToNode) -> None:
    """Let go of the payloads of a message that is not handled.

    A stream is open until it is taken, and a peer that has too many open is refused: the client would lose its
    connection for going on as usual.
    """
    parts: Sequence[Any] = (message,)
    if type(message) is node.RunJobs:
        parts = [job.where for job in message.jobs]
    elif type(message) is node.FileData:
        parts = message.pieces
    for part in parts:
        stream = getattr(part, "stream", 0)
        if stream:
            connection.take_stream(stream).discard()


def _refuse(service: NodeState, connection: Connection, client: ClientId, message: node.ToNode) -> None:
    """Answer a client that a fault of this program has ended: the node takes no computation of it, with the reason.

    The core is not told of the client. Its program can use other nodes, or ends its jobs with that reason.
    """
    if type(message) is node.Compute:
        reason = service.given_up[client]
        connection.send(node.ComputationFailed(message.computation, reason, message.life))
    elif type(message) is node.Detach:
        del service.given_up[client]


def _take_farewell(service: NodeState, client: ClientId, message: node.ToNode) -> None:
    """Handle a message while the node stops; all types but ``Acknowledge`` and ``Detach`` are ignored.

    At its end the node writes results to disk, except those that a client has acknowledged by now, and all of a
    client that has left for good (``Detach``).
    """
    if type(message) is node.Detach:
        service.gone.add(client)
    elif type(message) is node.Acknowledge:
        service.handle(core.FromClient(client, message))


def _take_code(service: NodeState, connection: Connection, message: node.Compute) -> bool:
    """Put a computation's pickled code, which came as a stream, into ``message.code``.

    Returns:
        True if the code is there; False if there was no room for it. Then the client was told
        ``ComputationFailed``, and the caller drops the message.
    """
    try:
        message.code = connection.take_stream(message.stream).read()
    except OSError as error:
        reason = f"the computation cannot be held on node {service.name}: {error}"
        connection.send(node.ComputationFailed(message.computation, reason, message.life))
        return False
    return True


def _attach(service: NodeState, connection: Connection, message: node.Attach) -> None:
    """Record which client a connection is of, answer with ``Welcome``, and tell the core ``ClientAttached``.

    An older connection of that client is aborted. ``Welcome`` has the node's CPUs and, for a client that the node
    knows, the numbers of the batches of results that are kept here and that the client has not received.
    """
    client = ClientId(message.client)
    before = service.clients.get(client)
    if before is not None:
        service.connections[before] = None
        before.abort(RemoteProtocolError("replaced by a newer connection"))
        _lose(service, client, 0.0)
    known = service.machine.state.clients.get(client)
    service.clients[client] = connection
    service.connections[connection] = client
    offered = 0 if service.machine.state.is_draining else service.cpus
    welcome = node.Welcome(service.incarnation, service.name, offered, platform.platform())
    welcome.python = ".".join(platform.python_version_tuple()[:2])
    if service.read_available is not None:
        welcome.available = service.read_available()
        service.told_available[connection] = service.clock.monotonic()
    if known is not None:
        welcome.known = True
        welcome.last = known.sent.last
        welcome.kept = known.sent.numbers_after(message.received)
        welcome.before = known.before
    connection.send(welcome)
    if client in service.given_up:
        return
    name = line(message.name)
    if not is_loopback(connection.peer_address):
        name = f"{name} at {connection.peer_address}"
    service.handle(core.ClientAttached(client, name, message.received))
    if known is None:
        # One that is known says first what it still wants (``Reconcile``), and is asked for files of that only.
        service.stager.on_connected(SupplierId(client))
    reporting.on_attached(service, connection, message)


def _lose(service: NodeState, client: ClientId, since_s: float) -> None:
    """Clean up after a client whose connection is lost, and tell the core ``ClientSilent``: its lease begins.

    Two kinds of files are removed: those that the client has put into the node's directory in memory, as arguments or
    objects, and has not named in a message yet; and segments of provisional results that the client has not
    acknowledged. Files that jobs wait for are asked of other clients that have them; otherwise these jobs wait until
    the client is back.

    Args:
        service: The node.
        client: The client.
        since_s: Seconds for which the client has been silent already: its lease began then.
    """
    del service.clients[client]
    if client in service.sharing:
        service.sharing.discard(client)
        service.segments.drop_given(given_prefix(client))
        # If the client is dying, it may still hold its lock now, but not a pulse later.
        service.segments.directories.sweep()
        guard.later(service, PULSE_S, None, service.segments.directories.sweep)
    for key, loaded in service.loaded.items():
        if key[0] == client:
            for segment in loaded.values.values():
                service.segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)
            loaded.values.clear()
    service.stager.on_lost(SupplierId(client))
    service.handle(core.ClientSilent(client, since_s))


def _store_arguments(
    service: NodeState, connection: Connection, client: ClientId, message: node.RunJobs
) -> None:
    """Make large arguments segments (files that workers read), which ``where`` of their jobs names from then on.

    Jobs whose arguments cannot be stored are taken out of the message. A job goes back to the client if its
    computation is not here or there is no room for now. On any other error the core is told ``JobRefused``.

    Raises:
        RemoteProtocolError: A stream is not there, or the client names a segment, of which it can know none.
    """
    if not any(job.where for job in message.jobs):
        return
    key = (client, message.computation)
    loaded = service.loaded.get(key)
    kept = []
    for job in message.jobs:
        match job.where:
            case None:
                is_here = True
            case node.Given(file):
                is_here = _adopt_given(service, connection, key, loaded, job, file)
            case node.Streamed(stream):
                is_here = _adopt(service, connection, key, loaded, job, stream)
            case node.Segment():
                raise RemoteProtocolError("a job has its arguments in a file of the node")
            case _:
                assert_never(job.where)
        if is_here:
            kept.append(job)
    message.jobs = kept


def _adopt_given(
    service: NodeState, connection: Connection, key: Key, loaded: Loaded | None, job: node.Job, file: int
) -> bool:
    """Make a client's file with the arguments of a job a segment; returns False if the job cannot run here."""
    if loaded is None:
        service.segments.remove_given(file)
        _give_back(connection, key[1], job)
        return False
    try:
        job.where = node.Segment(service.segments.adopt_given(loaded.segments, file), True)
    except OSError as error:
        reason = f"the arguments have not arrived on node {service.name}: {error}"
        service.handle(core.JobRefused(key, job.number, job.attempt, reason))
        return False
    return True


def _adopt(
    service: NodeState, connection: Connection, key: Key, loaded: Loaded | None, job: node.Job, stream: int
) -> bool:
    """Make a stream with the arguments of a job a segment; returns False if the job cannot run here."""
    incoming = connection.take_stream(stream)
    if loaded is None:
        incoming.discard()
        _give_back(connection, key[1], job)
        return False
    try:
        job.where = node.Segment(service.segments.adopt(loaded.segments, incoming))
    except OSError as error:
        if is_passing(error):
            wait_for_room(service, key, incoming.size, str(error), (job.number, job.attempt))
            return False
        reason = f"the arguments cannot be held on node {service.name}: {error}"
        service.handle(core.JobRefused(key, job.number, job.attempt, reason))
        return False
    return True


def _give_back(connection: Connection, computation: int, job: node.Job) -> None:
    """Return a job to its client, which places it anew: its computation is not on this node."""
    attempt = node.Attempt(job.number, job.attempt)
    connection.send(node.JobsReturned(computation, [attempt], "computation not known here"))


def answer_fault(connection: Connection, message: node.ToNode, reason: str) -> None:
    """Answer a message that a fault has kept from the core, if its client, still connected, waits for an answer.

    All jobs of a ``RunJobs`` go back; the computation of a ``Compute`` cannot run here.
    """
    if not connection.is_ready:
        return
    if type(message) is node.RunJobs:
        attempts = [node.Attempt(job.number, job.attempt) for job in message.jobs]
        connection.send(node.JobsReturned(message.computation, attempts, reason))
    elif type(message) is node.Compute:
        connection.send(node.ComputationFailed(message.computation, reason, message.life))


def _put_object(
    service: NodeState, connection: Connection, client: ClientId, message: node.PutObject
) -> None:
    """Store an object that jobs of a computation read, and answer with ``ObjectStored``.

    If there is no room, or there are ``OBJECTS_MAX`` objects, the answer has the reason, and says whether the client
    is to send the object again. No answer is sent if the computation is not here.
    """
    loaded = service.loaded.get((client, message.computation))
    incoming = connection.take_stream(message.stream) if message.stream else None
    reason = ""
    again = False
    if loaded is None:
        # The computation has left, or has not come back yet. The client sends the object again if it is wanted.
        if incoming is not None:
            incoming.discard()
        return
    try:
        if len(loaded.objects) >= limits.OBJECTS_MAX:
            raise OSError(f"{limits.OBJECTS_MAX} objects are there")
        service.segments.put_object(loaded.segments, message, incoming)
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
    """Remove objects that a client has put here for its jobs.

    Workers that wait for jobs let go of the objects' memory at once, the others before their next record.
    """
    loaded = service.loaded.get((client, message.computation))
    if loaded is None:
        return
    for number in message.numbers:
        loaded.objects.discard(number)
        service.segments.drop_object(loaded.segments, number)
    for handle in loaded.host.workers.values():
        handle.drop_objects()


def _share_memory(
    service: NodeState, connection: Connection, client: ClientId, message: node.ShareMemory
) -> None:
    """Note that a client on this machine can read the node's segments in memory.

    From now on the client is told the name of the segment of a large result, instead of being sent its bytes.
    """
    service.sharing.add(client)


def _set_pulse(
    service: NodeState, connection: Connection, client: ClientId, message: node.SetPulse
) -> None:
    """Change the heartbeat interval of a connection to the one that its client asks for (seconds).

    The connection counts as lost when the client is silent for ``SILENT_PULSES`` such intervals.
    """
    connection.set_pulse(message.pulse_s)


def _on_file_data(
    service: NodeState, connection: Connection, client: ClientId, message: node.FileData
) -> None:
    """Give pieces of files that a client has sent to the stager, which puts the files together.

    Pieces that this node has not asked for are dropped.
    """
    pieces = [(p, connection.take_stream(p.stream) if p.stream else None) for p in message.pieces]
    service.stager.on_data(SupplierId(client), message.computation, pieces)


def _on_file_unreadable(
    service: NodeState, connection: Connection, client: ClientId, message: node.FileUnreadable
) -> None:
    """Tell the stager that a client cannot read a file that this node has asked for.

    All that waits for this file of the client fails, with the client's reason: a computation, jobs, or files sent
    later.
    """
    service.stager.on_unreadable(
        SupplierId(client), message.computation, message.digest, message.reason, message.is_passing
    )


_OURS: dict[type[node.ToNode], Callable[[NodeState, Connection, ClientId, Any], None]] = {
    node.ShareMemory: _share_memory,
    node.SetPulse: _set_pulse,
    node.PutObject: _put_object,
    node.DropObjects: _drop_objects,
    node.FileData: _on_file_data,
    node.FileUnreadable: _on_file_unreadable,
    node.PlaceFiles: place_files,
}
"""Functions that do all the work for messages that the core is not told of, by type of message. They are called with
service, connection, client and message."""

_BEFORE: dict[type[node.ToNode], Callable[[NodeState, Connection, ClientId, Any], None]] = {
    node.RunJobs: _store_arguments,
    node.AcknowledgeProvisional: release_value,
    node.CancelJobs: cancel_results,
    node.CloseComputation: give_up_results,
}
"""Functions that do the service's part for a message before the core is told of it, by type of message. They are
called with service, connection, client and message; ``_store_arguments`` may take jobs out of the message."""
