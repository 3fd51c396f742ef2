"""``cluster.map``: items that fail, and maps that end early."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dispy.errors import JobError, PicklingError, RemoteTraceback, UsageError

from .conftest import MakeCluster, RunProgram, StartNode


def double(value: Any) -> Any:
    return value * 2


class Unkind(ValueError):
    def __init__(self, item: int, why: str) -> None:
        super().__init__(why)
        self.item = item

    def __reduce__(self) -> Any:
        return Unkind, (self.item, str(self))


def fail_at_300(item: int) -> int:
    if item == 300:
        raise Unkind(item, "not this one")
    return item


@pytest.mark.usefixtures("a_node")
def test_an_item_that_fails_raises_its_own_error(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fail_at_300)
    results = cluster.map(range(10_000))
    assert list(itertools.islice(results, 300)) == list(range(300))
    with pytest.raises(Unkind, match="not this one") as caught:
        next(results)
    assert caught.value.item == 300
    assert caught.value.__notes__ == ["item 300 of the map of fail_at_300: 300"]
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "fail_at_300" in str(caught.value.__cause__)
    assert "chunk.py" not in str(caught.value.__cause__)
    assert list(cluster.map(range(5))) == list(range(5))


@pytest.mark.usefixtures("a_node")
def test_errors_that_cannot_be_rebuilt(make_cluster: MakeCluster) -> None:
    def fail(item: str) -> str:
        class Odd(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__(f"{one} and {two}")
                self.held = threading.Lock()

        if item == "bad":
            raise Odd(1, 2)
        return item

    results = make_cluster(fail).map(["good", "bad"])
    assert next(results) == "good"
    with pytest.raises(JobError, match=r"item 1 of the map failed[\s\S]*1 and 2") as caught:
        next(results)
    assert caught.value.__notes__ == ["item 1 of the map of fail: 'bad'"]


@pytest.mark.usefixtures("a_node")
def test_stop_iteration_does_not_end_a_map(make_cluster: MakeCluster) -> None:
    def stop(item: int) -> int:
        return next(iter([])) if item == 200 else item

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        list(make_cluster(stop).map(range(1000)))
    assert isinstance(caught.value.__cause__, StopIteration)
    assert "item 200 " in caught.value.__cause__.__notes__[0]


@pytest.mark.usefixtures("a_node")
def test_results_and_items_that_cannot_be_sent(make_cluster: MakeCluster) -> None:
    def lock_at_150(item: Any) -> Any:
        return threading.Lock() if item == 150 else item

    cluster = make_cluster(lock_at_150)
    results = cluster.map(range(1000))
    assert list(itertools.islice(results, 150)) == list(range(150))
    with pytest.raises(PicklingError, match="result") as caught:
        next(results)
    assert "item 150 " in caught.value.__notes__[0]
    results = cluster.map([1, 2, threading.Lock(), 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(PicklingError, match=r"item 2 \(of type _thread.lock\)"):
        next(results)


@pytest.mark.usefixtures("a_node")
def test_an_iterable_that_fails_does_so_in_its_place(make_cluster: MakeCluster) -> None:
    def numbers() -> Iterator[int]:
        yield from range(700)
        raise OSError("no more numbers")

    results = make_cluster(double).map(numbers())
    assert list(itertools.islice(results, 700)) == list(range(0, 1400, 2))
    with pytest.raises(OSError, match="no more numbers"):
        next(results)


def test_an_interrupt_while_items_are_read_is_raised_at_once(make_cluster: MakeCluster, gate: Path) -> None:
    """It is none of the items' errors, which wait for the results of those before them."""

    def until(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.005)

    def paths() -> Iterator[str]:
        yield str(gate)
        signal.raise_signal(signal.SIGINT)

    cluster = make_cluster(until)
    with pytest.raises(KeyboardInterrupt):
        cluster.map(paths())
    assert cluster.wait(5), cluster.status()
    assert not cluster._session.maps


@pytest.mark.usefixtures("a_node")
def test_an_interrupt_while_items_are_sent_leaves_none_behind(
    make_cluster: MakeCluster, gate: Path
) -> None:
    def until(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.005)

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "post":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    cluster = make_cluster(until)
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster.map([str(gate)])
    finally:
        sys.setprofile(None)
    assert cluster.wait(5), cluster.status()
    assert not cluster._session.maps


@pytest.mark.usefixtures("a_node")
def test_an_item_that_kills_its_worker(make_cluster: MakeCluster) -> None:
    def die(item: int) -> int:
        if item == 3:
            os._exit(7)
        return item

    results = make_cluster(die).map([0, 1, 2, 3])
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(JobError, match=r"item 3 of the map of die: .*7"):
        next(results)


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("way", ["close", "drop", "break"])
def test_leaving_cancels_the_rest(make_cluster: MakeCluster, gate: Path, way: str) -> None:
    def until_but_first(item: int, path: str) -> int:
        while item and not os.path.exists(path):
            time.sleep(0.005)
        return item

    cluster = make_cluster(until_but_first)
    numbers = itertools.count()
    if way == "break":
        for result in cluster.map(numbers, itertools.repeat(str(gate))):
            assert result == 0
            break
    else:
        results = cluster.map(numbers, itertools.repeat(str(gate)))
        if way == "close":
            assert next(results) == 0
            results.close()
        else:
            del results
            gc.collect()
    assert cluster.wait(5), cluster.status()
    assert not cluster._session.maps


@pytest.mark.usefixtures("a_node")
def test_timeout(make_cluster: MakeCluster, gate: Path) -> None:
    def wait_at_2(item: int, path: str) -> int:
        while item == 2 and not os.path.exists(path):
            time.sleep(0.005)
        return item

    cluster = make_cluster(wait_at_2)
    assert list(cluster.map([0, 1], [str(gate)] * 2)) == [0, 1]  # workers are there
    start = time.monotonic()
    results = cluster.map(range(5), [str(gate)] * 5, timeout=1.5)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(TimeoutError, match="item 2 "):
        next(results)
    assert 1.4 < time.monotonic() - start < 5
    assert cluster.wait(5)


def test_a_cluster_that_is_closed_meanwhile(make_cluster: MakeCluster, gate: Path) -> None:
    def until(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.005)

    cluster = make_cluster(until)
    results = cluster.map(itertools.repeat(str(gate)))
    faults: list[BaseException] = []

    def take() -> None:
        try:
            list(results)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    cluster.close(terminate=True)
    thread.join()
    assert [type(fault) for fault in faults] == [UsageError]
    assert "closed" in str(faults[0])
    with pytest.raises(UsageError):
        cluster.map([1])


def test_ctrl_c_ends_a_map(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    program = run_program(
        """
import dispy, itertools, time

def hang_but_at_1(item):
    time.sleep(0 if item == 1 else 60)

def numbers():
    for number in itertools.count():
        if is_sent:
            print("waits", flush=True)
        yield number

if __name__ == "__main__":
    is_sent = False
    cluster = dispy.JobCluster(hang_but_at_1)
    results = cluster.map(numbers())
    is_sent = True
    try:
        # Item 1 has ended when another one is read here, and item 0 never does.
        next(results)
    except KeyboardInterrupt:
        print("interrupted", cluster.wait(20), flush=True)
    cluster.shutdown()
"""
    )
    program.wait_line("^waits$")
    program.interrupt_group()
    program.wait_line("interrupted True")
    assert program.wait() == 0
