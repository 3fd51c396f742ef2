"""``map`` of an executor: it goes on by itself, whoever takes results, as that of the pool does.

Theory of operation. The map of a cluster reads items as results are taken. Programs of the pool rely on more: that
all calls are made although nobody looks at the results, or looks much later. So a thread of its own takes the results
of the cluster's map, chunk by chunk, and keeps them for the program. An iterator that was begun and is dropped
cancels the rest; one that was never begun does not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from typing import Any

from dispy.client.map.chunks import Mapping
from dispy.client.wakeup import Signal
from dispy.integrations.outcomes import as_raised


class EagerMap:
    """A map of a cluster, and the thread that takes its results.

    Args:
        mapping: The map; nothing of it was sent.
        why_broken: Returns a new exception if the executor is broken: it takes the place of other errors then.
        on_end: Called with this object when the thread ends.
    """

    def __init__(
        self,
        mapping: Mapping,
        why_broken: Callable[[], BaseException | None],
        on_end: Callable[[EagerMap], object],
    ) -> None:
        self._mapping = mapping
        self._why_broken = why_broken
        self._on_end = on_end
        self._batches: deque[list[Any]] = deque()
        """Results of chunks that the program has not taken, in order."""
        self._error: BaseException | None = None
        """Error of the map, to be raised behind the results in ``_batches``; None: none."""
        self._is_over = False
        """True once nothing is added to ``_batches`` any more, and ``_error`` is set if there is one."""
        self._signal = Signal()
        """Wakes the thread of the program that waits for results."""
        self._thread = threading.Thread(target=self._run, name="dispy map", daemon=True)

    def start(self) -> None:
        """Begin to send items, and to take results."""
        self._thread.start()

    def _run(self) -> None:
        """Take the results of the map until its end, on the thread of this map."""
        try:
            for results in self._mapping.batches():
                if results:
                    results.reverse()  # so that taking one from the end lets go of it
                    self._batches.append(results)
                    self._signal.wake()
                results = []
        except BaseException as error:
            self._error = self._why_broken() or as_raised(error)
        finally:
            self._is_over = True
            self._signal.wake()
            self._on_end(self)

    def _has_news(self) -> bool:
        """True if there are results to take, or there will be no more."""
        return bool(self._batches) or self._is_over

    def results(self, timeout: float | None) -> Generator[Any, None, None]:
        """Yield the result of each item, in order; then raise the error of the map, if there is one.

        Args:
            timeout: Seconds for all results, from this call; None: no limit.
        """
        return self._results(None if timeout is None else time.monotonic() + timeout)

    def _results(self, until: float | None) -> Generator[Any, None, None]:
        """Yield the results; ``until``: when the next one must be here (monotonic seconds); None: no limit."""
        batches = self._batches
        try:
            while True:
                if not batches and not self._is_over and not self._signal.wait(self._has_news, until):
                    raise TimeoutError
                if batches:
                    results = batches.popleft()
                    while results:
                        yield results.pop()
                elif self._error is not None:
                    raise self._why_broken() or self._error
                elif self._is_over:
                    return
        finally:
            self._error = None  # it refers to this frame: a cycle
            self.stop()

    def stop(self, is_cancelled: bool = False) -> None:
        """Cancel what was not run. Does not wait; on any thread.

        Args:
            is_cancelled: True: the iterator raises ``CancelledError`` behind the results that are there.
        """
        if not self._is_over:
            if is_cancelled:
                self._error = CancelledError()
            self._mapping.stop()

    def wait(self) -> None:
        """Wait for the end of all calls of the map."""
        self._thread.join()
