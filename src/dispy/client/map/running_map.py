"""A call of ``map`` that is running, as the session of its cluster sees it."""

from __future__ import annotations

from typing import Protocol


class RunningMap(Protocol):
    """A call of ``map`` that is running."""

    def on_nodes(self) -> None:
        """The cluster has more or fewer CPUs."""

    def left(self) -> tuple[int, int, bool]:
        """Returns numbers of chunks and items that have not ended, and if these are all items; on any thread."""
        ...
