"""Sinks for payloads that arrive as streams, in memory that is used again (see ``protocol.streams``)."""

from __future__ import annotations

from collections.abc import Callable

from dispy.system.memory import pool


class PoolSink:
    """A sink in memory from the pool (``system.memory``), of ``size`` bytes: the announced size of the payload.

    ``take`` gives the memory; another one than the pool's raises ``MemoryError``, too.

    Without memory the bytes are read and dropped, so that the connection lives on and only this payload is lost.

    Attributes:
        data: The payload's memory, full when the stream is complete; None if there is not enough memory.
    """

    __slots__ = ("_position", "data")

    def __init__(self, size: int, take: Callable[[int], memoryview] = pool.take) -> None:
        self._position = 0  # bytes that have arrived, or for which ``room`` has returned memory
        try:
            self.data: memoryview | None = take(size)
        except (MemoryError, OverflowError):
            self.data = None

    def write(self, body: memoryview) -> None:
        """Copy the payload's next bytes behind the previous ones; drop them if ``data`` is None: no memory."""
        if self.data is None:
            return
        end = self._position + len(body)
        self.data[self._position : end] = body
        self._position = end

    def room(self, size: int) -> memoryview | None:
        """Returns the memory for the payload's next ``size`` bytes, which are received there; None if there is no
        memory: the bytes then come to ``write``, and are dropped."""
        if self.data is None:
            return None
        self._position += size
        return self.data[self._position - size : self._position]

    def discard(self) -> None:
        """Do nothing: called when the payload is not wanted any more, before the sink is dropped.

        The memory returns to the pool when the last reference to it, as the sink's, is gone.
        """
