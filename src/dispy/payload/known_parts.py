"""Parts of a program that nodes have with its computation, and that need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dispy.payload.by_value.change_stamps import Watch


class Known:
    """Parts of a program that nodes have with its computation: later pickles name them and do not bring them again.

    Args:
        modules: Names of the user's own modules that were sent.
        sent: Functions and classes of the script that were sent by value.
        watch: The ``watch`` of the pickler that has sent them; None if no functions or classes were sent by value.

    Attributes:
        modules: Names of the user's own modules that were sent.
        tops: Top names of these modules (``a`` of ``a.b``), encoded as they stand in pickles.
        watch: Tells whether functions and classes that were sent by value are still as they were. If not, they go by
            value again.
        is_one_version: True while all nodes that the cluster has met, at least one, run this minor version of Python:
            then code goes compiled alone. At first False, since any node may come.
        has_compiled_alone: True once arguments with code were pickled while ``is_one_version``: jobs that have them
            can run on nodes of this version only.
    """

    __slots__ = ("_sent", "has_compiled_alone", "is_one_version", "modules", "tops", "watch")

    def __init__(
        self, modules: Iterable[str], sent: Iterable[Any] = (), watch: Watch | None = None
    ) -> None:
        self.modules = frozenset(modules)
        self.tops = frozenset(name.partition(".")[0].encode() for name in self.modules)
        self._sent = {id(item): item for item in sent}
        """Functions and classes of the script that were sent, by address; held, so that no address is used again."""
        self.watch = Watch() if watch is None else watch
        self.is_one_version = False
        self.has_compiled_alone = False

    def takes_both(self) -> bool:
        """True if code in arguments is to be pickled in both forms; else notes that it was compiled alone."""
        if self.is_one_version:
            self.has_compiled_alone = True
        return not self.is_one_version

    def has(self, obj: Any) -> bool:
        """True if this function or class of the script was sent, so that nodes find it by its name.

        Ask ``watch`` whether it has changed since.
        """
        return id(obj) in self._sent


NOTHING = Known(())
"""No parts: nodes are sent everything that a pickle needs, as in a computation that was resumed."""

here: Known | None = None
"""Modules that were sent to this worker: the program has them, too, so that results bring none of their code.

Set by ``code.load_code``; None in a program.
"""
