"""``cluster.map``: order, laziness, chunks, nodes."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispy.errors import UsageError
from dispy.protocol.limits import CHUNK_NUMBERS_FROM

from .conftest import MakeCluster, StartNode
from .helpers import wait_for


def double(value: Any) -> Any:
    return value * 2


def add(left: int, right: int, third: int = 0) -> tuple[int, int, int]:
    return left, right, third


class Counted:
    """An endless iterable that knows how far it was read."""

    def __init__(self, end: int | None = None) -> None:
        self.read = 0
        self.end = end

    def __iter__(self) -> Iterator[int]:
        while self.end is None or self.read < self.end:
            self.read += 1
            yield self.read - 1


def test_results_in_order(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(double)
    assert list(cluster.map(range(100_000))) == list(range(0, 200_000, 2))
    assert list(cluster.map([])) == []
    assert list(cluster.map(iter("ab"))) == ["aa", "bb"]
    assert list(cluster.map(Counted(5000))) == list(range(0, 10_000, 2))
    status = cluster.status()
    assert (status.jobs_pending, sum(node.jobs_done for node in status.nodes)) == (0, 105_002)
    assert cluster.submit(4)() == 8


@pytest.mark.usefixtures("a_node")
def test_several_iterables_end_with_the_shortest(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(add)
    expected = [(n, -n, n % 2) for n in range(1000)]
    assert (
        list(cluster.map(range(1000), (-n for n in itertools.count()), itertools.cycle([0, 1]))) == expected
    )
    assert list(cluster.map(range(3), "abcd")) == [(0, "a", 0), (1, "b", 0), (2, "c", 0)]
    with pytest.raises(UsageError, match="at least one iterable"):
        cluster.map()
    with pytest.raises(UsageError, match="argument 1 of map must be an iterable, not 5"):
        cluster.map(5)
    assert not cluster._session.maps


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by

    def times(self, value: int) -> int:
        return self.by * value


@pytest.mark.usefixtures("a_node")
def test_bound_methods(make_cluster: MakeCluster) -> None:
    assert list(make_cluster(Scale(3).times).map(range(500))) == [3 * n for n in range(500)]


def test_endless_iterables_are_read_ahead_within_bounds(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    numbers = Counted()
    results = make_cluster(double).map(numbers)
    assert 0 < numbers.read < 100
    assert [next(results) for _ in range(50_000)] == list(range(0, 100_000, 2))
    assert numbers.read < 50_000 + 40 * (1 << 15)
    results.close()
    assert list(results) == []


def test_waiting_results_stop_the_reading(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    """The first item takes long, the others are large: they do not pile up behind it."""
    start_node("--cpus", "2")

    def large(item: int, path: str) -> bytes:
        while item == 0 and not os.path.exists(path):
            time.sleep(0.005)
        return b"x" * 100_000

    numbers = Counted(1000)
    cluster = make_cluster(large)
    results = cluster.map(numbers, itertools.repeat(str(gate)))
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.extend(len(result) for result in results))
    thread.start()
    wait_for(lambda: numbers.read, lambda read: read > 40, what="reading goes on behind a slow item")
    wait_for(lambda: cluster.status().jobs_pending, lambda count: count == 1, what="all but that one ended")
    assert numbers.read < 150
    gate.touch()
    thread.join()
    assert taken == [100_000] * 1000


def test_long_items_are_spread_one_by_one(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")

    def meet(mine: str, other: str) -> bool:
        """Ends only if the other one runs at the same time."""
        open(mine, "w").close()
        end = time.monotonic() + 5
        while not os.path.exists(other) and time.monotonic() < end:
            time.sleep(0.002)
        return os.path.exists(other)

    cluster = make_cluster(meet)
    base = os.environ["XDG_RUNTIME_DIR"]
    names = [f"{base}/{n}" for n in range(6)]
    others = [names[n ^ 1] for n in range(6)]
    try:
        assert list(cluster.map(names, others)) == [True] * 6
    finally:
        for name in names:
            os.unlink(name)


def test_items_that_grow_long_are_spread_anew(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")

    def sleep_or_not(item: int) -> int:
        if item >= 20_000:
            time.sleep(0.05)
        return os.getpid()

    cluster = make_cluster(sleep_or_not)
    start = time.monotonic()
    pids = list(cluster.map(Counted(20_040)))
    assert len(pids) == 20_040
    assert len(set(pids[20_000:])) == 2
    assert time.monotonic() - start < 4


def test_waits_for_nodes(make_cluster: MakeCluster, start_node: StartNode) -> None:
    cluster = make_cluster(double, nodes=["127.0.0.1"])
    results = cluster.map(Counted(2000))
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(results))
    thread.start()
    start_node("--cpus", "2")
    thread.join()
    assert seen == list(range(0, 4000, 2))


def test_nodes_come_and_go(make_cluster: MakeCluster, start_node: StartNode) -> None:
    def slowly(item: int) -> int:
        time.sleep(0.002)
        return item

    first = start_node("--cpus", "1")
    cluster = make_cluster(slowly, reentrant=True)
    results = cluster.map(range(1500))
    seen = [next(results) for _ in range(200)]
    start_node("--cpus", "2")
    seen += [next(results) for _ in range(200)]
    first.stop()
    seen += list(results)
    assert seen == list(range(1500))


@pytest.mark.usefixtures("a_node")
def test_output_is_written_in_order(make_cluster: MakeCluster, capsys: Any) -> None:
    def say(item: int) -> int:
        print("item", item)
        return item

    assert list(make_cluster(say).map(range(50))) == list(range(50))
    assert capsys.readouterr().out == "".join(f"item {n}\n" for n in range(50))


@pytest.mark.usefixtures("a_node")
def test_no_callbacks_and_no_jobs(make_cluster: MakeCluster, gate: Path) -> None:
    def until(path: str) -> Any:
        while not os.path.exists(path):
            time.sleep(0.005)
        return dispy_job_id

    told: list[Any] = []
    cluster = make_cluster(
        until, job_status=told.append, cluster_status=lambda *event: told.append(event[2])
    )
    results = cluster.map([str(gate)] * 3)
    job = cluster.submit(str(gate))
    wait_for(lambda: cluster.status().jobs_pending, lambda count: count == 4, what="all are open")
    gate.touch()
    assert list(results) == [None] * 3
    assert job() == job.id < CHUNK_NUMBERS_FROM
    cluster.shutdown()
    assert {item for item in told if item is not None} == {job}


@pytest.mark.usefixtures("a_node")
def test_isolated_items_have_a_process_each(make_cluster: MakeCluster) -> None:
    def pid(item: int) -> int:
        return os.getpid()

    assert len(set(make_cluster(pid, isolate=True).map(range(20)))) == 20


@pytest.mark.usefixtures("a_node")
def test_own_classes_and_large_items(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)
    assert list(cluster.map([b"x" * 200_000] * 20)) == [b"x" * 400_000] * 20
    results = list(make_cluster(lambda scale: Scale(scale.by + 1)).map(Scale(n) for n in range(300)))
    assert [result.by for result in results] == list(range(1, 301))
    assert {type(result) for result in results} == {Scale}


@pytest.mark.usefixtures("a_node")
def test_two_maps_and_jobs_at_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)
    for left, right in zip(cluster.map(range(3000)), cluster.map(Counted()), strict=False):
        assert left == right
    jobs = [cluster.submit(result) for result in cluster.map(range(100))]
    assert [job() for job in jobs] == [4 * n for n in range(100)]
