"""Large arguments that many calls have: sent once to each node, and not with each call.

Theory of operation. ``joblib.Parallel`` is often given one large array for all calls. An object of a certain size is
noted when it is first seen, and sent in its call; when it comes again it is put, and references take its place. So
arrays that are made for one call each are not sent to nodes that do not run it. Objects are known by their address
and a weak reference: they are freed here when the program lets go of them, and on the nodes when their calls have
ended. An object of a call of ``Parallel`` that is changed meanwhile is seen as it was when it was put; the next call
of ``Parallel`` begins anew.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dispy.integrations.joblib_calls import Call


class SharedArguments:
    """The large arguments of one call of ``Parallel``.

    Args:
        put: Puts an object into the cluster, and returns the reference that takes its place in calls.
        put_bytes: Size from which on objects are put when they come again (bytes).
    """

    def __init__(self, put: Callable[[Any], Any], put_bytes: int) -> None:
        self._put = put
        self._put_bytes = put_bytes
        self._guard = threading.RLock()
        self._seen: dict[int, tuple[weakref.ref[Any], Any]] = {}
        """By address of an object: the object, and its reference in the cluster (None: it was seen once)."""

    def replace(self, calls: list[Call]) -> list[Call]:
        """Returns calls in which references stand for large objects that have come before.

        Raises:
            PicklingError: An object cannot be sent.
        """
        return [
            (
                function,
                tuple([self._replaced(value) for value in args]),
                {name: self._replaced(value) for name, value in kwargs.items()},
            )
            for function, args, kwargs in calls
        ]

    def _replaced(self, value: Any) -> Any:
        """Returns an argument, or the reference that stands for it."""
        if type(value) in _SMALL or size_of(value) < self._put_bytes:
            return value
        address = id(value)
        with self._guard:
            known = self._seen.get(address)
            if known is not None and known[0]() is value:
                if known[1] is None:
                    known = self._seen[address] = known[0], self._put(value)
                return known[1]
            try:
                self._seen[address] = weakref.ref(value, lambda gone: self._forget(address, gone)), None
            except TypeError:  # no weak references to objects of its class
                pass
        return value

    def _forget(self, address: int, gone: weakref.ref[Any]) -> None:
        """Let go of an object that the program has let go of; another one may have its address already."""
        known = self._seen.get(address)
        if known is not None and known[0] is gone:
            del self._seen[address]


_SMALL = frozenset({bool, bytes, complex, dict, float, int, list, set, str, tuple, type(None)})
"""Types without weak references, whose objects go along with each call."""


_PARTS = ("data", "indices", "indptr", "row", "col", "offsets")
"""Attributes of sparse matrices that are arrays, in all formats of scipy."""


def size_of(value: Any) -> int:
    """Returns the size of the data of an array, a frame or a sparse matrix (bytes), about; 0 for other objects."""
    try:
        size = getattr(value, "nbytes", None)
        if size is None and hasattr(value, "memory_usage"):  # a frame of pandas
            size = value.memory_usage(index=True).sum()
        if size is None and hasattr(value, "nnz"):  # a sparse matrix of scipy
            parts = ("data", "indices", "indptr", "row", "col", "offsets")
            size = sum(
                [
                    getattr(part, "nbytes", 0)
                    for name in parts
                    if (part := getattr(value, name, None)) is not None
                ]
            )
        return int(size or 0)
    except Exception:  # properties of others may raise anything
        return 0
