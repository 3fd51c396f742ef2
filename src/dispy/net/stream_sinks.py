"""Sinks for payloads that arrive as streams, in memory that is used again (see ``protocol.streams``)."""

from __future__ import annotations

from dispy.system.memory import pool


class PoolSink:
    """A sink in memory from the pool (``system.memory``). ``data`` is None if there is not enough memory.

    Without memory the bytes are read and dropped, so that the connection lives on and only this payload is lost.
    """

    __slots__ = ("_position", "data")

    def __init__(self, size: int) -> None:
        self._position = 0
        try:
            self.data: memoryview | None = pool.take(size)
        except (MemoryError, OverflowError):
            self.data = None

    def write(self, body: memoryview) -> None:
        """Copy the next bytes behind the previous ones."""
        if self.data is None:
            return
        end = self._position + len(body)
        self.data[self._position : end] = body
        self._position = end

    def room(self, size: int) -> memoryview | None:
        """Returns the memory of the next ``size`` bytes; None if there is none."""
        if self.data is None:
            return None
        self._position += size
        return self.data[self._position - size : self._position]

    def discard(self) -> None:
        """Do nothing: the memory returns to the pool with the last reference to it."""
