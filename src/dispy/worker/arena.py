"""Results of a worker in the arena of its slot, memory that it shares with the node, and their packets.

Each result is written to the arena at once, so that a worker that dies loses nothing it had finished. Results leave
in one packet with their neighbours: at the end of the record (the list of jobs that one packet of the node brings),
after two milliseconds, or when the arena holds more than ``ARENA_FLUSH`` bytes.
"""

from __future__ import annotations

import socket
import time

import msgspec

from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import Ended
from dispy.worker.replies import send_whole

FLUSH_AFTER_S = 0.002
"""Age from which results that wait for others to share their packet are sent (seconds). Looked at after each job:
results that wait behind a long job are read from the arena by the node."""

# Bound here, as jobs may replace it in the module. Durations are taken from a clock that cannot be set.
_clock = time.perf_counter

# What is flushed at ARENA_FLUSH leaves room for the largest result: one payload, and output or a reason.
assert protocol.ARENA_FLUSH + 2 * limits.INLINE_MAX + limits.KIB <= protocol.ARENA_SIZE

_encode = msgspec.msgpack.Encoder().encode


class Arena:
    """Results of one worker that wait for a packet to the node, in memory that outlives the worker.

    Args:
        slot: The worker's slot: a header of eight 64-bit words, then the arena (``protocol.worker``).
        replies: Socket to the node. Each flush sends one packet.

    Attributes:
        flushed: Time of the last packet, or of the beginning of the record, which the worker sets (seconds of
            ``time.perf_counter``). ``flush_if_due`` compares it with now.
    """

    def __init__(self, slot: memoryview, replies: socket.socket) -> None:
        self._words = slot[: protocol.SLOT_HEADER].cast("q")
        """Header of the slot as eight 64-bit integers, by index (``protocol.SLOT_…``). The node reads it."""
        self._memory = slot[protocol.SLOT_HEADER : protocol.SLOT_SIZE]
        """The arena, ``ARENA_SIZE`` bytes. The first ``ARENA_HEAD`` are for the head of a packet, so that head and
        results are sent from here, without a copy."""
        self._replies = replies
        self._end = protocol.ARENA_HEAD
        """Position behind the last result, where the next one is written (bytes from the beginning of the arena)."""
        self._count = 0
        """Number of results in the arena. The head of their packet tells it to the node."""
        self.flushed = 0.0
        self._words[protocol.SLOT_COMMITTED] = self._end

    def keep(self, ended: Ended) -> None:
        """Write a result to the arena: from now on it survives this process.

        Call ``flush_if_due`` or ``flush`` after each result: then there is room for the next one, of any size. A
        result for which there is no room raises ValueError.
        """
        data = _encode(ended)
        end = self._end + len(data)
        self._memory[self._end : end] = data
        self._end = end
        self._count += 1
        words = self._words
        # The count first: a reader that sees the new end sees the new count, too.
        words[protocol.SLOT_COUNT] = self._count
        words[protocol.SLOT_COMMITTED] = end

    def adopt(self) -> bool:
        """Count the result that the process of one job, forked from here, has written to the slot by ``keep``.

        Called when that process has ended. The counters of that process were copies of ours: without this call our
        next result would overwrite its result.

        Returns:
            False if there is no new result: the process has died before it had one.
        """
        if self._words[protocol.SLOT_COUNT] == self._count:
            return False
        self._count = self._words[protocol.SLOT_COUNT]
        self._end = self._words[protocol.SLOT_COMMITTED]
        return True

    def flush_if_due(self, executed: int, record: int) -> None:
        """Send all results in the arena if they are many bytes (``ARENA_FLUSH``) or old (``FLUSH_AFTER_S``).

        Args:
            executed: Number of jobs of the record that have been run so far; the packet tells it to the node.
            record: Number of the record that these jobs belong to.
        """
        if self._end > protocol.ARENA_FLUSH or _clock() - self.flushed > FLUSH_AFTER_S:
            self.flush(0, executed, record)

    def flush(self, flags: int, executed: int, record: int) -> None:
        """Send all results in one packet, and empty the arena. Nothing is sent if there are neither results nor
        flags.

        If the node is gone, this process ends (``replies.send_whole``).

        Args:
            flags: ``LAST_OF_RECORD`` (the record is done: the node places jobs behind ``executed`` anew) and
                ``RETIRING`` (this worker ends now), or 0.
            executed: Number of jobs of the record that have been run so far.
            record: Number of the record that these jobs belong to.
        """
        if not self._count and not flags:
            return
        protocol.pack_ran(self._memory, 0, flags, executed, record, self._count)
        send_whole(self._replies, self._memory[: self._end])
        self._end = protocol.ARENA_HEAD
        self._count = 0
        self._words[protocol.SLOT_COUNT] = 0
        self._words[protocol.SLOT_COMMITTED] = self._end
        self.flushed = _clock()
