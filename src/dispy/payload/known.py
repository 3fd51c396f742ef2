"""What nodes have of a program already, by its computation: it need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dispy.payload.by_value import classes


class Known:
    """What nodes have of a program by its computation.

    Attributes:
        modules: The user's own modules that were sent.
        tops: Their top names, as they stand in pickles.
    """

    __slots__ = ("_classes", "modules", "tops")

    def __init__(self, modules: Iterable[str], sent: Iterable[Any]) -> None:
        self.modules = frozenset(modules)
        self.tops = frozenset(name.partition(".")[0].encode() for name in self.modules)
        self._classes = {
            id(item): (item, classes.version_of(item))
            for item in sent
            if isinstance(item, type) and classes.is_global(item)
        }

    def has(self, cls: Any) -> bool:
        """Whether a class is there as it is now."""
        known = self._classes.get(id(cls))
        if known is None:
            return False
        return classes.version_of(cls) == known[1]


NOTHING = Known((), ())

here: Known | None = None
"""In a worker: the modules that were sent, which the program has."""
