"""Batches of results that arrive from a node: which numbers have come, and the payloads that travel beside them.

A node numbers its batches for each client from 1. It keeps a batch until it is acknowledged, and sends it again after
a reconnect. Batches can arrive out of order, as one with a large payload leaves later than its number says. Only a
number up to which *all* batches have arrived can be acknowledged: ``ArrivedBatches.received``.

Results with large values or output refer to streams or to files of the node's shared memory; ``take_parts`` fetches
them. A result whose bytes cannot be had is not an error of the connection: the job ends as terminated, with the
reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sized

from dispy.net.connection import Connection
from dispy.protocol import node
from dispy.system.escaping import lines


class ArrivedBatches:
    """Numbers of the batches of results that have arrived from one node: tells which number may be acknowledged.

    Invariant: all batches up to ``received`` have arrived or will never come; ``ahead`` and the gaps are above it,
    and disjoint.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number up to which all batches have arrived, or will never come; 0: none. The node is told it, and forgets
        the results of these batches."""
        self.ahead: set[int] = set()
        """Numbers of batches above ``received`` that have arrived out of order."""
        self._gaps: dict[int, int] = {}
        """Ranges of batch numbers above ``received`` that will never come, as the node says: last number of each
        range, by its first."""

    def note(self, batch: int) -> None:
        """Note that the batch with this number has arrived; one that has arrived before changes nothing."""
        if batch > self.received:
            self.ahead.add(batch)
        while True:
            following = self.received + 1
            if following in self.ahead:
                self.ahead.remove(following)
                self.received = following
            elif following in self._gaps:
                self.received = self._gaps.pop(following)
            else:
                break

    def forget(self) -> None:
        """Begin anew: the node has forgotten us (``Welcome.known`` is False), and counts batches from 1 again."""
        self.received = 0
        self.ahead.clear()
        self._gaps.clear()

    def expect(self, message: node.Welcome) -> None:
        """Expect the batches that a node sends again after a reconnect (``Welcome.kept``).

        All other numbers up to ``Welcome.last`` have arrived here before, or are lost: they are gaps.
        """
        self.ahead.clear()
        self._gaps.clear()
        before = self.received
        for batch in sorted({*message.kept, message.last + 1}):
            if batch > before + 1:
                self._gaps[before + 1] = batch - 1
            before = max(before, batch)
        # A gap right behind ``received`` needs no waiting.
        self.received = self._gaps.pop(self.received + 1, self.received)


def take_parts(connection: Connection, message: node.JobsEnded, adopt: Callable[[int, int], Sized]) -> None:
    """Put into the results of a batch the values and output that travelled beside it, and escape their reasons.

    Control characters in a reason could drive the user's terminal. Without memory for a value its job ends as
    terminated.

    Args:
        connection: The connection that the batch has arrived on; its streams are taken.
        message: The batch; its results are completed in place.
        adopt: Takes a file over from the node's shared memory: called with the numbers of computation and segment;
            returns the value, pickled. Raises ``OSError`` or ``ValueError`` if it cannot.
    """
    for ended in message.ended:
        if ended.reason:
            ended.reason = lines(ended.reason)
        if ended.segment:
            take_shared(ended, message.computation, adopt)
        if ended.stream:
            ended.payload = connection.take_stream(ended.stream).data
            if ended.payload is None:
                ended.payload = b""
                ended.status = node.TERMINATED
                ended.reason = "there is not enough memory here for the job's result"
                ended.checksum = 0
        take_output(connection, ended)


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
