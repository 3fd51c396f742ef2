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
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.checking import deadline, describe
from dispy.client.job import FINISHED, DispyJob
from dispy.client.missing import advice_in, explain
from dispy.client.waiting import Signal
from dispy.errors import JobError, PicklingError, UsageError
from dispy.protocol.node import Ended

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster

CHUNK_S = 0.02
"""What a chunk is meant to take: 100 times what a job costs in all, and little to wait for at the end."""

LONG_S = 5 * CHUNK_S
"""A chunk that has run for so long gives back what is left of it."""

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

NUMBERS_FROM = 1 << 40
"""Numbers of chunks begin here, so that those of jobs keep step with their ids."""


class Chunk(DispyJob, gc=False, eq=False):
    """Some items of a map, as a job. Never shown to the program."""

    _mapping: Any = None
    _items: payload.Buffer = b""
    """What was sent."""
    _first: int = 0
    """Number of its first item."""
    _count: int = 0
    """How many items it has."""

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


class Mapping:
    """One call of ``map``."""

    def __init__(
        self, cluster: JobCluster, iterables: tuple[Iterable[Any], ...], until: float | None
    ) -> None:
        self._cluster = cluster
        self._until = until
        bind = cluster._computation.method is not None
        self._is_starred = bind or len(iterables) > 1
        iterators = [iter(iterable) for iterable in iterables]
        hints = [hint for hint in [length_hint(iterable, -1) for iterable in iterables] if hint >= 0]
        self._left: int | None = min(hints) if hints else None
        """Items that are left to be read, as far as is known."""
        self._items: Iterator[Any] = iterators[0] if len(iterators) == 1 else zip(*iterators, strict=False)
        if bind:
            arguments = cluster._computation.arguments
            tuples = zip(*iterators, strict=False)
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
        return is_news

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
        """A worker gave items back: to be run in pieces, at the same place of the window."""
        rest = payload.load_items(chunk._items)[count:]
        pieces = max(2, 2 * self._cluster._cpus())
        size = max(1, min(self._size(), -(-len(rest) // pieces)), -(-len(rest) // (8 * pieces)))
        place = self._window.index(chunk) + 1
        for start in range(0, len(rest), size):
            items = rest[start : start + size]
            self._submit(items, chunk._first + count + start, place)
            place += 1
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
        if self._runs == 0 or self._cluster._isolate:
            return 1
        item_s = max(self._runs_s / self._runs, 1e-9)
        size = min(CHUNK_S / item_s, CHUNK_BYTES / max(self._item_bytes, self._result_bytes), ITEMS_MAX)
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
        """Send items as a chunk; those from the first that cannot be sent on, with its error, are the end."""
        try:
            data = self._dump(items)
        except Exception as error:
            found = payload.find_unsendable(items, first)
            self._is_exhausted = True
            self._error = found[1] if found else PicklingError(f"items of a map cannot be sent: {error}")
            if found is None or found[0] == 0:
                return
            items = items[: found[0]]
            data = self._dump(items)
        self._item_bytes = _learnt(self._item_bytes, len(data) / len(items))
        chunk = Chunk(0, _cluster=None, _mapping=self, _items=data, _first=first, _count=len(items))
        # First: whatever is in the window is cancelled when Ctrl-C ends us, perhaps in the middle of this.
        self._open += 1
        if place is None:
            self._window.append(chunk)
        else:
            self._window.insert(place, chunk)
        self._cluster._submit_chunk(chunk, data)

    def _dump(self, items: list[Any]) -> payload.Buffer:
        return payload.dump_chunk(items, self._is_starred, LONG_S, self._cluster._computation.known)

    # Results.

    def _open_chunk(self, chunk: Chunk) -> tuple[list[Any], BaseException | None]:
        """The results of a chunk, and what the item behind them raised."""
        for stream, text in ((sys.stdout, chunk.stdout), (sys.stderr, chunk.stderr)):
            if text and stream is not None:
                stream.write(text)
        if chunk._status == FINISHED:
            try:
                return payload.load(chunk._value), None
            except Exception as error:
                return [], self._chunk_error(chunk, f"the results cannot be rebuilt here: {error}")
        if self._cluster._is_closed or self._cluster._is_ending:
            return [], UsageError(
                f"cluster {self._cluster.name} was closed while its map was running",
                hint="close it after the last result",
            )
        if not chunk._value:
            return [], self._chunk_error(chunk, chunk._exception or "no reason given")
        failure = payload.load_failure(chunk._value)
        if failure is None:
            return [], self._chunk_error(chunk, chunk._exception or "")
        results, data = failure
        text = explain(chunk._exception or "", self._cluster, None)
        number = chunk._first + len(results)
        raised = payload.load_exception(data, text) if data else None
        if raised is None:
            raised = JobError(f"item {number} of the map failed: {text}")
        elif advice_in(text):
            raised.add_note(advice_in(text))
        item = _short_repr(payload.load_items(chunk._items)[len(results)])
        raised.add_note(f"item {number} of the map of {self._cluster.name}: {item}")
        return results, raised

    def _chunk_error(self, chunk: Chunk, reason: str) -> JobError:
        last = chunk._first + chunk._count - 1
        which = f"item {last}" if chunk._count == 1 else f"items {chunk._first} to {last}"
        error = JobError(f"{which} of the map of {self._cluster.name}: {reason}")
        if chunk._count == 1:
            error.add_note(f"item {last} of the map: {_short_repr(payload.load_items(chunk._items)[0])}")
        return error


def _learnt(past: float, mean: float) -> float:
    """A size that grows at once and falls by halves: one large item does not keep chunks small for ever."""
    return max(mean, (past + mean) / 2)


def _short_repr(item: Any) -> str:
    """An item in few words, whatever its class makes of it."""
    import reprlib

    try:
        return reprlib.repr(item)
    except Exception as error:
        return f"<{type(item).__name__} whose repr raises {type(error).__name__}>"


def start(cluster: JobCluster, iterables: tuple[Any, ...], timeout: float | None) -> Iterator[Any]:
    """What ``JobCluster.map`` does: send the first chunks, and return the iterator over the results."""
    if not iterables:
        raise UsageError("map takes at least one iterable", hint="cluster.map(range(10))")
    for number, iterable in enumerate(iterables, 1):
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise UsageError(
                f"argument {number} of map must be an iterable, not {describe(iterable)}",
                hint="cluster.map([value]) for one item",
            )
    cluster._check_open()
    mapping = Mapping(cluster, iterables, deadline(timeout))
    cluster._maps.add(mapping)
    results = mapping.results()
    next(results)
    return results
