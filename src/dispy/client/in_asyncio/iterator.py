"""``LoopIterator``: results of a map, or jobs as they end, for ``async for``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

from dispy.client.in_asyncio.signal import LoopSignal
from dispy.errors import UsageError

T = TypeVar("T")


class LoopIterator(AsyncIterator[T], Generic[T]):
    """Iterator for ``async for``, driven by a generator that says when there is something to wait for.

    Not an async generator: those that a loop leaves early are closed by the event loop at some later time. This one
    closes its generator when it is dropped.

    Args:
        steps: Yields several items that are there, or None when the caller has to wait for the signal.
        signal: Wakes the task that waits.
        has_news: Returns a true value if ``steps`` has something to do.
        until: When the next item must be there (monotonic seconds); None: no limit.
        late: Makes the error that is raised at ``until``.
    """

    def __init__(
        self,
        steps: Generator[Iterable[T] | None, None, None],
        signal: LoopSignal,
        has_news: Callable[[], object],
        until: float | None,
        late: Callable[[], TimeoutError],
    ) -> None:
        self._steps = steps
        self._signal = signal
        self._has_news = has_news
        self._until = until
        self._late = late
        self._ready: Iterator[T] = iter(())
        """Items that are there, and were not taken."""
        self._is_awaited = False
        """True while a task waits for the next item."""
        self._is_closed = False
        """True once ``aclose`` was called: there is nothing to wait for."""

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Wait for the next item, without blocking the loop. A task that is cancelled here loses no item.

        Raises:
            TimeoutError: The item is not there in time.
            UsageError: Another task waits for the next item already.
        """
        if self._is_awaited:
            raise UsageError(
                "another task waits for the next item of this iterator",
                hint="have one task iterate, or give each its own iterator",
            )
        while True:
            for item in self._ready:
                return item
            try:
                ready = next(self._steps)
            except StopIteration:
                raise StopAsyncIteration from None
            if ready is not None:
                self._ready = iter(ready)
            elif not await self._wait():
                error = self._late()
                self._steps.close()
                raise error

    async def _wait(self) -> bool:
        """Wait until there is news; False if there is none in time."""
        self._is_awaited = True
        try:
            return await self._signal.wait(lambda: self._is_closed or self._has_news(), self._until)
        finally:
            self._is_awaited = False

    async def aclose(self) -> None:
        """End the iteration now, as dropping the iterator does: what is left of a map is cancelled. Does not wait.

        A task that waits for the next item gets the end of the iteration.
        """
        self._ready = iter(())
        self._steps.close()
        self._is_closed = True
        self._signal.wake()
