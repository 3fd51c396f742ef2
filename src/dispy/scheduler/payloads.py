"""Messages to nodes with large payloads: sent as streams beside them, or linked as files on the machine itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dispy.net.connection import Connection
from dispy.net.sender import Payload
from dispy.protocol import limits, node
from dispy.protocol.streams import MemorySource, Source
from dispy.scheduler.node_link import NodeLink
from dispy.system.directories import GIVEN, GIVEN_BITS, given_prefix
from dispy.system.shared_memory import SharedPool

PIECES_BATCH = 256 * limits.KIB
"""Bytes of small pieces of files at which a message is full: it is sent, and more pieces go into another one. A
cancel may have to wait for one message: 2 ms at 1 Gbit/s."""

Give = Callable[[NodeLink, Payload], int]
"""Function that links a payload's file into the shared memory directory of a node of this machine. It returns the
file's number there (``node.Given``), or 0: the payload must be sent."""


class GivenFiles:
    """Files of payloads that a scheduler links into the shared memory directories of nodes of its machine.

    Args:
        identity: 16 bytes that name the scheduler to nodes.
    """

    def __init__(self, identity: bytes) -> None:
        self._last = given_prefix(identity) << GIVEN_BITS
        """Number of the last file (``node.Given``). Its upper bits name the scheduler, so that numbers of different
        programs differ."""

    def give(self, memory: SharedPool | None, shared: str, data: Payload) -> int:
        """Link a payload's file into a node's directory.

        Args:
            memory: The files in memory; None: there are none.
            shared: The node's directory; empty: it does not share memory.
            data: The payload.

        Returns:
            The file's number there; 0: send the payload, as the node does not share memory, or the payload is not in
            a file.
        """
        if not shared or memory is None:
            return 0
        self._last += 1
        is_given = memory.link(data, f"{shared}/{GIVEN}/{self._last}")  # type: ignore[arg-type]
        return self._last if is_given else 0


def send_jobs(node_link: NodeLink, connection: Connection, message: node.RunJobs, give: Give) -> None:
    """Send jobs, each with large arguments apart from the others, so that small ones do not wait for them."""
    jobs = message.jobs
    large = [job for job in jobs if len(job.payload) >= limits.INLINE_MAX]
    if large:
        jobs = [job for job in jobs if len(job.payload) < limits.INLINE_MAX]
    if large and node_link.shared:
        streamed = []
        for job in large:
            given = give(node_link, job.payload)
            if given:
                jobs.append(node.Job(job.number, job.attempt, b"", node.Given(given)))
            else:
                streamed.append(job)
        large = streamed
        message = node.RunJobs(message.computation, jobs, message.watched, message.files)
    if jobs:
        small = node.RunJobs(message.computation, jobs, message.watched, message.files)
        connection.send(small if large else message)
    for job in large:
        watched = [job.number] if job.number in message.watched else []
        files = [item for item in message.files if item.number == job.number]
        where = node.Streamed(0)
        bare = node.Job(job.number, job.attempt, b"", where)
        node_link.large_arguments.send(
            connection,
            (message.computation, job.number, job.attempt),
            [(where, "stream", MemorySource(job.payload))],
            node.RunJobs(message.computation, [bare], watched, files),
        )


def stop_jobs(node_link: NodeLink, message: node.CancelJobs) -> tuple[list[node.Attempt], node.CancelJobs]:
    """Stop sending the large arguments of cancelled jobs.

    Returns:
        The attempts that the node will never hear of, and the cancel of the others, to be sent if there are any.
    """
    under_way, computation = node_link.large_arguments, message.computation
    if not under_way:
        return [], message
    given_up: list[node.Attempt] = []
    left: list[node.Attempt] = []
    for attempt in message.attempts:
        stopped = under_way.give_up((computation, attempt.number, attempt.attempt))
        (left if stopped is None else given_up).append(attempt)
    return given_up, node.CancelJobs(computation, left)


def send_object(node_link: NodeLink, connection: Connection, message: node.PutObject, give: Give) -> None:
    """Send a large object, or the number of its file if the node shares this machine's memory."""
    data = message.payload
    bare = node.PutObject(message.computation, message.number, b"", given=give(node_link, data))
    if bare.given:
        connection.send(bare)
    else:
        connection.send_streamed([(bare, "stream", MemorySource(data))], bare)


def send_code(node_link: NodeLink, connection: Connection, message: node.Compute) -> None:
    """Send a computation with its large code as a stream."""
    bare = msgspec.structs.replace(message, code=b"")
    code: list[tuple[Any, str, Source]] = [(bare, "stream", MemorySource(message.code))]
    node_link.large_code.send(connection, message.computation, code, bare)


def send_pieces(connection: Connection, computation: int, pieces: list[node.FilePiece]) -> None:
    """Send pieces of files that a node has asked for: large ones as streams, small ones together in messages."""
    batch: list[node.FilePiece] = []
    size = 0
    for piece in pieces:
        if len(piece.data) >= limits.INLINE_MAX:
            bare = node.FilePiece(piece.digest, piece.offset, b"")
            source = MemorySource(piece.data)
            connection.send_streamed([(bare, "stream", source)], node.FileData(computation, [bare]))
            continue
        batch.append(piece)
        size += len(piece.data)
        if size >= PIECES_BATCH or len(batch) == limits.PIECES_MAX:
            connection.send(node.FileData(computation, batch))
            batch, size = [], 0
    if batch:
        connection.send(node.FileData(computation, batch))
