"""``cluster.map`` and ``starmap`` for sweeps: errors in their places, constants, sizes of chunks."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import signal
import sys
import threading
from typing import Any

import pytest

from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import JobError, PicklingError, RemoteTraceback, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import wait_for
from .schedulers import IS_SHARED


def one_in_ten_fails(item: int) -> int:
    if item % 10 == 7:
        raise ValueError(f"not {item}")
    return item


def kinds(results: Any) -> list[Any]:
    """Results, and the types of exceptions among them."""
    return [type(each) if isinstance(each, BaseException) else each for each in results]


def test_errors_stay_in_their_places(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(one_in_ten_fails)
    results = list(cluster.map(range(5000), return_exceptions=True))
    assert kinds(results) == [ValueError if n % 10 == 7 else n for n in range(5000)]
    error = results[4997]
    assert (str(error), error.__notes__) == ("not 4997", ["item 4997 of the map of one_in_ten_fails: 4997"])
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in one_in_ten_fails" in str(error.__cause__)
    assert "worker/map_chunk.py" not in str(error.__cause__)
    assert list(itertools.islice(cluster.map(itertools.count(), return_exceptions=True), 3)) == [0, 1, 2]


@pytest.mark.usefixtures("a_node")
def test_whatever_an_item_does(make_cluster: MakeCluster) -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")
            self.held = threading.Lock()

    def do(item: str) -> Any:
        match item:
            case "exit":
                sys.exit("bad input")
            case "interrupt":
                raise KeyboardInterrupt
            case "stop":
                raise StopIteration
            case "odd":
                raise Odd(1, 2)
            case "lock":
                return threading.Lock()
            case "module":
                __import__("there_is_none")
        return item

    words = ["a", "exit", "b", "interrupt", "c", "stop", "d", "odd", "e", "lock", "f", "module", "g"]
    cluster = make_cluster(do)
    for size in (None, 1, 5, 100):
        results = list(cluster.map(words, return_exceptions=True, chunksize=size))
        assert kinds(results) == [
            "a", JobError, "b", JobError, "c", StopIteration, "d", JobError, "e", PicklingError, "f",
            ModuleNotFoundError, "g",
        ]  # fmt: skip
        assert "SystemExit: bad input" in str(results[1])
        assert "Odd: 1 and 2" in str(results[7])
        assert "result (of type _thread.lock)" in str(results[9])
        assert "list it in depends" in results[11].__notes__[0]
        assert results[11].__notes__[-1] == "item 11 of the map of do: 'module'"
    with pytest.raises(JobError, match=r"item 0 of the map failed: SystemExit: bad input"):
        list(cluster.map(["exit", "a"]))


@pytest.mark.usefixtures("a_node")
def test_an_item_that_comes_back_from_a_fork_is_not_two(make_cluster: MakeCluster, tmp_path: Any) -> None:
    """The child ends; it neither runs the other items nor keeps an error."""

    def fork(item: int, path: str) -> int:
        with open(path, "a") as file:
            file.write(f"{item}\n")
        pid = os.fork()
        if pid == 0:
            if item % 2:
                raise ValueError("of the child")
            return -1
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    cluster = make_cluster(fork)
    for keep in (True, False):
        path = tmp_path / str(keep)
        results = list(cluster.map(range(6), [str(path)] * 6, return_exceptions=keep, chunksize=6))
        assert results == [0, 1, 0, 1, 0, 1]
        assert sorted(path.read_text().split()) == [str(n) for n in range(6)]


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_items_whose_process_dies(
    make_cluster: MakeCluster, start_node: StartNode, is_reentrant: bool
) -> None:
    start_node("--cpus", "2")

    def die(item: int) -> int:
        if item in (13, 41):
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    cluster = make_cluster(die, reentrant=is_reentrant)
    results = list(cluster.map(range(60), return_exceptions=True, chunksize=12))
    assert len(results) == 60
    dead = [n for n, each in enumerate(results) if isinstance(each, JobError)]
    assert [each for each in results if not isinstance(each, JobError)] == [
        n for n in range(60) if n not in dead
    ]
    if is_reentrant:
        assert dead == [13, 41]
    else:
        assert {13, 41} <= set(dead)
        assert len(dead) <= 24
    assert "SIGKILL" in str(results[13])


@pytest.mark.usefixtures("a_node")
def test_items_that_cannot_be_sent_or_rebuilt(make_cluster: MakeCluster) -> None:
    class There:
        def __init__(self, number: int) -> None:
            self.number = number

        def __reduce__(self) -> Any:
            return int, (str(self.number) if self.number != 6 else "no number",)

    cluster = make_cluster(abs)
    items = [There(n) if n % 2 == 0 else threading.Lock() if n == 3 else n for n in range(10)]
    results = list(cluster.map(items, return_exceptions=True, chunksize=10))
    assert kinds(results[:4]) == [0, 1, 2, PicklingError]
    assert (
        kinds(results[4:]) == [JobError] * 6
    )  # it cannot be rebuilt here either, to part it from the others
    assert "cannot be rebuilt on the node" in str(results[6])


@pytest.mark.usefixtures("a_node")
def test_errors_of_the_iterable_and_timeouts_are_raised(make_cluster: MakeCluster) -> None:
    def numbers() -> Any:
        yield from range(20)
        raise OSError("no more numbers")

    cluster = make_cluster(one_in_ten_fails)
    results = cluster.map(numbers(), return_exceptions=True)
    assert kinds(itertools.islice(results, 20)) == [ValueError if n % 10 == 7 else n for n in range(20)]
    with pytest.raises(OSError, match="no more numbers"):
        next(results)
    results = cluster.map(numbers(), return_exceptions=True)
    cluster.close(terminate=True)
    with pytest.raises(UsageError, match="closed"):
        list(results)


def add(left: int, right: int, third: int = 0, *, scale: int = 1) -> int:
    return (left + right + third) * scale


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by

    def add(self, left: int, right: int, third: int = 0) -> int:
        return self.by * (left + right + third)

    @classmethod
    def of(cls, left: int, right: int) -> int:
        return left - right


@pytest.mark.usefixtures("a_node")
def test_starmap(make_cluster: MakeCluster) -> None:
    grid = list(itertools.product(range(30), range(4)))
    cluster = make_cluster(add)
    assert list(cluster.starmap(grid)) == [left + right for left, right in grid]
    assert list(cluster.starmap([(1, 2), [1, 2, 3]], constants={"scale": 2})) == [6, 12]
    assert list(cluster.starmap(iter([]))) == []
    endless = zip(itertools.count(), itertools.count())
    assert list(itertools.islice(cluster.starmap(endless), 100)) == list(range(0, 200, 2))
    results = list(cluster.starmap([(1, 2), (1,), (1, "x"), (3, 4)], return_exceptions=True))
    assert kinds(results) == [3, TypeError, TypeError, 7]
    assert list(make_cluster(Scale(3).add).starmap(grid)) == [3 * (left + right) for left, right in grid]
    assert list(make_cluster(Scale.of).starmap([(5, 2)])) == [3]
    assert list(make_cluster("sh").starmap([("-c", "exit 3"), ("-c", "exit 4")])) == [3, 4]


def test_constants(make_cluster: MakeCluster, start_node: StartNode) -> None:
    numpy = pytest.importorskip("numpy")
    node = start_node("--cpus", "2")
    cluster = make_cluster(add)
    assert list(cluster.map(range(50), constants={"right": 5, "scale": 2})) == [
        2 * (n + 5) for n in range(50)
    ]
    assert (
        list(cluster.map(range(3), constants={})) == list(cluster.map(range(3), constants=None))
        if 0
        else True
    )

    def look(item: int, table: Any, more: Any) -> Any:
        return table[item], id(table), more

    table = numpy.arange(1_000_000)
    kept = [0, cluster.put("there")]
    looking = make_cluster(look)
    results = list(looking.map(range(2000), constants={"table": table, "more": kept[:1]}))
    assert [int(each[0]) for each in results] == list(range(2000))
    assert len({each[1] for each in results}) <= 2 * node.cpus if hasattr(node, "cpus") else True
    assert list(cluster.map([1], constants={"right": cluster.put(7)})) == [8]
    assert list(make_cluster(Scale(2).add).map([1], constants={"right": 2, "third": 3})) == [12]
    partial = make_cluster(functools.partial(add, 1, scale=10))
    assert list(partial.map(range(3))) == [10, 20, 30]
    assert list(make_cluster(operator.add).map(range(3), range(3))) == [0, 2, 4]


@pytest.mark.usefixtures("a_node")
def test_constants_are_let_go(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(add)
    for _ in range(3):
        assert list(cluster.map([1, 2], constants={"right": 5})) == [6, 7]
    assert cluster.wait(5)
    assert not cluster._session.held
    cluster.submit(1, 2)()
    if IS_SHARED:
        wait_for(lambda: cluster._session.objects, lambda left: not left, what="nodes are told")
        return
    objects = cluster._session.engine.call(
        lambda: len(
            cluster._session.backend.service.state.computations[EMBEDDED, cluster._session.number].objects
        )
    )
    assert objects == 0


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.map([1], seed=3), r"map has no option 'seed'; .* constants=\{'seed': 3\}"),
        (lambda c: c.starmap([(1, 2)], seed=3), r"starmap has no option 'seed'; .* constants=\{'seed': 3\}"),
        (lambda c: c.map([1], return_exception=True), "did you mean return_exceptions"),
        (lambda c: c.map([1], chunk_size=3), "did you mean chunksize"),
        (lambda c: c.map([1], chunk=3), "did you mean chunksize"),
        (lambda c: c.map(add, [1]), r"argument 1 of map must be .*; the function is the cluster's"),
        (lambda c: c.starmap(5), r"argument of starmap must be an iterable, not 5; cluster.starmap\(\[\(1, 2\)"),
        (lambda c: c.map([1], chunksize=0), "chunksize must be a number of items from 1 on, not 0"),
        (lambda c: c.map([1], chunksize=True), "chunksize must be .* not True"),
        (lambda c: c.map([1], chunksize=2.5), "chunksize must be .* not 2.5"),
        (lambda c: c.map([1], return_exceptions=1), "return_exceptions must be True or False, not 1"),
        (lambda c: c.map([1], constants=5), "constants must be a dictionary of arguments by name, not 5"),
        (lambda c: c.map([1], constants={1: 2}), "constants must be a dictionary"),
        (lambda c: c.map([1], constants={"colour": 2}), r"constants do not fit add\(left.*'colour'"),
        (lambda c: c.map([1], constants={"left": 2}), "constants do not fit .*multiple values.*'left'"),
        (lambda c: c.map([1], timeout="x"), "timeout must be a number of seconds"),
    ],
)  # fmt: skip
def test_misuse(make_cluster: MakeCluster, call: Any, said: str) -> None:
    cluster = make_cluster(add)
    with pytest.raises(UsageError, match=said):
        call(cluster)
    assert not cluster._session.maps


@pytest.mark.usefixtures("a_node")
def test_constants_that_cannot_be_sent(make_cluster: MakeCluster) -> None:
    with pytest.raises(PicklingError, match=r"constants of a map cannot be sent: constant 'right' .*lock"):
        make_cluster(add).map([1], constants={"right": threading.Lock()})
    with pytest.raises(UsageError, match="takes texts"):
        make_cluster("sh").map(["-c"], constants={"x": 1})


@pytest.mark.usefixtures("a_node")
def test_sizes_of_chunks(make_cluster: MakeCluster) -> None:
    def pid(item: int) -> int:
        return os.getpid()

    pids = list(make_cluster(pid, isolate=True).map(range(20), chunksize=5))
    assert [len(set(pids[n : n + 5])) for n in range(0, 20, 5)] == [1] * 4
    assert len(set(pids)) == 4
    numpy = pytest.importorskip("numpy")
    assert list(make_cluster(abs).map(range(5), chunksize=numpy.int64(2))) == [0, 1, 2, 3, 4]


def test_ctrl_c_ends_a_map_that_keeps_errors(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    program = run_program(
        """
import dispy, time

def hang(item):
    if item:
        print("runs", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    cluster = dispy.JobCluster(hang, job_output=lambda *_: None)
    results = cluster.map([0, 1, 2], return_exceptions=True, chunksize=3)
    print("waits", flush=True)
    try:
        print(list(results))
    except KeyboardInterrupt:
        print("interrupted", cluster.wait(20), flush=True)
    cluster.shutdown()
"""
    )
    program.wait_line("^waits$")
    program.interrupt_group()
    program.wait_line("interrupted True")
    assert program.wait() == 0
