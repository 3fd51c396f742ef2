"""Batches of results that arrive from a node: which have come, and what lies in streams or shared memory of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sized

from dispy.net.connection import Connection
from dispy.protocol import node
from dispy.system.escaping import lines


class ArrivedBatches:
    """Which batches of results of a node have arrived."""

    def __init__(self) -> None:
        self.received = 0
        """Number up to which all batches of results have arrived."""
        self.ahead: set[int] = set()
        """Batches that arrived before one with a large payload that left earlier."""
        self._gaps: dict[int, int] = {}
        """Batches that will not come, as the node says: first and last of those in a row."""

    def note(self, batch: int) -> None:
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
        """The node has forgotten us, and counts its batches anew."""
        self.received = 0
        self.ahead.clear()
        self._gaps.clear()

    def expect(self, message: node.Welcome) -> None:
        """What a node that knows us has kept follows; what else it ever told is known here, or nowhere."""
        self.ahead.clear()
        self._gaps.clear()
        before = self.received
        for batch in sorted({*message.kept, message.last + 1}):
            if batch > before + 1:
                self._gaps[before + 1] = batch - 1
            before = max(before, batch)
        # The first gap is no matter of waiting.
        self.received = self._gaps.pop(self.received + 1, self.received)


def take_parts(connection: Connection, message: node.JobsEnded, adopt: Callable[[int, int], Sized]) -> None:
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
    """A result that lies in the node's directory becomes ours; there it stays until it is acknowledged."""
    try:
        ended.payload = adopt(computation, ended.segment)  # type: ignore[assignment]  # never encoded
    except (OSError, ValueError) as error:
        # The node may have died since it said so, and another have tidied up after it.
        ended.status = node.TERMINATED
        ended.reason = f"the job's result was lost on its way: {error}"
        ended.died = True


def take_output(connection: Connection, ended: node.Ended) -> None:
    """What a job printed, where that came as a stream; and its value, which is here, is what it was."""
    if ended.output_stream:
        data = connection.take_stream(ended.output_stream).data
        if data is None:  # no memory for it
            data, ended.checksum = memoryview(b""), 0
        output = bytes(data)
        ended.stdout, ended.stderr = output[: ended.stdout_size], output[ended.stdout_size :]
    if ended.checksum:
        _check_stored(ended)


def _check_stored(ended: node.Ended) -> None:
    """A result that was on its node's disk is what was written there, or it is lost."""
    crc = zlib.crc32(ended.payload) if ended.stream else 0
    if ended.output_stream:
        crc = zlib.crc32(ended.stderr, zlib.crc32(ended.stdout, crc))
    if crc != ended.checksum and ended.status != node.CANCELLED:
        ended.status = node.TERMINATED
        ended.payload = b""
        ended.reason = "the job's result was lost: it was damaged on its node's disk"
        ended.died = True
