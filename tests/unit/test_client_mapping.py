"""How ``map`` cuts, learns and keeps order, with nodes that do what the test says."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from dispy import payload
from dispy.client.mapping import CHUNK_BYTES, ITEMS_MAX, WAITING_BYTES, Chunk, Mapping
from dispy.errors import JobError, UsageError
from dispy.protocol.node import CANCELLED, FINISHED, TERMINATED, Ended


class Cluster:
    """What a mapping needs of a cluster; runs chunks when it is told to."""

    name = "double"

    def __init__(self, cpus: int = 2) -> None:
        self.cpus = cpus
        self.open: list[Chunk] = []
        self.sizes: list[int] = []
        self.cancelled: list[int] = []
        self._computation = SimpleNamespace(method=None, known=payload.NOTHING)
        self._isolate = False
        self._is_closed = False
        self._is_ending = False

    def _cpus(self) -> int:
        return self.cpus

    def _submit_chunk(self, chunk: Chunk, data: bytes) -> None:
        chunk._number = len(self.sizes)
        self.open.append(chunk)
        self.sizes.append(chunk._count)

    def _end_map(self, ended: Mapping, numbers: list[int]) -> None:
        self.cancelled = numbers

    def run(self, which: int = 0, item_s: float = 1e-6, only: int | None = None) -> Chunk:
        """Have a chunk end; after ``only`` items, if given."""
        chunk = self.open.pop(which)
        items = payload.load_items(chunk._items)[:only]
        data = payload.dump([2 * item for item in items])
        reason = "" if only is None else str(only)
        chunk.end(Ended(chunk._number, 0, FINISHED, 1.0, 1.0 + item_s * len(items), data, reason=reason))
        return chunk

    def fail(self, status: int, data: bytes, reason: str) -> None:
        """Have the first chunk end without results."""
        self.open.pop(0).end(Ended(0, 0, status, 1.0, 2.0, data, reason=reason))


def begin(cluster: Cluster, *iterables: Any, until: float | None = None) -> tuple[Mapping, Any]:
    mapping = Mapping(cluster, iterables, until)  # type: ignore[arg-type]
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
        list(itertools.islice(results, cluster.run(item_s=1e-8)._count))
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
        seen += itertools.islice(results, cluster.run(item_s=1e-4)._count)
    count = cluster.open[0]._count
    assert count > 100
    seen += itertools.islice(results, cluster.run(item_s=0.2, only=3).results())
    pieces = [chunk for chunk in cluster.open if len(seen) <= chunk._first < len(seen) + count - 3]
    assert len(pieces) > 4
    assert sum(chunk._count for chunk in pieces) == count - 3
    for chunk in reversed(pieces):
        cluster.run(cluster.open.index(chunk), item_s=0.01)
    seen += itertools.islice(results, count - 3)
    assert seen == list(range(0, 2 * len(seen), 2))


def test_more_nodes_more_chunks() -> None:
    cluster = Cluster(cpus=0)
    mapping, results = begin(cluster, endless())
    assert len(cluster.open) == 6
    cluster.cpus = 8
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
    cluster._is_ending = True
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
