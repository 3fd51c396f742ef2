"""A chunk of a ``map``: one job that calls the function once for each of its items."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from dispy import payload

_SLICE_MAX = 32
"""Items between two looks at the clock: 3 ns an item, and no more than these run long unnoticed."""

_QUICK_S = 0.001
"""Items that took less together may be more before the next look."""


class Chunk:
    """Items to run the function on.

    Args:
        items: Arguments of the calls.
        is_starred: Whether each item is a tuple of arguments, and not the only argument.
        long_s: When it has run for so long (seconds), what is left goes back to be spread anew.
    """

    __slots__ = ("_is_starred", "_items", "_long_s", "results")

    def __init__(self, items: list[Any], is_starred: bool, long_s: float) -> None:
        self._items = items
        self._is_starred = is_starred
        self._long_s = long_s
        self.results: list[Any] = []
        """Of the items that were run, in order."""

    def run(self, function: Callable[..., Any], is_cancelled: Callable[[], bool]) -> bool:
        """Call the function with item after item; False if some are left, because it takes long.

        What an item raises passes through; the results before it are kept.
        """
        append = self.results.append
        left = iter(self._items)
        count = len(self._items)
        is_starred = self._is_starred
        now = time.perf_counter()
        end = now + self._long_s
        size = 1
        while True:
            # A plain loop: Python calls Python faster than ``map`` does, and StopIteration passes, too.
            if is_starred:
                for item in islice(left, size):
                    append(function(*item))
            else:
                for item in islice(left, size):
                    append(function(item))
            if len(self.results) == count:
                return True
            before, now = now, time.perf_counter()
            if now > end or is_cancelled():
                return False
            size = min(2 * size, _SLICE_MAX) if now - before < _QUICK_S else 1

    def cut_at_unsendable(self) -> Any:
        """Drop the results from the first one that cannot be pickled; returns that one."""
        for index, result in enumerate(self.results):
            try:
                payload.dump(result)
            except Exception:
                del self.results[index:]
                return result
        return self.results
