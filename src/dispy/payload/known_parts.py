"""Parts of a program that nodes have by its computation, and that need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dispy.payload.by_value.change_stamps import Watch


class Known:
    """Parts of a program that nodes have by its computation.

    Attributes:
        modules: The user's own modules that were sent.
        tops: Their top names, as they stand in pickles.
        watch: Tells whether functions and classes that were sent by value are still as they were.
    """

    __slots__ = ("_sent", "modules", "tops", "watch")

    def __init__(
        self, modules: Iterable[str], sent: Iterable[Any] = (), watch: Watch | None = None
    ) -> None:
        self.modules = frozenset(modules)
        self.tops = frozenset(name.partition(".")[0].encode() for name in self.modules)
        self._sent = {id(item): item for item in sent}
        self.watch = Watch() if watch is None else watch

    def has(self, obj: Any) -> bool:
        """Whether a function or class of the script was sent, and is found by its name."""
        return id(obj) in self._sent


NOTHING = Known(())

here: Known | None = None
"""In a worker: the modules that were sent, which the program has."""
