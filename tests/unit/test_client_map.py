"""How ``map`` cuts, learns and keeps order, with nodes that do what the test says."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dispy import payload
from dispy.client.map.chunk_job import Chunk
from dispy.client.map.chunks import CHUNK_BYTES, ITEMS_MAX, WAITING_BYTES, Mapping, Options
from dispy.errors import JobError, PicklingError, UsageError
from dispy.protocol.node import CANCELLED, FINISHED, TERMINATED, Ended


class Cluster:
    """What a mapping needs of a session; runs chunks when it is told to."""

    name = "double"

    def __init__(self, cpus: int = 2) -> None:
        self._cpus = cpus
        self.open: list[Chunk] = []
        self.sizes: list[int] = []
        self.cancelled: list[int] = []
        self.computation = SimpleNamespace(method=None, known=payload.NOTHING)
        self.options = SimpleNamespace(isolate=False, reentrant=False, is_plain=False, files=[])
        self.shipped = SimpleNamespace(base=None)
        self.map_numbers = itertools.count(1)
        self.is_closed = False
        self.is_ending = False

    def cpus(self) -> int:
        return self._cpus

    def submit_chunk(self, chunk: Chunk, data: bytes) -> None:
        chunk.number = len(self.sizes)
        self.open.append(chunk)
        self.sizes.append(chunk.count)

    def end_map(self, ended: Mapping, numbers: list[int]) -> None:
        self.cancelled = numbers

    def run(self, which: int = 0, item_s: float = 1e-6, only: int | None = None) -> Chunk:
        """Have a chunk end; after ``only`` items, if given."""
        chunk = self.open.pop(which)
        items = payload.load_items(chunk.items)[:only]
        data = payload.dump([2 * item for item in items])
        reason = "" if only is None else str(only)
        chunk.end(Ended(chunk.number, 0, FINISHED, 1.0, 1.0 + item_s * len(items), data, reason=reason))
        return chunk

    def fail(self, status: int, data: bytes, reason: str) -> None:
        """Have the first chunk end without results."""
        self.open.pop(0).end(Ended(0, 0, status, 1.0, 2.0, data, reason=reason))


def begin(cluster: Cluster, *iterables: Any, **options: Any) -> tuple[Mapping, Any]:
    chosen = Options(**options)
    mapping = Mapping(cluster, iterables, chosen, cluster.submit_chunk, cluster.end_map)  # type: ignore[arg-type]
    results = mapping.results()
    next(results)
    return mapping, results


def endless() -> Any:
    """Items whose number nobody knows."""
    return (n for n in itertools.count())


def test_begins_with_single_items_and_grows_by_what_they_take() -> None:
    cluster = Cluster(cpus=2)
    _, results = begin(cluster, endless())
    assert cluster.sizes == [1] * 10
    for _ in range(10):
        cluster.run(item_s=1e-4)
    assert list(itertools.islice(results, 10)) == list(range(0, 20, 2))
    assert set(cluster.sizes[10:]) <= {199, 200}
    assert len(cluster.open) == 10
    while len(cluster.sizes) < 40:
        list(itertools.islice(results, cluster.run(item_s=1e-8).count))
    assert 1000 < cluster.sizes[-1] <= ITEMS_MAX
    cluster.run(-1, item_s=10.0)
    cluster.run(item_s=1e-8)
    next(results)
    assert cluster.sizes[-1] == 1


def test_no_chunk_is_more_than_its_share_of_what_is_left() -> None:
    cluster = Cluster(cpus=2)
    _, results = begin(cluster, range(1000))
    seen: list[int] = []
    while len(seen) < 1000:
        cluster.run(item_s=0.001)
        seen += itertools.islice(results, cluster.sizes[len(cluster.sizes) - len(cluster.open) - 1])
    left = 1000
    for size in cluster.sizes:
        assert size <= max(1, left // 8)
        left -= size
    assert (left, seen) == (0, list(range(0, 2000, 2)))


def test_sizes_keep_to_bytes() -> None:
    cluster = Cluster()
    _, results = begin(cluster, (b"x" * 50_000 for _ in itertools.count()))
    while len(cluster.sizes) < 30:
        cluster.run()
        next(results)
    assert max(cluster.sizes) <= CHUNK_BYTES // 50_000
    cluster = Cluster()
    _, results = begin(cluster, itertools.repeat(b"x" * (CHUNK_BYTES * 2)))
    for _ in range(20):
        cluster.run()
        next(results)
    assert set(cluster.sizes) == {1}


def test_stops_reading_while_results_wait() -> None:
    cluster = Cluster()
    mapping, results = begin(cluster, (b"x" * 100_000 for _ in itertools.count()))
    for _ in range(200):
        if len(cluster.open) == 1:
            break
        cluster.run(1)
        mapping._note_ended()
        mapping._fill()
    assert len(cluster.open) == 1
    assert WAITING_BYTES <= mapping._waiting_bytes < WAITING_BYTES + 20 * CHUNK_BYTES * 2
    results.close()
    assert cluster.cancelled == [0]


def test_what_is_given_back_is_cut_anew_in_its_place() -> None:
    cluster = Cluster(cpus=1)
    _, results = begin(cluster, endless())
    seen: list[int] = []
    for _ in range(20):
        seen += itertools.islice(results, cluster.run(item_s=1e-4).count)
    count = cluster.open[0].count
    assert count > 100
    seen += itertools.islice(results, cluster.run(item_s=0.2, only=3).results())
    pieces = [chunk for chunk in cluster.open if len(seen) <= chunk.first < len(seen) + count - 3]
    assert len(pieces) > 4
    assert sum(chunk.count for chunk in pieces) == count - 3
    for chunk in reversed(pieces):
        cluster.run(cluster.open.index(chunk), item_s=0.01)
    seen += itertools.islice(results, count - 3)
    assert seen == list(range(0, 2 * len(seen), 2))


def test_more_nodes_more_chunks() -> None:
    cluster = Cluster(cpus=0)
    mapping, results = begin(cluster, endless())
    assert len(cluster.open) == 6
    cluster._cpus = 8
    mapping.on_nodes()
    cluster.run()
    assert next(results) == 0
    assert len(cluster.open) == 34


def test_failures() -> None:
    cluster = Cluster()
    _, results = begin(cluster, [5, 6, 7])
    cluster.fail(TERMINATED, payload.dump_failure([], b""), "Traceback: it broke")
    with pytest.raises(JobError, match="item 0 of the map failed: Traceback: it broke") as caught:
        next(results)
    assert caught.value.__notes__ == ["item 0 of the map of double: 5"]
    assert len(cluster.cancelled) == 2

    _, results = begin(cluster := Cluster(), [5])
    cluster.fail(TERMINATED, b"", "killed by signal 9")
    with pytest.raises(JobError, match="item 0 of the map of double: killed by signal 9"):
        next(results)

    _, results = begin(cluster := Cluster(), [5])
    cluster.fail(TERMINATED, payload.dump(ValueError("arguments")), "cannot be rebuilt on the node")
    with pytest.raises(JobError, match="cannot be rebuilt on the node"):
        next(results)

    _, results = begin(cluster := Cluster(), [5])
    cluster.is_ending = True
    cluster.fail(CANCELLED, b"", "cancelled")
    with pytest.raises(UsageError, match="was closed"):
        next(results)


class Shy:
    def __repr__(self) -> str:
        raise OSError("no")


class deque:
    """Not what its name says."""


@pytest.mark.parametrize(
    ("item", "shown"), [(Shy(), "<Shy instance at 0x"), (deque(), "<deque whose repr raises")]
)
def test_items_that_cannot_be_shown(item: Any, shown: str) -> None:
    cluster = Cluster()
    _, results = begin(cluster, [item])
    cluster.fail(TERMINATED, payload.dump_failure([], payload.dump(ValueError("x"))), "x")
    with pytest.raises(ValueError, match="x") as caught:
        next(results)
    assert caught.value.__notes__[0].startswith(f"item 0 of the map of double: {shown}")


def test_nothing_in_time() -> None:
    _, results = begin(cluster := Cluster(), [1, 2], until=0.0)
    with pytest.raises(TimeoutError, match="item 0 "):
        next(results)
    assert cluster.cancelled == [0, 1]
    _, results = begin(cluster, [1, 2], until=0.0)
    cluster.open = cluster.open[-2:]
    cluster.run()
    assert next(results) == 2  # what is there comes, however late


def test_no_result_is_taken_before_its_end_is_noted() -> None:
    """The engine's thread may be anywhere in ``Chunk.end`` when ours looks."""
    cluster = Cluster()
    mapping, results = begin(cluster, [1, 2], until=0.0)
    told, mapping.on_ended = [], lambda chunk: told.append(chunk)  # type: ignore[method-assign]
    first = cluster.run()
    with pytest.raises(TimeoutError):
        next(results)
    assert told == [first]
    assert cluster.cancelled == [0, 1]


def test_length_hints() -> None:
    mapping, _ = begin(Cluster(), range(1 << 62), itertools.repeat(1), [1, 2, 3])
    assert mapping._read == 3
    assert mapping._left == 0


def failed(error: Exception, item: Any) -> payload.ItemFailed:
    return payload.ItemFailed(payload.dump(error), "Traceback: remote", repr(item))


def take(results: Any, count: int) -> list[Any]:
    return [str(each) if isinstance(each, Exception) else each for each in itertools.islice(results, count)]


def test_errors_in_their_places_and_the_rest_goes_on() -> None:
    cluster = Cluster()
    _, results = begin(cluster, [5, 6, 7], keeps_errors=True)
    cluster.fail(FINISHED, payload.dump([failed(ValueError("no"), 5)]), "")
    error = next(results)
    assert (type(error), error.args, error.__notes__) == (
        ValueError,
        ("no",),
        ["item 0 of the map of double: 5"],
    )
    assert "remote" in str(error.__cause__)
    cluster.run()
    cluster.run()
    assert list(results) == [12, 14]
    assert cluster.cancelled == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("x")])
def test_no_item_ends_the_program(error: BaseException) -> None:
    data = payload.dump(error)
    _, results = begin(cluster := Cluster(), [5, 6], keeps_errors=True)
    cluster.fail(FINISHED, payload.dump([payload.ItemFailed(data, "Traceback: remote", "5")]), "")
    raised = next(results)
    assert type(raised) is JobError
    assert f"item 0 of the map failed: {type(error).__name__}: {error}" in str(raised)
    assert "remote" in str(raised.__cause__)
    _, results = begin(cluster := Cluster(), [5])
    cluster.fail(TERMINATED, payload.dump_failure([], data), "Traceback: remote")
    with pytest.raises(JobError, match="item 0 of the map failed"):
        next(results)


def grown(cluster: Cluster, items: Any, **options: Any) -> tuple[Any, int]:
    """A map whose first open chunk has many items; its results, and how many were taken."""
    _, results = begin(cluster, items, keeps_errors=True, **options)
    seen = 0
    while cluster.open[0].count < 64:
        seen += len(take(results, cluster.run(item_s=1e-4).count))
    return results, seen


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_items_of_a_process_that_died(is_reentrant: bool) -> None:
    """They may be run again, in smaller lots down to single items; or each has the error."""
    cluster = Cluster()
    cluster.options.reentrant = is_reentrant
    results, first = grown(cluster, endless())
    count = cluster.open[0].count
    bad = first + 3
    before = len(cluster.sizes)

    def run_all() -> None:
        while any(chunk.first < first + count for chunk in cluster.open):
            chunk = min(cluster.open, key=lambda each: each.first)
            place = cluster.open.index(chunk)
            if chunk.first <= bad < chunk.first + chunk.count:
                cluster.open.pop(place).end(
                    Ended(0, 0, TERMINATED, 1.0, 2.0, b"", reason="killed by signal 9")
                )
                mapping_of(results)._note_ended()
            else:
                cluster.run(place)

    run_all()
    taken = list(itertools.islice(results, count))
    errors = [place for place, each in enumerate(taken) if isinstance(each, JobError)]
    assert [each for each in taken if not isinstance(each, JobError)] == [
        2 * n for n in range(first, first + count) if n - first not in errors
    ]
    if is_reentrant:
        assert errors == [3]
        assert str(taken[3]) == f"item {bad} of the map of double: killed by signal 9"
    else:
        assert errors == list(range(count))
        assert f"these {count} items were run in one process" in str(taken[0])
        assert "reentrant=True" in str(taken[0])
    assert 1 <= max(cluster.sizes[before:]) <= count // 8


def mapping_of(results: Any) -> Mapping:
    return results.gi_frame.f_locals["self"]  # type: ignore[no-any-return]


def test_items_that_cannot_be_rebuilt_there_are_parted_from_the_others() -> None:
    cluster = Cluster()
    results, first = grown(cluster, endless())
    count = cluster.open[0].count
    cluster.fail(TERMINATED, payload.dump(PicklingError("no module x")), "cannot be rebuilt on the node")
    mapping_of(results)._note_ended()
    pieces = [chunk for chunk in cluster.open if chunk.first < first + count]
    assert sum(chunk.count for chunk in pieces) == count
    assert all(chunk.count < count for chunk in pieces)


def test_results_that_cannot_be_sent_leave_the_rest_alone() -> None:
    """A worker says so in the place of each; what it did not run is run, once."""
    cluster = Cluster()
    results, first = grown(cluster, endless())
    count = cluster.open[0].count
    some = [2 * first, failed(PicklingError("lock"), first + 1), payload.Rest()]
    cluster.fail(TERMINATED, payload.dump_failure(some, b""), "cannot be sent")
    mapping_of(results)._note_ended()
    pieces = sorted((chunk.first, chunk.count) for chunk in cluster.open if chunk.first < first + count)
    assert pieces[0][0] == first + 2
    assert sum(size for _, size in pieces) == count - 2
    assert take(results, 2) == [2 * first, "lock"]


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize("size", [1, 2])
def test_results_that_cannot_be_rebuilt_here(size: int) -> None:
    for keeps_errors in (True, False):
        cluster = Cluster()
        _, results = begin(cluster, [1, 2, 3], keeps_errors=keeps_errors, size=size)
        cluster.fail(FINISHED, payload.dump([Unloadable()] * size), "")
        if keeps_errors:
            assert ["rebuilt here" in text for text in take(results, size)] == [True] * size
            cluster.run()
            assert next(results) == 2 * (size + 1)
        else:
            with pytest.raises(JobError, match="rebuilt here"):
                next(results)


def test_items_that_cannot_be_sent() -> None:
    lock = threading.Lock()
    items = [1, lock, 3, lock, lock, 6]
    cluster = Cluster()
    _, results = begin(cluster, items, keeps_errors=True, size=6)
    assert cluster.sizes == [1, 1, 1]
    for _ in range(3):
        cluster.run()
    taken = list(results)
    assert [taken[0], taken[2], taken[5]] == [2, 6, 12]
    assert ["item 1 (of type" in str(taken[1]), "item 4 (of type" in str(taken[4])] == [True, True]
    cluster = Cluster()
    _, results = begin(cluster, (lock for _ in itertools.count()), keeps_errors=True)
    assert cluster.sizes == []
    assert len(take(results, 5000)) == 5000
    cluster = Cluster()
    _, results = begin(cluster, items, size=6)
    cluster.run()
    assert next(results) == 2
    with pytest.raises(PicklingError, match="item 1 "):
        next(results)


def test_items_that_cannot_be_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "find_unsendable", lambda *_: None)
    cluster = Cluster()
    _, results = begin(cluster, [threading.Lock(), 2], keeps_errors=True, size=2)
    assert ["cannot be sent" in text for text in take(results, 2)] == [True, True]
    assert list(results) == []


def test_chosen_sizes_are_kept() -> None:
    cluster = Cluster(cpus=1)
    _, results = begin(cluster, range(100), size=30)
    assert cluster.sizes == [30, 30, 30, 10]
    assert payload.load_call(cluster.open[0].items)[3] == (float("inf"), 0)
    cluster.run(item_s=10.0)
    assert take(results, 30) == list(range(0, 60, 2))


def test_starred_items() -> None:
    cluster = Cluster()
    given: Any = [(1, 2), [3, 4], iter((5, 6)), zip([7], [8], strict=True)]
    begin(cluster, given, is_starred=True, size=4)
    assert payload.load_items(cluster.open[0].items) == [(1, 2), (3, 4), (5, 6), ((7, 8),)]
    for bad, said in ((5, "5; cluster.map passes"), ("ab", "'ab'"), ({"a": 1}, r"\*\*item")):
        _, results = begin(cluster := Cluster(), [(1, 2), bad], is_starred=True, keeps_errors=True)
        cluster.fail(FINISHED, payload.dump([3]), "")
        assert next(results) == 3
        with pytest.raises(
            UsageError, match=rf"item 1 of starmap must be a tuple of arguments, not .*{said}"
        ):
            next(results)
