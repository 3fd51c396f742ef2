"""``map``: the computation over iterables, chunk by chunk, results in order.

The items are cut into *chunks*. A chunk is one job for nodes and scheduler; its worker calls the
function for each item. Between the iterables and the consumer lies a window of chunks in order.
Those at its end run or wait for a CPU, some more than there are CPUs; those that have ended wait,
pickled, until the one in front has. The caller's thread does all of it, in ``next``: it reads the
iterables, cuts, submits, and unpickles the chunk in front. The engine only notes which chunks have
ended.

How long an item takes is learnt from the chunks that have ended. Where it was learnt wrongly, a
worker stops a chunk that runs too long and gives back the rest, which is cut anew.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import payload
from dispy.client.arguments import describe
from dispy.client.job import FINISHED, TERMINATED, DispyJob
from dispy.client.map import chunk_results
from dispy.client.waiting import Signal
from dispy.errors import JobError, PicklingError, UsageError
from dispy.protocol.node import Ended
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.client.map.entry import Maps
    from dispy.client.session.objects import Ref

CHUNK_S = 0.02
"""What a chunk is meant to take: 100 times what a job costs in all, and little to wait for at the end."""

LONG_S = 5 * CHUNK_S
"""A chunk that has run for so long gives back what is left of it, unless the program has chosen its size."""

SHORT_S = 0.001
"""Chunks shorter than this are not made to spread the last items: they would cost more than they save."""

ITEMS_MAX = 1 << 15
"""Items of a chunk: bounds the objects that exist at once here and in a worker."""

CHUNK_BYTES = 256 * 1024
"""Aim for the pickled items or results of a chunk, whichever are larger."""

WAITING_BYTES = 4 * 1024 * 1024
"""Results that wait for the chunk in front of them; no more items are read beyond."""

WINDOW_MAX = 1024
"""Chunks in the window, however small they are."""

FEWER = 8
"""When a chunk has failed as a whole, chunks have at most so many times fewer items than that one."""


class Chunk(DispyJob, gc=False, eq=False):
    """Some items of a map, as a job. Never shown to the program."""

    _mapping: Any = None
    _items: payload.Buffer = b""
    """What was sent."""
    _first: int = 0
    """Number of its first item."""
    _count: int = 0
    """How many items it has."""
    _ready: Any = None
    """Its results, where they are known before it is opened: a list."""

    def end(self, item: Ended) -> int:
        """It has ended; on the engine's thread. Returns how many calls were made, as far as is known.

        ``_is_final`` is left to the mapping's thread: set here, it would be seen before the end is noted.
        """
        self._status = item.status
        self._exception = item.reason
        self._value = item.payload
        self._stdout = item.stdout
        self._stderr = item.stderr
        self.start_time = item.start
        self.end_time = item.end
        # Nothing here is tracked by the collector: no cycle may stay.
        mapping, self._mapping = self._mapping, None
        mapping.on_ended(self)
        if not item.ran:
            return 0
        return self.results() if item.status == FINISHED else 1

    def results(self) -> int:
        """How many items of a chunk that has finished were run: the others were given back."""
        told = self._exception or ""
        return min(int(told), self._count) if told.isdecimal() else self._count


class Options(NamedTuple):
    """How a program wants it.

    Attributes:
        is_starred: Items of the one iterable are tuples of arguments.
        until: When all results have to be here (monotonic seconds); None for no limit.
        keeps_errors: Exceptions stay in the places of items that fail, and the rest goes on.
        constants: Arguments that all calls have, which were put.
        size: Items of a chunk; None for as many as take ``CHUNK_S``.
    """

    is_starred: bool = False
    until: float | None = None
    keeps_errors: bool = False
    constants: Ref | None = None
    size: int | None = None


class Mapping:
    """One call of ``map``."""

    def __init__(self, cluster: Maps, iterables: tuple[Iterable[Any], ...], options: Options) -> None:
        self._cluster = cluster
        self._until = options.until
        self._keeps_errors = options.keeps_errors
        self._chosen_size = options.size
        self._size_max = options.size or ITEMS_MAX
        bind = cluster._computation.method is not None
        is_starred = bind or options.is_starred or len(iterables) > 1
        number = next(cluster._map_numbers)
        self._way: payload.Way = (is_starred, options.keeps_errors, options.constants, number)
        iterators = [iter(iterable) for iterable in iterables]
        hints = [hint for hint in [length_hint(iterable, -1) for iterable in iterables] if hint >= 0]
        self._left: int | None = min(hints) if hints else None
        """Items that are left to be read, as far as is known."""
        self._items: Iterator[Any] = iterators[0] if len(iterators) == 1 else zip(*iterators, strict=False)
        if options.is_starred:
            self._items = _tuples(iterators[0])
        if bind:
            arguments = cluster._computation.arguments
            tuples = self._items if options.is_starred else zip(*iterators, strict=False)
            self._items = (arguments(args, {}) for args in tuples)
        self._read = 0
        self._is_exhausted = False
        self._error: BaseException | None = None
        """What ended the reading; raised after the results of what was read."""
        self._window: deque[Chunk] = deque()
        """Chunks in order, from the one whose results come next."""
        self._open = 0
        """Chunks that have not ended, as far as we have taken note of it."""
        self._waiting_bytes = 0
        """Results of chunks that have ended, all in all."""
        self._ended: deque[Chunk] = deque()
        """Chunks that have ended and were not noted by our thread."""
        self._signal = Signal()
        self._runs_s = 0.0
        self._runs = 0.0
        """Recent items that were run, and what they took: the past fades with each chunk."""
        self._item_bytes = 1.0
        self._result_bytes = 1.0
        """Mean sizes of recent items and results."""

    # The engine's side.

    def on_ended(self, chunk: Chunk) -> None:
        """A chunk has ended."""
        self._ended.append(chunk)
        self._signal.wake()

    def on_nodes(self) -> None:
        """There are more or fewer CPUs: look anew."""
        self._has_other_nodes = True
        self._signal.wake()

    _has_other_nodes = False

    # The caller's side.

    def results(self) -> Generator[Any, None, None]:
        """Begin; results come after a first None, which is there so that closing always gets here."""
        try:
            self._fill()
            yield None
            window = self._window
            while window:
                self._wait_first()
                chunk = window.popleft()
                self._waiting_bytes -= len(chunk._value)
                results, error = self._open_chunk(chunk)
                chunk._value = None
                if error is None:
                    self._fill()
                else:
                    self._is_exhausted = True
                yield from results
                if error is not None:
                    raise error
            if self._error is not None:
                raise self._error
        finally:
            self._close()

    def _close(self) -> None:
        """Nobody wants the rest. Without waiting: this may be called by the collector."""
        self._cluster._end_map(self, [chunk._number for chunk in self._window if not chunk._is_final])
        self._window.clear()
        self._items = iter(())
        self._error = None
        self._way = (False, False, None, 0)  # what was put for it can go

    def _has_news(self) -> bool:
        return bool(self._ended) or self._has_other_nodes

    def _wait_first(self) -> None:
        """Wait for the chunk in front, and keep the others going meanwhile."""
        while True:
            if self._note_ended():
                self._fill()
            if self._window[0]._is_final:
                return
            if not self._signal.wait(self._has_news, self._until):
                first = self._window[0]._first
                raise TimeoutError(f"item {first} of the map of {self._cluster.name} has not ended in time")

    def _note_ended(self) -> bool:
        """Take note of chunks that have ended, learn from them, and cut anew what was given back."""
        is_news = self._has_news()
        self._has_other_nodes = False
        while self._ended:
            chunk = self._ended.popleft()
            chunk._is_final = True
            self._open -= 1
            self._waiting_bytes += len(chunk._value)
            if chunk._status == FINISHED:
                count = chunk.results()
                if count:
                    self._learn(chunk, count)
                if count < chunk._count:
                    self._cut_rest(chunk, count)
                chunk._items = b""
            elif self._keeps_errors and not self._is_over():
                self._settle(chunk)
        return is_news

    def _settle(self, chunk: Chunk) -> None:
        """A chunk has failed, and the rest is to go on: what was not run of it is sent anew, in its place."""
        chunk._ready, is_whole = chunk_results.settle(chunk, self._cluster.name, self._cluster._reentrant)
        if is_whole:
            self._size_max = max(1, min(self._size_max, chunk._count // FEWER))
        if len(chunk._ready) < chunk._count:
            self._cut_rest(chunk, len(chunk._ready))

    def _is_over(self) -> bool:
        """Whether the cluster is closed, or ends its jobs to be."""
        return self._cluster._is_closed or self._cluster._is_ending

    def _learn(self, chunk: Chunk, count: int) -> None:
        seconds = (chunk.end_time or 0.0) - (chunk.start_time or 0.0)
        if seconds * self._runs > self._runs_s * count:
            # Slower than thought: what was thought is wrong.
            self._runs_s, self._runs = seconds, count
        else:
            self._runs_s = self._runs_s / 2 + seconds
            self._runs = self._runs / 2 + count
        self._result_bytes = _learnt(self._result_bytes, len(chunk._value) / count)

    def _cut_rest(self, chunk: Chunk, count: int) -> None:
        """Run the items behind the first ones of a chunk in pieces, at the same place of the window."""
        try:
            rest = payload.load_items(chunk._items)[count:]
        except Exception as error:
            self._lose_rest(
                chunk, count, f"it cannot be rebuilt here, to be run elsewhere: {of_error(error)}"
            )
            return
        pieces = max(2, 2 * self._cluster._cpus())
        size = max(1, min(self._size(), -(-len(rest) // pieces)), -(-len(rest) // (8 * pieces)))
        place = self._window.index(chunk) + 1
        for start in range(0, len(rest), size):
            before = len(self._window)
            self._submit(rest[start : start + size], chunk._first + count + start, place)
            place += len(self._window) - before
        chunk._count = count

    def _lose_rest(self, chunk: Chunk, count: int, reason: str) -> None:
        name = self._cluster.name
        if chunk._exception and not chunk._exception.isdecimal():
            reason = chunk._exception
        if not self._keeps_errors:
            raise JobError(f"item {chunk._first + count} of the map of {name}: {reason}")
        numbers = range(chunk._first + count, chunk._first + chunk._count)
        lost: list[Exception] = [
            JobError(f"item {number} of the map of {name}: {reason}") for number in numbers
        ]
        self._enter_failed(lost, numbers[0], self._window.index(chunk) + 1)
        chunk._count = count

    # Reading.

    def _fill(self) -> None:
        """Read and submit as much as the window takes."""
        if self._is_exhausted:
            return
        # Running, as many on their way, and some for the time that we do something else.
        most = 4 * max(1, self._cluster._cpus()) + 2
        while (
            not self._is_exhausted
            and self._open < most
            and self._waiting_bytes < WAITING_BYTES
            and len(self._window) < WINDOW_MAX
        ):
            self._submit_next(self._size())

    def _size(self) -> int:
        """How many items the next chunk gets."""
        if self._chosen_size is not None:
            return self._size_max
        if self._runs == 0 or self._cluster._isolate:
            return 1
        item_s = max(self._runs_s / self._runs, 1e-9)
        size = min(CHUNK_S / item_s, CHUNK_BYTES / max(self._item_bytes, self._result_bytes))
        size = min(size, self._size_max)
        if self._left is not None:
            spread = self._left / (4 * max(1, self._cluster._cpus()))
            size = min(size, max(spread, SHORT_S / item_s))
        return max(1, int(size))

    def _submit_next(self, size: int) -> None:
        items: list[Any] = []
        try:
            # On an error what was read before it stays in the list.
            items.extend(islice(self._items, size))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._error = error
            self._is_exhausted = True
        if len(items) < size:
            self._is_exhausted = True
        if self._left is not None:
            self._left = max(0, self._left - len(items))
        first = self._read
        self._read += len(items)
        if items:
            self._submit(items, first, None)

    def _submit(self, items: list[Any], first: int, place: int | None) -> None:
        """Send items as a chunk, at a place of the window; at its end if that is None."""
        try:
            data = self._dump(items, first)
        except Exception as error:
            self._submit_sendable(items, first, place, error)
            return
        self._item_bytes = _learnt(self._item_bytes, len(data) / len(items))
        chunk = Chunk(0, _cluster=None, _mapping=self, _items=data, _first=first, _count=len(items))
        # First: whatever is in the window is cancelled when Ctrl-C ends us, perhaps in the middle of this.
        self._open += 1
        self._enter(chunk, place)
        self._cluster._submit_chunk(chunk, data)

    def _enter(self, chunk: Chunk, place: int | None) -> None:
        if place is None:
            self._window.append(chunk)
        else:
            self._window.insert(place, chunk)

    def _submit_sendable(self, items: list[Any], first: int, place: int | None, error: Exception) -> None:
        """Send what can be sent. Of the others the error takes the place; or the first of them is the end."""
        start = 0
        while start < len(items):
            before = len(self._window)
            found = payload.find_unsendable(items[start:], first + start)
            if found is None and start:
                self._submit(items[start:], first + start, place)
                return
            # Where each can be sent, and all together not, that is the error of all.
            together = PicklingError(f"items of a map cannot be sent: {error}")
            ready, unsent = found or (0, together)
            if ready:
                self._submit(items[start : start + ready], first + start, place)
            if not self._keeps_errors:
                self._is_exhausted = True
                self._error = unsent
                return
            failed: list[Exception] = [unsent] if found else [PicklingError(str(together)) for _ in items]
            if place is not None:
                place += len(self._window) - before
            self._enter_failed(failed, first + start + ready, place)
            if place is not None:
                place += 1
            start += ready + len(failed)

    def _enter_failed(self, failed: list[Exception], first: int, place: int | None) -> None:
        count = len(failed)
        chunk = Chunk(
            0, _cluster=None, _status=TERMINATED, _value=b"", _ready=failed, _first=first, _count=count,
            _is_final=True,
        )  # fmt: skip
        self._enter(chunk, place)

    def _dump(self, items: list[Any], first: int) -> payload.Buffer:
        long_s = LONG_S if self._chosen_size is None else float("inf")
        return payload.dump_chunk(items, self._way, long_s, first, self._cluster._computation.known)

    # Results.

    def _open_chunk(self, chunk: Chunk) -> tuple[list[Any], BaseException | None]:
        """The results of a chunk, and what the item behind them raised."""
        name = self._cluster.name
        for stream, text in ((sys.stdout, chunk.stdout), (sys.stderr, chunk.stderr)):
            if text and stream is not None:
                stream.write(text)
        if chunk._ready is not None:
            return chunk_results.with_errors(chunk, chunk._ready, self._cluster), None
        if chunk._status == FINISHED:
            try:
                results = payload.load(chunk._value)
            except Exception as error:
                return self._not_rebuilt(chunk, error)
            return (
                chunk_results.with_errors(chunk, results, self._cluster) if self._keeps_errors else results
            ), None
        if self._is_over():
            return [], UsageError(
                f"cluster {name} was closed while its map was running",
                hint="close it after the last result",
            )
        if not chunk._value:
            return [], chunk_results.chunk_error(chunk, name, chunk._exception or "no reason given")
        failure = payload.load_failure(chunk._value)
        if failure is None:
            return [], chunk_results.chunk_error(chunk, name, chunk._exception or "")
        results, data = failure
        item = chunk_results.shown_item(chunk, len(results))
        number = chunk._first + len(results)
        return results, chunk_results.item_error(self._cluster, number, data, chunk._exception or "", item)

    def _not_rebuilt(self, chunk: Chunk, error: Exception) -> tuple[list[Any], BaseException | None]:
        reason = f"the results cannot be rebuilt here: {error}"
        if not self._keeps_errors:
            return [], chunk_results.chunk_error(chunk, self._cluster.name, reason)
        self._size_max = max(1, min(self._size_max, chunk._count // FEWER))
        return chunk_results.failed_whole(chunk, self._cluster.name, reason), None


def _tuples(items: Iterator[Any]) -> Iterator[tuple[Any, ...]]:
    """The items of ``starmap``."""
    for number, item in enumerate(items):
        if type(item) is tuple:
            yield item
        elif isinstance(item, (str, bytes, dict)) or not hasattr(item, "__iter__"):
            hint = "cluster.map passes each item as the only argument"
            if isinstance(item, dict):
                hint += ": give it a function that calls yours with **item"
            raise UsageError(
                f"item {number} of starmap must be a tuple of arguments, not {describe(item)}", hint=hint
            )
        else:
            yield tuple(item)


def _learnt(past: float, mean: float) -> float:
    """A size that grows at once and falls by halves: one large item does not keep chunks small for ever."""
    return max(mean, (past + mean) / 2)
