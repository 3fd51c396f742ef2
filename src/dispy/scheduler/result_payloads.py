"""Payloads of results that arrive from a node beside their batch: large values and output.

Such results refer to streams of the connection, or to files of the node's shared memory; ``take_parts`` fetches them.
A result whose bytes cannot be had is not an error of the connection: its job ends as terminated, with the reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sized

from dispy.net.connection import Connection
from dispy.protocol import node
from dispy.system.escaping import lines


def take_parts(
    connection: Connection,
    message: node.JobsEnded,
    adopt: Callable[[int, int], Sized],
    *,
    may_lose: bool = True,
) -> None:
    """Put into the results of a batch the values and output that travelled beside it, and escape their reasons.

    Control characters in a reason could drive the user's terminal.

    Args:
        connection: The connection that the batch has arrived on; its streams are taken.
        message: The batch; its results are completed in place.
        adopt: Takes a file over from the node's shared memory: called with the numbers of computation and segment;
            returns the value, pickled. Raises ``OSError`` or ``ValueError`` if it cannot.
        may_lose: True: without memory for a value its job ends as terminated. False: see below.

    Raises:
        MemoryError: There is no memory for a value, and ``may_lose`` is False.
    """
    for ended in message.ended:
        if ended.reason:
            ended.reason = lines(ended.reason)
        if ended.segment:
            take_shared(ended, message.computation, adopt)
        if ended.stream:
            ended.payload = connection.take_stream(ended.stream).data
            if ended.payload is None:
                if not may_lose:
                    raise MemoryError("there is not enough memory here for a job's result")
                ended.payload = b""
                ended.status = node.TERMINATED
                ended.reason = "there is not enough memory here for the job's result"
                ended.checksum = 0
        take_output(connection, ended)


def drop_parts(connection: Connection, message: node.JobsEnded) -> None:
    """Drop the values and output that travelled beside a batch that has arrived before. The batch is dropped, too.

    Files in the node's shared memory are left to the node, which removes them with the acknowledgement.
    """
    for ended in message.ended:
        for stream in (ended.stream, ended.output_stream):
            if stream:
                connection.take_stream(stream).discard()


def take_shared(ended: node.Ended, computation: int, adopt: Callable[[int, int], Sized]) -> None:
    """Take a result's value over from the node's shared memory into ``ended.payload`` (``adopt`` as in
    ``take_parts``).

    The node keeps its file until the batch is acknowledged. If the file is gone, the job ends as terminated with
    ``died``, so that it may run again.
    """
    try:
        ended.payload = adopt(computation, ended.segment)  # type: ignore[assignment]  # never encoded
    except (OSError, ValueError) as error:
        # The node may have died since it sent the message, and another node removed its files.
        ended.status = node.TERMINATED
        ended.reason = f"the job's result was lost on its way: {error}"
        ended.died = True


def take_output(connection: Connection, ended: node.Ended) -> None:
    """Put a job's output that travelled as a stream into ``ended``, and check the checksum of a result that was on a
    disk.

    Call it when the value is in ``ended.payload`` already. Without memory for the output, the output is empty. A
    result with a wrong checksum is dropped, and its job ends as terminated with ``died``.
    """
    if ended.output_stream:
        data = connection.take_stream(ended.output_stream).data
        if data is None:  # no memory for it
            data, ended.checksum = memoryview(b""), 0
        output = bytes(data)
        ended.stdout, ended.stderr = output[: ended.stdout_size], output[ended.stdout_size :]
    if ended.checksum:
        _check_stored(ended)


def _check_stored(ended: node.Ended) -> None:
    """Compare the CRC-32 of all that came as streams (value, stdout, stderr, in this order) with the node's checksum.

    If they differ the result is dropped, and its job ends as terminated with ``died``, so that it may run again. A
    cancelled job stays cancelled.
    """
    crc = zlib.crc32(ended.payload) if ended.stream else 0
    if ended.output_stream:
        crc = zlib.crc32(ended.stderr, zlib.crc32(ended.stdout, crc))
    if crc != ended.checksum and ended.status != node.CANCELLED:
        ended.status = node.TERMINATED
        ended.payload = b""
        ended.reason = "the job's result was lost: it was damaged on its node's disk"
        ended.died = True
