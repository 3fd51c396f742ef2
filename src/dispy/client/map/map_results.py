"""``MapResults``: the iterator that ``map`` returns, which says how far the map is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from types import GeneratorType
from typing import Any

from dispy.client.shown.overview import NAME_MAX, clean


class MapResults(Iterator[Any]):
    """The results of a map, in the order of the items. A loop takes them from the generator, at no further cost.

    Args:
        results: Generator of the results, which is begun.
        name: Name of the cluster.
        left: Returns the numbers of chunks and of items that have not ended, and whether these are all items.
    """

    __slots__ = ("__weakref__", "_left", "_name", "_results")

    def __init__(
        self, results: Generator[Any, None, None], name: str, left: Callable[[], tuple[int, int, bool]]
    ) -> None:
        self._results = results
        self._name = name
        self._left = left

    def __iter__(self) -> Iterator[Any]:
        return self._results

    def __next__(self) -> Any:
        return next(self._results)

    def close(self) -> None:
        """End the map, and cancel the items that have not ended."""
        self._results.close()

    def __repr__(self) -> str:
        chunks, items, is_all = self._left()
        name = clean(self._name, NAME_MAX)
        results = self._results
        if isinstance(results, GeneratorType) and results.gi_frame is None:
            return f"<results of a map of {name}: all taken, or ended by an error>"
        more = "" if is_all else " at least"
        return f"<results of a map of {name}:{more} {items} items to end, {chunks} chunks sent>"
