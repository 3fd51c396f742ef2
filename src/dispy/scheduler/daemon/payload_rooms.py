"""Where the large payloads of a program lie at a shared scheduler: in memory up to a limit, beyond that on disk.

What arrives as a stream goes where there is room from its first byte on. What arrives as a file in memory, and
results, which are not known to be a program's before they are whole, are copied to disk by a thread; until then their
message waits. All of it counts until nothing here refers to it any more, whatever it was.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from dispy.scheduler.daemon.disk_memory import DiskMemory
from dispy.system.memory import pool

logger = logging.getLogger("dispy.scheduler")


class PayloadRoom:
    """The room of one program. On the loop.

    Args:
        memory_max: Bytes of payloads in memory.
        disk: Room for more; None: there is none, and all are held in memory.
        executor: Runs the copies.
        later: Called with a function and its argument when a copy is done; it handles exceptions.
    """

    def __init__(
        self,
        memory_max: int,
        disk: DiskMemory | None,
        executor: Executor | None,
        later: Callable[[Callable[[Any], None], Any], None],
    ) -> None:
        self._memory_max = memory_max
        self._disk = disk
        self._executor = executor
        self._later = later
        self._in_memory = 0
        self._views: dict[int, weakref.ref[memoryview]] = {}
        """Payloads in memory, by a number of ours."""
        self._last = 0
        self._gone: deque[tuple[int, int]] = deque()
        """Number and bytes of payloads that are gone. Noted on any thread, counted on the loop."""

    @property
    def in_memory(self) -> int:
        """Bytes of payloads in memory."""
        while self._gone:
            number, size = self._gone.popleft()
            del self._views[number]
            self._in_memory -= size
        return self._in_memory

    def take(self, size: int) -> memoryview:
        """Returns a buffer for a payload of ``size`` bytes that arrives.

        Raises:
            MemoryError: There is not enough memory, or no room on the disk.
        """
        if self._is_beyond(size):
            assert self._disk is not None
            return self._disk.take(size)
        buffer = pool.take(size)
        self._count(buffer)
        return buffer

    def keep(self, payload: Any, then: Callable[[Any], None]) -> None:
        """Call ``then`` with a payload in memory, or, beyond the limit, with its copy on disk once that is there.

        Without room on the disk it stays in memory.
        """
        if not isinstance(payload, memoryview):
            payload = memoryview(payload)
        if not self._is_beyond(len(payload)):
            self._count(payload)
            then(payload)
            return
        assert self._disk is not None
        copying = asyncio.get_running_loop().run_in_executor(self._executor, self._disk.copy, payload)
        copying.add_done_callback(partial(self._on_copied, payload, then))

    def _on_copied(self, payload: memoryview, then: Callable[[Any], None], copying: Any) -> None:
        if copying.cancelled():
            return
        error = copying.exception()
        if error is not None:
            logger.warning("large data stays in memory: %s", error)
            self._count(payload)
        self._later(then, payload if error is not None else copying.result())

    def _is_beyond(self, size: int) -> bool:
        """True if a payload goes to disk."""
        return self._disk is not None and size > 0 and self.in_memory + size > self._memory_max

    def _count(self, payload: memoryview) -> None:
        """Count a payload for as long as something refers to it."""
        self._last += 1
        number, size, gone = self._last, len(payload), self._gone
        self._in_memory += size
        self._views[number] = weakref.ref(payload, lambda _: gone.append((number, size)))
