"""``map``: the computation over iterables, chunk by chunk, with results in the order of the items.

Theory of operation. The items are cut into *chunks*. A chunk is one job for nodes and scheduler; its worker calls
the function for each item. Between the iterables and the consumer lies a sliding window of chunks, in order. Chunks
at its end run or wait for a CPU; there are some more of them than CPUs. Chunks that have ended wait, pickled, until
all before them have been taken.

The consumer's thread does all the work, in ``next``: it reads the iterables, cuts, submits, and unpickles the chunk
in front. The engine's thread only queues the chunks that have ended (``on_ended``). So iterables are read only as
results are taken: that is the back-pressure.

How long an item takes is learnt from the chunks that have ended. Where it was learnt wrongly, a worker stops a chunk
that runs too long (``LONG_S``) and gives back the rest, which is cut anew and sent at the same place of the window. A
chunk that failed as a whole is cut anew, too, if its items may be run again.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.arguments import tuples_of
from dispy.client.job import FINISHED, TERMINATED
from dispy.client.map import chunk_results
from dispy.client.map.chunk_job import Chunk
from dispy.client.map.item_costs import ItemCosts
from dispy.client.map.options import Options
from dispy.client.wakeup import Signal, Wakes
from dispy.errors import JobError, PicklingError, UsageError
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.client.session.state import Session

CHUNK_S = 0.02
"""Intended run time of a chunk (seconds): 100 times the cost of a job, and short, as the last chunk is waited for."""

LONG_S = 5 * CHUNK_S
"""Run time (seconds) after which a chunk gives back its remaining items, unless the program has chosen its size."""

SHORT_S = 0.001
"""Least intended run time of a chunk (seconds). Near the end of a map chunks get smaller, so that all CPUs have some;
chunks shorter than this would cost more than they save."""

ITEMS_MAX = 1 << 15
"""Most items of a chunk whose size the program has not chosen: bounds the objects that exist at once in a process."""

CHUNK_BYTES = 256 * 1024
"""Intended size of the pickled items or results of a chunk, whichever are larger (bytes): bounds its items."""

WAITING_BYTES = 4 * 1024 * 1024
"""Pickled results in the window (bytes) from which on no more items are read, until the program takes results."""

WINDOW_MAX = 1024
"""Chunks in the window from which on no more items are read, until the program takes results."""

FEWER = 8
"""Divisor of the chunk size: once a chunk of n items has failed as a whole, later chunks have at most n / 8 items, so
that the next failure loses fewer results."""


class Mapping:
    """One call of ``map``: its window of chunks. On the consumer's thread, but for ``on_ended`` and ``on_nodes``.

    Args:
        session: The cluster whose computation is run.
        iterables: An iterable for each positional argument (with ``is_starred`` one of tuples); the shortest one ends
            the map.
        options: The choices of the program.
        submit: Called with a chunk and its pickled items, to send it as a job.
        end: Called with this object and the job numbers of unfinished chunks, to cancel those; must not wait.

    Attributes:
        is_plain: True if nothing that comes from nodes may run code here.
        until: When all results have to be here (monotonic seconds); None: no limit.
    """

    def __init__(
        self,
        session: Session,
        iterables: tuple[Iterable[Any], ...],
        options: Options,
        submit: Callable[[Chunk, payload.Buffer], None],
        end: Callable[[Mapping, list[int]], None],
    ) -> None:
        self._session = session
        self.is_plain = session.options.is_plain
        self._submit_chunk = submit
        self._end = end
        self.until = options.until
        self._keeps_errors = options.keeps_errors
        self._chosen_size = options.size
        self._size_max = options.size or ITEMS_MAX
        """Most items of the next chunk; becomes smaller when a chunk fails as a whole."""
        bind = session.computation.method is not None
        is_starred = bind or options.is_starred or len(iterables) > 1
        self._function = options.function
        number = next(session.map_numbers)
        self._way: payload.Way = (is_starred, options.keeps_errors, options.constants, number)
        """Tells workers how to call the function with the items (see ``payload.Way``); sent with each chunk."""
        iterators = [iter(iterable) for iterable in iterables]
        hints = [hint for hint in [length_hint(iterable, -1) for iterable in iterables] if hint >= 0]
        self._left: int | None = min(hints) if hints else None
        """Items left to be read, by the length hints of the iterables: the last chunks get smaller. None: unknown."""
        self._items: Iterator[Any] = iterators[0] if len(iterators) == 1 else zip(*iterators, strict=False)
        if options.is_starred:
            self._items = tuples_of(iterators[0])
        if bind:
            arguments = session.computation.arguments
            tuples = self._items if options.is_starred else zip(*iterators, strict=False)
            self._items = (arguments(args, {}) for args in tuples)
        self._read = 0
        """Number of items read from the iterables, which is also the number of the next item in the map, from 0."""
        self._is_exhausted = False
        """True once no more items are read: the iterables have ended, or reading or a result has failed."""
        self._error: BaseException | None = None
        """Error that ended the reading; raised after the results of the items that were read. None: none so far."""
        self._window: deque[Chunk] = deque()
        """Chunks whose results were not taken, ended or not, in the order of the items: the first is taken next."""
        self._open = 0
        """Number of chunks in the window that have not ended, as the consumer knows: bounds how many are sent."""
        self._waiting_bytes = 0
        """Pickled results that wait in the window (bytes); from ``WAITING_BYTES`` on no more items are read."""
        self._ended: deque[Chunk] = deque()
        """Chunks that have ended, in that order; queued by the engine's thread, taken out by the consumer's."""
        self._signal: Wakes = Signal()
        """Wakes the consumer while it waits for the first chunk of the window; ``steps`` is given one."""
        self._costs = ItemCosts()
        """Run time and sizes of items, by which the next chunk gets as many as take ``CHUNK_S``."""

    # The engine's side.

    def on_ended(self, chunk: Chunk) -> None:
        """Queue a chunk that has ended, and wake the consumer; on the engine's thread."""
        self._ended.append(chunk)
        self._signal.wake()

    def on_nodes(self) -> None:
        """Wake the consumer to fill the window anew, as there are more or fewer CPUs; on any thread."""
        self._has_other_nodes = True
        self._signal.wake()

    _has_other_nodes = False
    """True if CPUs have come or gone since the consumer last filled the window."""

    def left(self) -> tuple[int, int, bool]:
        """Returns numbers of chunks and items that have not ended, and if these are all items; on any thread."""
        items = [chunk.count for chunk in list(self._window) if chunk.mapping is not None]
        unread = 0 if self._is_exhausted else self._left
        return len(items), sum(items) + (unread or 0), unread is not None

    def stop(self) -> None:
        """Have the consumer end the map, as if it had been dropped, and cancel its chunks; on any thread."""
        self._is_stopped = True
        self.on_nodes()

    _is_stopped = False
    """True once ``stop`` was called: the consumer takes no results any more."""

    # The caller's side.

    def results(self) -> Generator[Any, None, None]:
        """Send the first chunks, yield None, then yield the result of each item, in the order of the items.

        An error ends this: it is raised after the results of the items before it. ``entry.begin_map`` takes the None:
        closing a generator that was never begun would not run its ``finally``, and its chunks would run on.
        """
        batches = self.batches()
        try:
            yield from next(batches)
            yield None
            for results in batches:
                yield from results
        finally:
            batches.close()

    def batches(self) -> Generator[list[Any], None, None]:
        """Send the first chunks, yield an empty list, then yield the results of each chunk, as ``results`` does.

        Raises:
            TimeoutError: The next result has not come at ``Options.until``.
        """
        signal = Signal()
        steps = self.steps(signal)
        try:
            for results in steps:
                if results is not None:
                    yield results
                elif not signal.wait(self.has_news, self.until):
                    raise self.late()
        finally:
            steps.close()

    def steps(self, signal: Wakes) -> Generator[list[Any] | None, None, None]:
        """Do all that ``batches`` does but wait, for consumers that wait in ways of their own.

        Yields an empty list once the first chunks are sent, then the results of each chunk, or None when there is
        nothing to do before ``has_news``. Whoever closes the generator ends the map.

        Args:
            signal: Wakes the consumer when there are news.
        """
        self._signal = signal
        try:
            self._fill()
            yield []
            window = self._window
            while window:
                while True:
                    if self._note_ended():
                        self._fill()
                    if window[0].is_final or self._is_stopped:
                        break
                    yield None
                if self._is_stopped:
                    return
                chunk = window.popleft()
                self._waiting_bytes -= len(chunk.value)
                results, error = self._open_chunk(chunk)
                chunk.value = None
                if error is None:
                    self._fill()
                else:
                    self._is_exhausted = True
                yield results
                if error is not None:
                    raise error
            if self._error is not None:
                raise self._error
        finally:
            self._close()

    def _close(self) -> None:
        """Cancel the chunks that have not ended, and drop window, iterables and constants, as ``results`` ends.

        Does not wait: the garbage collector may call this, on any thread."""
        self._end(self, [chunk.number for chunk in self._window if not chunk.is_final])
        self._window.clear()
        self._items = iter(())
        self._error = None
        self._way = (False, False, None, 0)  # lets go of the constants that were put

    def has_news(self) -> bool:
        """True if a chunk has ended or CPUs have come or gone, which the consumer has not noted yet."""
        return bool(self._ended) or self._has_other_nodes

    def late(self) -> TimeoutError:
        """Returns the error for a first chunk that has not ended at ``Options.until``."""
        return TimeoutError(
            f"item {self._window[0].first} of the map of {self._session.name} has not ended in time"
        )

    def _note_ended(self) -> bool:
        """Note chunks that have ended, learn from them, and cut anew what they have given back.

        Returns:
            True if there was news, so that the window may have room.

        Raises:
            JobError: Items that a worker has given back cannot be unpickled here, and errors are not kept.
        """
        is_news = self.has_news()
        self._has_other_nodes = False
        while self._ended:
            chunk = self._ended.popleft()
            chunk.is_final = True
            self._open -= 1
            self._waiting_bytes += len(chunk.value)
            if chunk.status == FINISHED:
                count = chunk.results()
                if count:
                    seconds = (chunk.end_time or 0.0) - (chunk.start_time or 0.0)
                    self._costs.learn(seconds, len(chunk.value), count)
                if count < chunk.count:
                    self._cut_rest(chunk, count)
                chunk.items = b""
            elif self._keeps_errors and not self._is_over():
                self._settle(chunk)
        return is_news

    def _settle(self, chunk: Chunk) -> None:
        """Note the results of a failed chunk, as errors are kept; send its other items again, in chunks behind it."""
        chunk.ready, is_whole = chunk_results.settle(
            chunk, self._session.name, self._session.options.reentrant
        )
        if is_whole:
            self._size_max = max(1, min(self._size_max, chunk.count // FEWER))
        if len(chunk.ready) < chunk.count:
            self._cut_rest(chunk, len(chunk.ready))

    def _is_over(self) -> bool:
        """True if the cluster is closed, or is ending its jobs to be closed: then nothing is sent anew."""
        return self._session.is_closed or self._session.is_ending

    def _cut_rest(self, chunk: Chunk, count: int) -> None:
        """Send a chunk's items behind its first ``count`` again, as smaller chunks that follow it in the window."""
        try:
            rest = payload.load_items(chunk.items)[count:]
        except Exception as error:
            self._lose_rest(
                chunk, count, f"it cannot be rebuilt here, to be run elsewhere: {of_error(error)}"
            )
            return
        pieces = max(2, 2 * self._session.cpus())
        size = max(1, min(self._size(), -(-len(rest) // pieces)), -(-len(rest) // (8 * pieces)))
        place = self._window.index(chunk) + 1
        for start in range(0, len(rest), size):
            before = len(self._window)
            self._submit(rest[start : start + size], chunk.first + count + start, place)
            place += len(self._window) - before
        chunk.count = count

    def _lose_rest(self, chunk: Chunk, count: int, reason: str) -> None:
        """Fail a chunk's items behind its first ``count``: keep a ``JobError`` for each, or raise one."""
        name = self._session.name
        if chunk.exception and not chunk.exception.isdecimal():
            reason = chunk.exception
        if not self._keeps_errors:
            raise JobError(f"item {chunk.first + count} of the map of {name}: {reason}")
        numbers = range(chunk.first + count, chunk.first + chunk.count)
        lost: list[Exception] = [
            JobError(f"item {number} of the map of {name}: {reason}") for number in numbers
        ]
        self._enter_failed(lost, numbers[0], self._window.index(chunk) + 1)
        chunk.count = count

    # Reading.

    def _fill(self) -> None:
        """Read items and submit chunks until the window is full or the iterables are exhausted."""
        if self._is_exhausted:
            return
        # As many as run, as many on their way, and as many again twice for the time that the consumer is busy.
        most = 4 * max(1, self._session.cpus()) + 2
        while (
            not self._is_exhausted
            and self._open < most
            and self._waiting_bytes < WAITING_BYTES
            and len(self._window) < WINDOW_MAX
        ):
            self._submit_next(self._size())

    def _size(self) -> int:
        """Returns the number of items of the next chunk: as chosen, else by run times and sizes (1 at first)."""
        if self._chosen_size is not None:
            return self._size_max
        costs = self._costs
        if costs.runs == 0 or self._session.options.isolate:
            return 1
        item_s = costs.item_s()
        size = min(CHUNK_S / item_s, CHUNK_BYTES / max(costs.item_bytes, costs.result_bytes))
        size = min(size, self._size_max)
        if self._left is not None:
            spread = self._left / (4 * max(1, self._session.cpus()))
            size = min(size, max(spread, SHORT_S / item_s))
        return max(1, int(size))

    def _submit_next(self, size: int) -> None:
        """Read up to ``size`` items, and send them as the last chunk of the window. ``_error`` keeps an error."""
        items: list[Any] = []
        try:
            # ``extend`` keeps the items that were read before an error.
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
        """Send items as a chunk.

        Args:
            items: The items, at least one.
            first: Number of the first of these items in the map, from 0.
            place: Index in the window at which to insert the chunk; None: the window's end.
        """
        try:
            data = self._dump(items, first)
        except Exception as error:
            self._submit_sendable(items, first, place, error)
            return
        self._costs.learn_item(len(data) / len(items))
        chunk = Chunk(self, data, first, len(items))
        # Into the window before it is sent: Ctrl-C may end this at any point, and what is in the window is cancelled.
        self._open += 1
        self._window.insert(len(self._window) if place is None else place, chunk)
        self._submit_chunk(chunk, data)

    def _submit_sendable(self, items: list[Any], first: int, place: int | None, error: Exception) -> None:
        """Send those items that can be pickled, as not all of them can (``error``).

        If errors are kept, a ``PicklingError`` is the result of each other item; else the first one ends the map.
        """
        start = 0
        while start < len(items):
            before = len(self._window)
            found = payload.find_unsendable(items[start:], first + start)
            if found is None and start:
                self._submit(items[start:], first + start, place)
                return
            # If each can be sent, but not all together, that is the error of all of them.
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
        """Put a chunk that is never sent into the window: its results are these errors, from item ``first`` on."""
        count = len(failed)
        chunk = Chunk(None, b"", first, count, ready=failed, status=TERMINATED, is_final=True)
        self._window.insert(len(self._window) if place is None else place, chunk)

    def _dump(self, items: list[Any], first: int) -> payload.Buffer:
        """Returns the pickle of a chunk: items, way of calling, and the run time after which it gives items back."""
        long_s = LONG_S if self._chosen_size is None else float("inf")
        known = self._session.computation.known
        return payload.dump_chunk(items, self._way, long_s, first, known, self._function)

    # Results.

    def _open_chunk(self, chunk: Chunk) -> tuple[list[Any], BaseException | None]:
        """Print the output of an ended chunk, and unpickle its results.

        Returns:
            Results of its items, in order, and the error to raise after them; None: none, the map goes on.
        """
        name = self._session.name
        for stream, data in ((sys.stdout, chunk.stdout), (sys.stderr, chunk.stderr)):
            if data and stream is not None:
                stream.write(data.decode("utf-8", "backslashreplace"))
        if chunk.ready is not None:
            return chunk_results.with_errors(chunk, chunk.ready, self._session), None
        if chunk.status == FINISHED:
            try:
                results = payload.load_results(chunk.value)
            except Exception as error:
                return self._not_rebuilt(chunk, error)
            return (
                chunk_results.with_errors(chunk, results, self._session) if self._keeps_errors else results
            ), None
        if self._is_over():
            return [], UsageError(
                f"cluster {name} was closed while its map was running",
                hint="close it after the last result",
            )
        if not chunk.value:
            return [], chunk_results.chunk_error(chunk, name, chunk.exception or "no reason given")
        failure = payload.load_failure(chunk.value)
        if failure is None:
            return [], chunk_results.chunk_error(chunk, name, chunk.exception or "")
        results, pickled = failure
        item = chunk_results.shown_item(chunk, len(results))
        number = chunk.first + len(results)
        return results, chunk_results.item_error(
            self._session, number, pickled, chunk.exception or "", item
        )

    def _not_rebuilt(self, chunk: Chunk, error: Exception) -> tuple[list[Any], BaseException | None]:
        """Returns the pair for ``_open_chunk`` if results cannot be unpickled: ``JobError`` as error, or per item."""
        reason = f"the results cannot be rebuilt here: {error}"
        if not self._keeps_errors:
            return [], chunk_results.chunk_error(chunk, self._session.name, reason)
        self._size_max = max(1, min(self._size_max, chunk.count // FEWER))
        return chunk_results.failed_whole(chunk, self._session.name, reason), None
