"""Parts of a program that nodes have with its computation, and that need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dispy.payload.by_value.change_stamps import Watch


class Known:
    """Parts of a program that nodes have with its computation.

    Attributes:
        modules: Names of the user's own modules that were sent.
        tops: Top names of these modules, as they stand in pickles.
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
        """True if a function or class of the script was sent, and nodes find it by its name."""
        return id(obj) in self._sent


NOTHING = Known(())
"""A node that has nothing of the program."""

here: Known | None = None
"""Modules that were sent to this worker, which the program has; None in a program."""
