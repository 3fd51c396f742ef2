"""Delivery of results and other messages to clients: from memory, from segments, from disk.

Small results are in the message itself. A large one lies in a segment (a file, in memory or on disk) until its client
has it: a client on this machine is told the segment's name, any other gets the content as a stream. Results for
clients that are away are in the spool, on disk.
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
"""Seconds between messages to a client on what the machine has to spare, if it has asked for no other pulse."""


def send_to(service: NodeState, client: ClientId, message: node.FromNode) -> bool:
    """Send a message to a client. Returns False, and the message is dropped, if the client is not connected."""
    connection = service.clients.get(client)
    if connection is None or not connection.is_ready:
        return False
    connection.send(message)
    return True


def tell(service: NodeState, action: core.Tell) -> None:
    """Send a message to a client, with large results as streams or by the names of their segments.

    If the client is away the message is dropped: when it is back the core tells again what matters. Provisional
    results are not repeated, so their segments are removed.
    """
    connection = service.clients.get(action.client)
    message = action.message
    if connection is None or not connection.is_ready:
        if type(message) is node.Provisional and message.stream:
            # Provisional results are not repeated: the job gets no acknowledgement.
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
    """True if a result lies in segments (files), as its value or output is large. Its batch has no other result."""
    return bool(result.stream or result.output_stream)


def _send_large(
    service: NodeState, connection: Connection, client: ClientId, batch: node.JobsEnded
) -> None:
    """Send a batch whose one result lies in segments. ``batch`` is the core's, and stays unchanged.

    A client that shares memory is told the name of a value's segment there; all else is sent as streams. A result
    that cannot be read any more is sent as lost (``died``), so that the client may run the job again.
    """
    loaded = service.loaded.get((client, batch.computation))
    result = msgspec.structs.replace(batch.ended[0])
    if loaded is None:
        # The client has closed the computation, or it was given up here. The batch is sent all the same: the client
        # takes batches in the order of their numbers.
        result.stream = result.output_stream = 0
        result.status, result.died = node.TERMINATED, True
        result.reason = f"the job's result was lost on node {service.name} with its computation"
        connection.send(node.JobsEnded(batch.batch, batch.computation, [result], batch.used_us))
        return
    if client in service.sharing and service.segments.is_shared(loaded.segments, result.stream):
        loaded.is_shared = True
        result.segment, result.stream = result.stream, 0
    parts: list[tuple[Any, str, Source]] = []
    for attribute in ("stream", "output_stream"):
        segment = getattr(result, attribute)
        if segment:
            try:
                parts.append((result, attribute, service.segments.outgoing(loaded.segments, segment)))
            except OSError as error:
                setattr(result, attribute, 0)
                result.status = node.TERMINATED
                result.reason = f"the job's result was lost on node {service.name}: {error}"
                result.died = True
    message = node.JobsEnded(batch.batch, batch.computation, [result], batch.used_us)
    if parts:
        loaded.sending.send(connection, (result.number, result.attempt), parts, message)
    else:
        connection.send(message)


def cancel_results(
    service: NodeState, connection: Connection, client: ClientId, message: node.CancelJobs
) -> None:
    """Stop sending large results of jobs that the client cancels. For each of them the client gets a batch with the
    same number instead, in which the job is ``TERMINATED``."""
    loaded = service.loaded.get((client, message.computation))
    if loaded is None or not loaded.sending:
        return
    for attempt in message.attempts:
        batch = loaded.sending.give_up((attempt.number, attempt.attempt))
        if batch is not None:
            result = batch.ended[0]
            ended = node.Ended(
                result.number,
                result.attempt,
                node.TERMINATED,
                result.start,
                result.end,
                b"",
                reason="cancelled",
            )
            connection.send(node.JobsEnded(batch.batch, batch.computation, [ended]))


def give_up_results(
    service: NodeState, connection: Connection, client: ClientId, message: node.CloseComputation
) -> None:
    """Stop sending large results of a computation that its client closes: the client does not want them any more.

    For each of them the client gets an empty batch of the same number, as an acknowledgement stands for all batches
    up to its number.
    """
    loaded = service.loaded.get((client, message.computation))
    for batch in loaded.sending.give_up_all() if loaded is not None else ():
        # The number of the batch is sent all the same: an acknowledgement of a later batch stands for all before.
        connection.send(node.JobsEnded(batch.batch, batch.computation, []))


def _send_value(
    service: NodeState, connection: Connection, client: ClientId, message: node.Provisional
) -> None:
    """Send a provisional result that lies in a segment: by the segment's name, or as a stream.

    The segment stays until the client acknowledges the result (``release_value``) or its connection is lost. Nothing
    is sent if the computation is not here, or if the segment cannot be read, which is logged.
    """
    loaded = service.loaded.get((client, message.computation))
    if loaded is None:
        return
    loaded.values[message.number, message.attempt, message.serial] = message.stream
    # A part of a file is always sent as a stream: code that reads a result by its segment's name would take it for a
    # value.
    is_seen = client in service.sharing and service.segments.is_shared(loaded.segments, message.stream)
    if is_seen and message.file is None:
        loaded.is_shared = True
        message.segment, message.stream = message.stream, 0
        connection.send(message)
        return
    try:
        source = service.segments.outgoing(loaded.segments, message.stream)
    except OSError as error:
        logger.error("a provisional result of job %d is lost: %s", message.number, error)
        return
    connection.send_streamed([(message, "stream", source)], message)


def release_value(
    service: NodeState, connection: Connection, client: ClientId, message: node.AcknowledgeProvisional
) -> None:
    """Remove the segment of a provisional result that the client has acknowledged, whether it has taken the value or
    not. A result without a segment, as small ones are, is fine."""
    loaded = service.loaded.get((client, message.computation))
    if loaded is not None:
        segment = loaded.values.pop((message.number, message.attempt, message.serial), 0)
        if segment:
            service.segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)


def release(service: NodeState, action: core.Release) -> None:
    """Remove segments of a computation that are not needed any more: of results and arguments, by number."""
    loaded = service.loaded.get(action.key)
    if loaded is not None:
        for name in action.segments:
            service.segments.remove(loaded.segments, name, was_shared=loaded.is_shared)


# Results on disk.


def store_results(service: NodeState, action: core.Store) -> None:
    """Have a batch of results written to disk; ``on_written`` follows when it is there.

    Without a spool the batch stays in memory, and ends with the node.
    """
    if service.spool is not None:
        loaded = service.loaded.get((action.client, action.batch.computation))
        service.spool.store(action, loaded.segments if loaded is not None else None)


def tell_stored(service: NodeState, action: core.TellStored) -> None:
    """Send a batch of results that is on disk to its client, which is back; without effect if it is away again.

    If the batch cannot be read, its results are sent as lost (``died``), so that the client may run the jobs again.
    """
    connection = service.clients.get(action.client)
    if connection is None or not connection.is_ready:
        return
    assert service.spool is not None
    try:
        message, data = service.spool.load(action.client, action.batch.batch)
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


def restore(service: NodeState) -> None:
    """Take over results of dead nodes from the spool. Called once the node listens."""
    if service.spool is not None:
        for restored in service.spool.restore(service.entrance.address[1]):
            service.handle(restored)


def erase(service: NodeState, action: core.Erase) -> None:
    """Remove batches of a client from disk, by number, as it has them or does not want them; if ``action.gone`` all
    files of the client: it has left for good, or its lease is over."""
    if service.spool is None:
        return
    if action.gone:
        service.spool.forget(action.client)
    else:
        service.spool.erase(action.client, action.batches)


def note_open(service: NodeState, action: core.NoteOpen) -> None:
    """Have the list of open jobs of a client that is away written to disk.

    If this node dies, the next one can say which jobs are lost.
    """
    if service.spool is not None:
        service.spool.note(action)


def drop_note(service: NodeState, action: core.DropNote) -> None:
    """Remove the list of a client's open jobs from disk.

    The client is back, and has compared its jobs with those on this node. The next node would otherwise call jobs
    lost that have ended since the list was written.
    """
    if service.spool is not None:
        service.spool.drop_note(action.client)


def on_written(service: NodeState, told: core.Stored, path: Path) -> None:
    """Tell the core which batches are on disk, so that it lets go of their values; called on the loop.

    Args:
        service: The node.
        told: Client, and numbers of its batches.
        path: File that they are in.
    """
    assert service.spool is not None
    service.spool.on_stored(told, path)
    service.handle(told)


# Time.


def flush_soon(service: NodeState, action: core.FlushSoon) -> None:
    """Tell the core ``Flush`` after ``action.after`` seconds: until then results of short jobs wait to share a
    message with others."""
    service.loop.call_later(action.after, service.handle, core.Flush())


def tell_available(service: NodeState) -> None:
    """Tell each client what the machine has to spare, if its last message on that is old enough; called each second.

    Old enough is ``AVAILABLE_S``, or the heartbeat interval that the client has asked for.
    """
    read, now = service.read_available, service.clock.monotonic()
    if read is None:
        return
    for connection, told in service.told_available.items():
        pulse_s = connection.heartbeat.pulse_s
        every_s = AVAILABLE_S if pulse_s == PULSE_S else pulse_s
        if now - told >= every_s - PULSE_S / 2 and connection.is_ready:
            service.told_available[connection] = now
            connection.send(read())
