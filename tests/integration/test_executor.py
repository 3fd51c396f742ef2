"""``dispy.Executor``: what a pool does, what differs, how functions travel. See also ``test_executor_standard``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.client.session import objects
from dispy.errors import UsageError

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, wait_for
from .schedulers import Schedulers

MakeExecutor = Callable[..., dispy.Executor]


@pytest.fixture
def make_executor(a_node: Node) -> Iterator[MakeExecutor]:
    """Makes executors that are shut down after the test."""
    made: list[dispy.Executor] = []

    def make(*args: Any, **kwargs: Any) -> dispy.Executor:
        made.append(dispy.Executor(*args, **kwargs))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)


FACTOR = 1
COUNT = 0


def scaled(x: int) -> int:
    return x * FACTOR


def count() -> int:
    global COUNT
    COUNT += 1
    return COUNT


def counted() -> int:
    return COUNT


def with_default(x: int = 1) -> int:
    return x


class Settings:
    factor = 1


def by_class(x: int) -> int:
    return x * Settings.factor


# Functions: as a cluster sends its code.


def test_what_has_changed_is_seen_by_the_next_submit(
    make_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A global, a default, a closure, an attribute of a class; also after the function was used many times."""
    executor = make_executor()
    step = 1

    def closed(x: int) -> int:
        return x * step

    functions = (scaled, closed, by_class)
    for _ in range(3):
        assert [executor.submit(function, 7).result() for function in functions] == [7, 7, 7]
        assert executor.submit(with_default).result() == 1
    monkeypatch.setitem(globals(), "FACTOR", 10)
    monkeypatch.setattr(Settings, "factor", 10)
    monkeypatch.setattr(with_default, "__defaults__", (10,))
    step = 10
    for _ in range(3):
        assert [executor.submit(function, 7).result() for function in functions] == [70, 70, 70]
        assert executor.submit(with_default).result() == 10
    assert list(executor.map(scaled, [1, 2])) == [10, 20]


def test_a_value_of_before_is_there_for_jobs_of_before(make_executor: MakeExecutor) -> None:
    """Calls of one function with two values of its global, in turns: each has the one it was submitted with."""
    executor = make_executor()
    expected = []
    calls = []
    for number in range(20):
        globals()["FACTOR"] = 1 + number % 2
        calls.append(executor.submit(scaled, 5))
        expected.append(5 * (1 + number % 2))
    globals()["FACTOR"] = 1
    assert [call.result() for call in calls] == expected


def test_functions_of_one_script_are_one_module_in_the_worker(make_executor: MakeExecutor) -> None:
    """What one function does to a global, another one finds; nobody has changed the global in the program."""
    executor = make_executor(1)
    assert [executor.submit(count).result() for _ in range(3)] == [1, 2, 3]
    assert executor.submit(counted).result() == 3
    assert executor.submit(count).result() == 4


def test_lambdas_cost_no_broadcast_each(
    make_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand different ones: nothing is put, and nothing of them is kept."""
    puts = []
    monkeypatch.setattr(objects, "put", lambda *args: puts.append(args))
    executor = make_executor()
    calls = [executor.submit(lambda x=number: x + 1) for number in range(10_000)]
    assert [call.result() for call in calls] == list(range(1, 10_001))
    assert puts == []


def test_a_large_function_is_put_once(make_executor: MakeExecutor) -> None:
    """One that holds much is sent to each node once, when it is used again, and is not in each call."""
    executor = make_executor()
    table = os.urandom(10_000)

    def look(place: int) -> int:
        return table[place]

    for place in range(5):
        assert executor.submit(look, place).result() == table[place]
    assert list(executor.map(look, range(1000))) == list(table[:1000])


def test_any_callable(make_executor: MakeExecutor) -> None:
    """Installed functions, methods with their objects as they are, classes, partials."""
    from functools import partial

    executor = make_executor()
    words = ["a"]
    first = executor.submit(words.__contains__, "b")
    words.append("b")
    assert (first.result(), executor.submit(words.__contains__, "b").result()) == (False, True)
    assert executor.submit(pow, 2, 8).result() == 256
    assert executor.submit(int, "12").result() == 12
    assert executor.submit(partial(pow, 2), 3).result() == 8
    assert list(executor.map(partial(pow, 2), range(4))) == [1, 2, 4, 8]
    assert executor.submit(dict, job_id=1, fn=2, self=3).result() == {"job_id": 1, "fn": 2, "self": 3}


# What differs from the pool.


def test_a_process_that_dies_fails_its_own_call_alone(make_executor: MakeExecutor) -> None:
    executor = make_executor()
    others = [executor.submit(scaled, number) for number in range(20)]
    died = executor.submit(os._exit, 7)
    with pytest.raises(dispy.WorkerDied, match="exit code 7"):
        died.result()
    assert isinstance(died.exception(), BrokenProcessPool)
    assert [call.result() for call in others] == list(range(20))
    assert executor.submit(scaled, 3).result() == 3


def test_kill_ends_what_runs(make_executor: MakeExecutor) -> None:
    executor = make_executor(1)
    running = executor.submit(time.sleep, 60)
    wait_for(running.running, what="it runs")
    assert not running.cancel()
    assert not running.done()
    assert running.kill()
    with pytest.raises(futures.CancelledError):
        running.result(20)
    assert running.cancelled()
    assert not running.kill()


def test_an_exit_of_an_item(make_executor: MakeExecutor) -> None:
    results = make_executor().map(sys.exit, [3])
    with pytest.raises(SystemExit) as caught:
        next(results)
    assert caught.value.code == 3


# As the pool.


def test_cancel(make_executor: MakeExecutor) -> None:
    """What has not begun is cancelled, and all that wait are told once."""
    executor = make_executor(1)
    running = executor.submit(time.sleep, 60)
    waiting = [executor.submit(scaled, number) for number in range(10)]
    told: list[Any] = []
    waiting[-1].add_done_callback(told.append)
    assert waiting[-1].cancel()
    assert waiting[-1].cancel()
    assert told == [waiting[-1]]
    done, _ = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
    assert done == {waiting[-1]}
    with pytest.raises(futures.CancelledError):
        waiting[-1].result()
    running.kill()
    assert [call.result() for call in waiting[:-1]] == list(range(9))
    assert told == [waiting[-1]]


def test_a_map_goes_on_by_itself(make_executor: MakeExecutor, tmp_path: Path) -> None:
    """All calls are made although nobody looks at the iterator, and shutdown waits for them."""
    directory = tmp_path / "touched"
    directory.mkdir()
    executor = make_executor()
    executor.map(Path.touch, [directory / str(number) for number in range(500)])
    executor.shutdown()
    assert len(list(directory.iterdir())) == 500


def test_a_map_with_a_buffer_reads_no_further(make_executor: MakeExecutor) -> None:
    read = []

    def numbers() -> Iterator[int]:
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    results = make_executor().map(scaled, numbers(), buffersize=4)
    assert read == [0, 1, 2, 3]
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(read) <= 7
    with pytest.raises(ValueError, match="buffersize"):
        make_executor().map(scaled, [1], buffersize=0)


def test_a_broken_initializer_breaks_the_executor(
    make_executor: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make_executor(initializer=int, initargs=("no number",))
    calls = [executor.submit(scaled, 1) for _ in range(3)]
    for call in calls:
        with pytest.raises(BrokenProcessPool, match="no number"):
            call.result()
    with pytest.raises(BrokenProcessPool):
        executor.submit(scaled, 1)
    assert [record.name for record in caplog.records if record.levelname == "CRITICAL"] == [
        "concurrent.futures"
    ]


def test_in_a_coroutine(make_executor: MakeExecutor) -> None:
    executor = make_executor()

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(executor, scaled, n) for n in range(50)])

    assert asyncio.run(main()) == list(range(50))


def test_a_dropped_executor_lets_go_of_its_nodes(a_node: Node) -> None:
    executor = dispy.Executor()
    cluster = executor._cluster
    assert executor.submit(pow, 2, 2).result() == 4
    del executor
    wait_for(lambda: cluster._session.is_closed, what="the cluster is closed")


def test_a_cluster_of_the_program(a_node: Node) -> None:
    import operator

    with dispy.JobCluster(operator.call) as cluster:
        with dispy.Executor(cluster=cluster) as executor:
            assert executor.submit(scaled, 2).result() == 2
        with dispy.Executor(cluster=cluster) as executor:
            assert executor.submit(scaled, 3).result() == 3
        with pytest.raises(UsageError, match="give them to the cluster"):
            dispy.Executor(2, cluster=cluster)
    with (
        dispy.JobCluster(scaled) as other,
        pytest.raises(UsageError, match=r"JobCluster\(operator\.call\)"),
    ):
        dispy.Executor(cluster=other)


def test_max_workers_bounds_all_nodes_together(start_node: StartNode) -> None:
    for _ in range(2):
        start_node("--cpus", "2")
    with dispy.Executor(3) as executor:
        session = executor._session
        wait_for(lambda: session.cpus(), lambda cpus: cpus == 3, what="three CPUs are used")
        assert executor._max_workers == 3
        assert list(executor.map(scaled, range(100))) == list(range(100))
        assert session.cpus() == 3


def test_the_end_of_the_program_waits(a_node: Node, place: Place, run_program: RunProgram) -> None:
    """What three tests of the interpreter do with a script of their own."""
    program = run_program(
        """
import atexit, os, dispy

def submit_late():
    try:
        executor.submit(id, None)
    except RuntimeError as error:
        print(error)

atexit.register(submit_late)

executor = dispy.Executor()
here = os.getcwd()

def note(number):
    open(f"{here}/written-{number}", "w").close()

executor.submit(note, 0)
executor.map(note, range(1, 200))
executor.shutdown(wait=False)
other = dispy.Executor()
other.submit(note, 200)
""",
    )
    code = program.wait(20)
    assert (code, program.stderr) == (0, "")
    assert "cannot schedule new futures after" in program.stdout
    written = list(place.root.glob("written-*"))
    assert len(written) == 201


# Nodes that die, under both kinds of cluster.


@pytest.mark.parametrize("is_shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_node_is_killed(
    is_shared: bool, reentrant: bool, start_node: StartNode, schedulers: Schedulers, place: Place
) -> None:
    """In the middle of calls: those that ran there run again, or fail, as ``reentrant`` says; the others go on."""
    nodes = [start_node("--cpus", "1"), start_node("--cpus", "1")]
    place.is_swept = True
    options: dict[str, Any] = {"reentrant": reentrant}
    if is_shared:
        scheduler = schedulers.start()
        options |= {"scheduler_host": scheduler.host, "scheduler_port": scheduler.port}
    with dispy.Executor(**options) as executor:
        wait_for(lambda: executor._session.cpus(), lambda cpus: cpus == 2, what="both nodes are used")
        calls = [executor.submit(time.sleep, 0.4) for _ in range(6)]
        wait_for(lambda: sum(call.running() for call in calls), lambda n: n >= 2, what="two calls run")
        os.kill(nodes[0].pid, signal.SIGKILL)
        ends = [call.exception(25) for call in calls]
        assert executor.submit(scaled, 4).result(25) == 4
    if reentrant:
        assert ends == [None] * 6
    else:
        assert [type(end) for end in ends if end is not None] == [dispy.WorkerDied]
