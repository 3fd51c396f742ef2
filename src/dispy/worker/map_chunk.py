"""A chunk of a ``map``: one job that calls the function once for each item of the chunk."""

from __future__ import annotations

import os
import time
import traceback
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

from dispy import job, payload
from dispy.errors import PicklingError
from dispy.protocol import limits
from dispy.protocol.output import cut_reason
from dispy.system.escaping import sendable
from dispy.system.wording import of_error, short_repr
from dispy.worker.job_api.job_namespace import note_missing

_SLICE_MAX = 32
"""Largest number of items that run between two looks at the clock: the look then costs 3 ns an item, and at most 32
items run after the time is over."""

_QUICK_S = 0.001
"""Limit for a doubling (seconds): if the items since the last look at the clock took less together, twice as many run
before the next look; otherwise one."""


_running: weakref.WeakSet[Chunk] = weakref.WeakSet()
"""The chunk that runs, as the only element: a process that its function forks finds it here and stops it. References
are weak, so that the set is empty when the chunk's job has ended."""


def _stop_copy() -> None:
    """Have a process that the function has forked end when the function returns, and not run the other items. Called
    in every forked process; does nothing if no chunk runs."""
    for chunk in _running:
        chunk.stop()


os.register_at_fork(after_in_child=_stop_copy)


class Chunk:
    """One chunk of a ``map``: the items to call the function with, and the results so far.

    Args:
        items: Arguments of the calls.
        way: How the function is called with the items: see ``payload.Way``.
        long_s: Time after which the chunk stops before the next item (seconds); the client spreads the items that are
            left anew.
        first: Number of the first item in the map.
        function: Function that is called with the items; None for that of the computation.

    Attributes:
        mapping: Number of the map in its cluster, from 1; seeds of items depend on it.
        results: Results of the items that were run, in the order of the items.
    """

    __slots__ = (
        "__weakref__",
        "_constants",
        "_first",
        "_function",
        "_is_starred",
        "_items",
        "_keeps_errors",
        "_long_s",
        "mapping",
        "results",
    )

    def __init__(
        self,
        items: list[Any],
        way: payload.Way,
        long_s: float,
        first: int,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self._items = items
        self._function = function
        self._is_starred, self._keeps_errors, self._constants, self.mapping = way
        """``_is_starred``: True if each item is a tuple of arguments. ``_keeps_errors``: True if the error of an item
        takes the place of its result, and the next item runs. ``_constants``: keyword arguments of all calls, by
        name. ``mapping``: number of the map in its cluster."""
        self._long_s = long_s
        self._first = first
        self.results: list[Any] = []

    def run(self, function: Callable[..., Any], is_cancelled: Callable[[], bool]) -> bool:
        """Call a function with item after item; False if items are left: it took ``long_s``, or was cancelled.

        That is the function that came with the chunk; ``function``, that of the computation, if none did. An
        exception of an item passes through, and the results before it are kept. If the map keeps errors, the
        exception takes the place of the item's result, and the next item is run.
        """
        if self._function is not None:
            function = self._function
        if self._constants:
            function = partial(function, **self._constants)
        _running.add(self)
        append = self.results.append
        left = iter(self._items)
        count = len(self._items)
        now = time.perf_counter()
        end = now + self._long_s
        size = 1
        while True:
            # A plain loop: Python calls Python faster than ``map`` does, and StopIteration passes, too.
            if self._keeps_errors:
                self._try_each(function, islice(left, size), is_cancelled)
            elif self._is_starred:
                for item in islice(left, size):
                    append(function(*item))
            else:
                for item in islice(left, size):
                    append(function(item))
            if len(self.results) == count or not self._items:
                return True
            before, now = now, time.perf_counter()
            if now > end or is_cancelled():
                return False
            size = min(2 * size, _SLICE_MAX) if now - before < _QUICK_S else 1

    def item(self) -> int:
        """Returns the number of the running item in the map, from 0; its seed depends on it."""
        return self._first + len(self.results)

    def stop(self) -> None:
        """Run no item after the running one, and have ``run`` return: the running item has forked this process."""
        self._items.clear()

    def _try_each(
        self, function: Callable[..., Any], items: Iterable[Any], is_cancelled: Callable[[], bool]
    ) -> None:
        """Call the function with each item; the error of an item that fails takes the place of its result.

        So do ``sys.exit`` and a ``KeyboardInterrupt`` of the function's own. The ``KeyboardInterrupt`` of a cancelled
        map passes through, and so does any exception in a process that the function has forked: that process ends.
        """
        append = self.results.append
        is_starred = self._is_starred
        pid = os.getpid()
        for item in items:
            try:
                result = function(*item) if is_starred else function(item)
            except BaseException as error:
                if is_cancelled() or os.getpid() != pid:
                    raise
                result = _failed(error, item)
            append(result)

    def cut_at_unsendable(self) -> Any:
        """Drop the results from the first one that cannot be pickled; returns that result, which the error names.

        If the map keeps errors, none is dropped: an error takes the place of each result that cannot be pickled, and
        the list of results is returned, with a ``payload.Rest`` at its end if items were not run.
        """
        for index, result in enumerate(self.results):
            try:
                payload.dump(result)
            except Exception as error:
                if not self._keeps_errors:
                    del self.results[index:]
                    return result
                self.results[index] = _unsendable(result, error, self._items[index])
        if self._keeps_errors and len(self.results) < len(self._items):
            self.results.append(payload.Rest())
        return self.results


def _failed(error: BaseException, item: Any) -> payload.ItemFailed:
    """Returns what the client gets in place of the result of an item that failed: the error, pickled if it can be and
    is small (else empty), and as text; the item, as short text."""
    note_missing(error, job.node_name, job.job_path)
    frames = error.__traceback__.tb_next if error.__traceback__ else None  # without ours
    text = cut_reason(sendable("".join(traceback.format_exception(type(error), error, frames))))
    data = payload.dump_exception(error)
    return payload.ItemFailed(data if len(data) < limits.INLINE_MAX else b"", text, short_repr(item))


def _unsendable(result: Any, error: Exception, item: Any) -> payload.ItemFailed:
    """Returns what the client gets in place of an item's result that cannot be pickled: a PicklingError whose text
    names the innermost part that cannot be."""
    culprit = payload.find_culprit(result, "the result") or of_error(error)
    return _failed(PicklingError(f"the item's result cannot be sent: {culprit}"), item)
