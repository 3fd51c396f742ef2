"""Costs of the items of a map: run time and sizes, learnt from the chunks that have ended."""

from __future__ import annotations


class ItemCosts:
    """Mean run time and sizes of the recent items of one map, by which the size of the next chunk is chosen.

    Attributes:
        runs: Number of recent items with a known run time; each further chunk halves the past. 0: nothing is known.
        item_bytes: Mean size of recent pickled items (bytes).
        result_bytes: Mean size of recent pickled results (bytes).
    """

    __slots__ = ("_runs_s", "item_bytes", "result_bytes", "runs")

    def __init__(self) -> None:
        self._runs_s = 0.0
        """Run time of the items counted in ``runs`` together (seconds)."""
        self.runs = 0.0
        self.item_bytes = 1.0
        self.result_bytes = 1.0

    def item_s(self) -> float:
        """Returns the mean run time of an item (seconds, above 0). Something must be known (``runs``)."""
        return max(self._runs_s / self.runs, 1e-9)

    def learn_item(self, mean: float) -> None:
        """Update the mean size of items by that of a chunk (bytes)."""
        self.item_bytes = _learnt(self.item_bytes, mean)

    def learn(self, seconds: float, size: int, count: int) -> None:
        """Update run time and result size by a chunk: its run time (seconds), results (bytes), number of items."""
        if seconds * self.runs > self._runs_s * count:
            # Slower than expected: forget the past at once, or chunks stay too long.
            self._runs_s, self.runs = seconds, count
        else:
            self._runs_s = self._runs_s / 2 + seconds
            self.runs = self.runs / 2 + count
        self.result_bytes = _learnt(self.result_bytes, size / count)


def _learnt(past: float, mean: float) -> float:
    """Returns the new mean size of an item (bytes) from the past one and that of the last chunk.

    Grows at once and falls by halves: one large item does not keep chunks small for ever.
    """
    return max(mean, (past + mean) / 2)
