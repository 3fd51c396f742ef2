"""Functions that the jobs of an executor call: each is pickled once, and again when it has changed.

Theory of operation. A function that is submitted for the second time is probably submitted many times: its pickle
is kept then, with a ``Watch`` that tells whether it is still right. Lambdas that are made for one ``submit`` each are
not kept, and nothing of them is sent to nodes that do not run their job. A kept function whose pickle is large, as it
brings modules, is put like an object that many jobs read: once to each node.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import payload
from dispy.client.session import objects

if TYPE_CHECKING:
    from dispy.client.session.state import Session

KEPT_MAX = 256
"""Functions whose pickles are kept; when there are more, all are forgotten, with what their closures hold."""

SEEN_MAX = 1024
"""Functions that are remembered as submitted once, by weak references; when there are more, all are forgotten."""

PUT_BYTES = 1024
"""Size of a pickle (bytes, compressed) from which on a function that is used again is put, and not in each call."""


class _Kept(NamedTuple):
    """A function with its pickle.

    Attributes:
        function: The function, held so that no other has its address.
        is_same: Returns True while the pickle is right; None if it always is, as the function goes by name.
        sent: Stand-in for it in calls.
    """

    function: Callable[..., Any]
    is_same: Callable[[], bool] | None
    sent: payload.SentFunction


class Functions:
    """Stand-ins for functions in the calls of one cluster, whose computation is ``payload.CALL``.

    Args:
        session: The cluster.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._guard = threading.Lock()
        """Guards the pickling of functions: it keeps ``_kept`` and ``_seen`` within their limits."""
        self._kept: dict[int, _Kept] = {}
        """Functions whose pickles are kept, by address of the function."""
        self._seen: dict[int, weakref.ref[Any]] = {}
        """Functions that were submitted once, by address of the function."""

    def stand_in(self, function: Callable[..., Any]) -> Any:
        """Returns what goes into a call for a function as it is now: a ``SentFunction``, or the callable itself.

        Objects with a state of their own, such as bound methods, partials and classes, are arguments like others.

        Raises:
            Exception: The function cannot be pickled.
        """
        kept = self._kept.get(id(function))
        if kept is not None and (kept.is_same is None or kept.is_same()):
            return kept.sent
        return self._pickle(function) if payload.is_watchable(function) else function

    def _pickle(self, function: Callable[..., Any]) -> Any:
        """Returns the stand-in for a function that is new or has changed; keeps it if it was seen before."""
        with self._guard:
            dumped = payload.dump_function(function, self._session.computation.known)
            if dumped is None:
                return function
            data, watch = dumped
            seen = self._seen.pop(id(function), None)
            before = self._kept.pop(id(function), None)
            if before is None and (seen is None or seen() is not function):
                if len(self._seen) >= SEEN_MAX:
                    self._seen.clear()
                self._seen[id(function)] = weakref.ref(function)
                return payload.SentFunction(data)
            sent = payload.SentFunction(data)
            if len(data) >= PUT_BYTES:
                sent = payload.SentFunction(data, objects.put(self._session, sent))
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[id(function)] = _Kept(
                function, None if watch.is_empty() else self._check(watch.is_same), sent
            )
            return sent

    def _check(self, is_same: Callable[[], bool]) -> Callable[[], bool]:
        """Returns a function that tells whether a pickle is still right: the function, and the nodes' versions."""
        known = self._session.computation.known
        was = known.is_one_version
        return lambda: known.is_one_version is was and is_same()

    def forget(self) -> None:
        """Let go of all functions, and of what their closures hold: nothing is submitted any more."""
        with self._guard:
            self._kept.clear()
            self._seen.clear()
