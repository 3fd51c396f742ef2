"""What clients are told: results, from memory and from disk, and what the machine has to spare.

A large result lies in a segment until its client has it, and is sent from there. What clients will want that are away
lies in the spool.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId
from dispy.net.connection import Connection
from dispy.node.results.spool_files import Damaged
from dispy.node.state import NodeState
from dispy.protocol import node
from dispy.protocol.streams import Source
from dispy.settings import PULSE_S

logger = logging.getLogger("dispy.node")

AVAILABLE_S = 5.0
"""How often clients are told what there is to spare that have not asked for another pulse."""


def send_to(service: NodeState, client: ClientId, message: node.FromNode) -> bool:
    """Send a message to a client; False if it is not connected."""
    connection = service._clients.get(client)
    if connection is None or not connection.is_ready:
        return False
    connection.send(message)
    return True


def tell(service: NodeState, action: core.Tell) -> None:
    """Send a message to a client; one who is away is told when it is back."""
    connection = service._clients.get(action.client)
    message = action.message
    if connection is None or not connection.is_ready:
        if type(message) is node.Provisional and message.stream:
            # Not kept: its job will hear nothing of it.
            release(service, core.Release((action.client, message.computation), [message.stream]))
        return
    if type(message) is node.JobsEnded and _is_large(message.ended[0]):
        _send_large(service, connection, action.client, message)
    elif type(message) is node.Provisional and message.stream:
        _send_value(service, connection, action.client, message)
    else:
        connection.send(message)


# Large results, and values of running jobs.


def _is_large(result: node.Ended) -> bool:
    """Whether it lies in segments; it is then the only one of its batch."""
    return bool(result.stream or result.output_stream)


def _send_large(
    service: NodeState, connection: Connection, client: ClientId, batch: node.JobsEnded
) -> None:
    """Send a result whose payloads lie in segments; the batch itself is kept as it is."""
    loaded = service._loaded.get((client, batch.computation))
    result = msgspec.structs.replace(batch.ended[0])
    if loaded is None:
        # Closed, which its client knows, or given up here. No batch is left out: the next would wait for it.
        result.stream = result.output_stream = 0
        result.status, result.died = node.TERMINATED, True
        result.reason = f"the job's result was lost on node {service.name} with its computation"
        connection.send(node.JobsEnded(batch.batch, batch.computation, [result]))
        return
    if client in service._sharing and service._segments.is_shared(loaded.segments, result.stream):
        loaded.is_shared = True
        result.segment, result.stream = result.stream, 0
    parts: list[tuple[Any, str, Source]] = []
    for attribute in ("stream", "output_stream"):
        segment = getattr(result, attribute)
        if segment:
            try:
                parts.append((result, attribute, service._segments.outgoing(loaded.segments, segment)))
            except OSError as error:
                setattr(result, attribute, 0)
                result.status = node.TERMINATED
                result.reason = f"the job's result was lost on node {service.name}: {error}"
                result.died = True
    message = node.JobsEnded(batch.batch, batch.computation, [result])
    if parts:
        group = connection.send_streamed(parts, message)
        loaded.sending = [entry for entry in loaded.sending if not entry[1].is_over()]
        loaded.sending.append((connection, group, message))
    else:
        connection.send(message)


def cancel_results(
    service: NodeState, connection: Connection, client: ClientId, message: node.CancelJobs
) -> None:
    """A cancel overtakes the result of its job: what is left of that is not sent, just that it has ended."""
    loaded = service._loaded.get((client, message.computation))
    if loaded is None or not loaded.sending:
        return
    cancelled = {(attempt.number, attempt.attempt) for attempt in message.attempts}
    for link, group, batch in loaded.sending:
        result = batch.ended[0]
        if (result.number, result.attempt) in cancelled and link.give_up(group):
            ended = node.Ended(
                result.number,
                result.attempt,
                node.TERMINATED,
                result.start,
                result.end,
                b"",
                reason="cancelled",
            )
            link.send(node.JobsEnded(batch.batch, batch.computation, [ended]))
    loaded.sending = [entry for entry in loaded.sending if not entry[1].is_over()]


def give_up_results(
    service: NodeState, connection: Connection, client: ClientId, message: node.CloseComputation
) -> None:
    """Do not send what is left of the results of a computation that its client has closed."""
    loaded = service._loaded.get((client, message.computation))
    for link, group, batch in loaded.sending if loaded is not None else ():
        if link.give_up(group):
            # Its number is told all the same, or none after it would be known to have arrived.
            link.send(node.JobsEnded(batch.batch, batch.computation, []))


def _send_value(
    service: NodeState, connection: Connection, client: ClientId, message: node.Provisional
) -> None:
    """Send a provisional result that lies in a segment; that stays until the client has it."""
    loaded = service._loaded.get((client, message.computation))
    if loaded is None:
        return
    loaded.values[message.number, message.attempt, message.serial] = message.stream
    # Not a part of a file: what reads results by name would look into it.
    is_seen = client in service._sharing and service._segments.is_shared(loaded.segments, message.stream)
    if is_seen and message.file is None:
        loaded.is_shared = True
        message.segment, message.stream = message.stream, 0
        connection.send(message)
        return
    try:
        source = service._segments.outgoing(loaded.segments, message.stream)
    except OSError as error:
        logger.error("a provisional result of job %d is lost: %s", message.number, error)
        return
    connection.send_streamed([(message, "stream", source)], message)


def release_value(
    service: NodeState, connection: Connection, client: ClientId, message: node.AcknowledgeProvisional
) -> None:
    """A client has a provisional result, or does not want it."""
    loaded = service._loaded.get((client, message.computation))
    if loaded is not None:
        segment = loaded.values.pop((message.number, message.attempt, message.serial), 0)
        if segment:
            service._segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)


def release(service: NodeState, action: core.Release) -> None:
    """Let go of segments."""
    loaded = service._loaded.get(action.key)
    if loaded is not None:
        for name in action.segments:
            service._segments.remove(loaded.segments, name, was_shared=loaded.is_shared)


# Results on disk.


def store_results(service: NodeState, action: core.Store) -> None:
    """Have results written to disk."""
    if service._spool is not None:
        loaded = service._loaded.get((action.client, action.batch.computation))
        service._spool.store(action, loaded.segments if loaded is not None else None)


def tell_stored(service: NodeState, action: core.TellStored) -> None:
    """Send results that are on disk."""
    connection = service._clients.get(action.client)
    if connection is None or not connection.is_ready:
        return
    assert service._spool is not None
    try:
        message, data = service._spool.load(action.client, action.batch.batch)
    except (OSError, Damaged) as error:
        logger.error("results on disk cannot be read: %s", error)
        reason = f"the job's result was lost on node {service.name}: it cannot be read from disk: {error}"
        lost = [
            node.Ended(e.number, e.attempt, node.TERMINATED, e.start, e.end, b"", reason=reason, died=True)
            for e in action.batch.ended
        ]
        message, data = node.JobsEnded(action.batch.batch, action.batch.computation, lost), []
    parts: list[tuple[Any, str, Source]] = []
    for ended in message.ended:
        for attribute in ("stream", "output_stream"):
            place = getattr(ended, attribute)
            if place:
                parts.append((ended, attribute, data[place - 1]))
    if parts:
        connection.send_streamed(parts, message)
    else:
        connection.send(message)


def erase(service: NodeState, action: core.Erase) -> None:
    """Results on disk are not wanted any more."""
    if service._spool is None:
        return
    if action.gone:
        service._spool.forget(action.client)
    else:
        service._spool.erase(action.client, action.batches)


def note_open(service: NodeState, action: core.NoteOpen) -> None:
    """Have noted on disk what a client has here that is away."""
    if service._spool is not None:
        service._spool.note(action)


def drop_note(service: NodeState, action: core.DropNote) -> None:
    """What was noted is not true any more."""
    if service._spool is not None:
        service._spool.drop_note(action.client)


def on_written(service: NodeState, told: core.Stored, path: Path) -> None:
    """The spool has written something."""
    assert service._spool is not None
    service._spool.on_stored(told, path)
    service._handle(told)


# Time.


def flush_soon(service: NodeState, action: core.FlushSoon) -> None:
    """Results of short jobs wait for company."""
    service._loop.call_later(action.after, service._handle, core.Flush())


def tell_available(service: NodeState) -> None:
    """Tell clients what there is to spare: with each sign of life that they have asked for, or now and then."""
    read, now = service._read_available, service._clock.monotonic()
    if read is None:
        return
    for connection, told in service._told_available.items():
        every_s = AVAILABLE_S if connection.pulse_s == PULSE_S else connection.pulse_s
        if now - told >= every_s - PULSE_S / 2 and connection.is_ready:
            service._told_available[connection] = now
            connection.send(read())
