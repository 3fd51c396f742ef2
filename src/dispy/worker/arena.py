"""Results of a worker in the arena of its slot, memory that it shares with the node, and their packets.

Each result is written to the arena at once, so that a worker that dies loses nothing it had finished. Results leave
in one packet with their neighbours: at the end of the record, after two milliseconds, or when there is much in the
arena.
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
"""Longest time that results wait for others to share their packet (seconds)."""

# Bound here, as jobs may replace it in the module. Durations are taken from a clock that cannot be set.
_clock = time.perf_counter

# What is flushed at ARENA_FLUSH leaves room for the largest result: one payload, and output or a reason.
assert protocol.ARENA_FLUSH + 2 * limits.INLINE_MAX + limits.KIB <= protocol.ARENA_SIZE

_encode = msgspec.msgpack.Encoder().encode


class Arena:
    """The results that no packet has carried yet.

    Args:
        slot: The worker's slot (see ``protocol.worker``).
        replies: Socket to the node.

    Attributes:
        flushed: Time of the last packet, or of the beginning of the record (seconds of ``time.perf_counter``).
    """

    def __init__(self, slot: memoryview, replies: socket.socket) -> None:
        self._words = slot[: protocol.SLOT_HEADER].cast("q")
        self._memory = slot[protocol.SLOT_HEADER : protocol.SLOT_SIZE]
        self._replies = replies
        self._end = protocol.ARENA_HEAD
        """End of the results (bytes from the beginning of the arena)."""
        self._count = 0
        """Number of the results."""
        self.flushed = 0.0
        self._words[protocol.SLOT_COMMITTED] = self._end

    def keep(self, ended: Ended) -> None:
        """Write a result to the arena: from now on it survives this process."""
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
        """Count the result that a process forked from here has written to the arena; False if it has written none."""
        if self._words[protocol.SLOT_COUNT] == self._count:
            return False
        self._count = self._words[protocol.SLOT_COUNT]
        self._end = self._words[protocol.SLOT_COMMITTED]
        return True

    def flush_if_due(self, executed: int, record: int) -> None:
        """Send what is in the arena if it is much (``ARENA_FLUSH``) or old (``FLUSH_AFTER_S``).

        Args:
            executed: Jobs of the record that have been run.
            record: Number of the record.
        """
        if self._end > protocol.ARENA_FLUSH or _clock() - self.flushed > FLUSH_AFTER_S:
            self.flush(0, executed, record)

    def flush(self, flags: int, executed: int, record: int) -> None:
        """Send what is in the arena, which is empty then; nothing is sent if there are neither results nor flags.

        Args:
            flags: ``LAST_OF_RECORD`` and ``RETIRING``, or 0.
            executed: Jobs of the record that have been run.
            record: Number of the record.
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
