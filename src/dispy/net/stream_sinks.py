"""Sinks for payloads that arrive as streams: memory that is used again."""

from __future__ import annotations

from dispy.system.memory import pool


class PoolSink:
    """A payload on its way into memory that is used again; ``data`` is None if there is not enough of it."""

    __slots__ = ("_position", "data")

    def __init__(self, size: int) -> None:
        self._position = 0
        try:
            self.data: memoryview | None = pool.take(size)
        except (MemoryError, OverflowError):
            self.data = None

    def write(self, body: memoryview) -> None:
        """Take the next bytes."""
        if self.data is None:
            return
        end = self._position + len(body)
        self.data[self._position : end] = body
        self._position = end

    def room(self, size: int) -> memoryview | None:
        """Where the next bytes belong."""
        if self.data is None:
            return None
        self._position += size
        return self.data[self._position - size : self._position]

    def discard(self) -> None:
        """Nothing holds on to it."""
