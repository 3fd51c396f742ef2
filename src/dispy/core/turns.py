"""A line of those who wait for their turn: a priority queue whose keys may change while it holds them.

Fair shares need the item with the smallest key, of many that wait, at each event; the keys of some of them change at
each tick. Sorting or searching all of them would make one event cost as much as all who wait.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_VOID_MAX = 16
"""Number of void entries, beyond one for each item, at which the heap is made anew without them."""


class Turns(Generic[Item]):
    """Items that wait, of which the one with the smallest key can be asked for; of equal keys the first that came.

    Theory of operation. A heap has an entry for each item, with its key at the time when it was put there. A key
    that has *risen* since is found when its entry comes to the front, and is put in anew there: rising costs nothing
    at the time. A key that *falls* must be told (``fall``), as its entry may be far behind: it gets another entry,
    and the old one is void. So no entry says more than the key is, which is all that a heap needs. Void entries stay
    in the heap for some time, and refer to no item: one that was taken out is free at once, with all that it has.
    Putting in, falling and asking cost O(log n), leaving O(1), amortised.

    Args:
        key: Returns the present key of an item; all keys compare with each other.
    """

    __slots__ = ("_count", "_entries", "_heap", "_key", "_pushed")

    def __init__(self, key: Callable[[Item], Any]) -> None:
        self._key = key
        self._heap: list[list[Any]] = []
        """Entries: key of the item when it was put in, number of the item, number of the entry, item. It is None in
        void entries."""
        self._entries: dict[Item, list[Any]] = {}
        """Valid entry of each item."""
        self._count = 0
        """Number of items that have come so far: the number of an item, which decides between equal keys."""
        self._pushed = 0
        """Number of entries that were made so far: the number of an entry, so that items are never compared."""

    def add(self, item: Item) -> None:
        """Put an item in; without effect if it is there."""
        if item not in self._entries:
            self._count += 1
            self._push(item, self._key(item), self._count)

    def fall(self, item: Item) -> None:
        """Note that the key of an item may be smaller than before; without effect if the item is not there."""
        entry = self._entries.get(item)
        if entry is not None:
            key = self._key(item)
            if key < entry[0]:
                self._push(item, key, entry[1])

    def _push(self, item: Item, key: Any, number: int) -> None:
        """Give an item a new entry, by which an older one is void."""
        before = self._entries.get(item)
        if before is not None:
            before[3] = None
        self._pushed += 1
        entry = self._entries[item] = [key, number, self._pushed, item]
        heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + _VOID_MAX:
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def discard(self, item: Item) -> None:
        """Take an item out, if it is there."""
        entry = self._entries.pop(item, None)
        if entry is not None:
            entry[3] = None

    def first(self) -> Item | None:
        """Returns the item with the smallest key, which stays; None if there is no item."""
        heap = self._heap
        while heap:
            entry = heap[0]
            item: Item | None = entry[3]
            if item is None:
                heappop(heap)
                continue
            key = self._key(item)
            if key == entry[0]:
                return item
            entry = self._entries[item] = [key, entry[1], entry[2], item]
            heapreplace(heap, entry)
        return None

    def entries(self) -> int:
        """Returns the number of entries in the heap, void ones included: a measure of the memory in use."""
        return len(self._heap)
