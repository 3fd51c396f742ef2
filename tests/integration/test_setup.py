"""``setup`` and ``cleanup``: data that jobs find in memory, nodes that refuse, and what is there afterwards."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy
from dispy import NodeAllocate
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import wait_for
from .jobs import name_and

TERMINATED = dispy.DispyJob.Terminated

SIZE = 64 << 20


def load(scale: int = 1, note: str = "") -> int:
    """A setup: data, in the working directory."""
    global data, marks
    data = [scale * n for n in range(10)]
    marks = [os.getcwd(), os.path.exists("left"), os.getpid()]
    with open("left", "w") as file:
        file.write(note)
    return 0


def look(index: int) -> tuple[int, list[Any], str, int]:
    with open("left") as file:
        return data[index], marks, file.read(), os.getppid()


def test_jobs_find_what_setup_has_set(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """It ran once, in their working directory, in the process that theirs were forked from."""
    start_node("--cpus", "2")
    cluster = make_cluster(look, setup=load)
    found = [cluster.submit(n)() for n in range(10)]
    assert [value for value, *_ in found] == list(range(10))
    (first,) = {tuple(marks) for _, marks, _, _ in found}
    assert first[1] is False
    assert {host for *_, host in found} == {first[2]}


@pytest.mark.parametrize("way", ["allocation", "dictionary", "partial"])
def test_setup_has_the_arguments_of_its_node(
    make_cluster: MakeCluster, start_node: StartNode, way: str
) -> None:
    node = start_node("--cpus", "1")
    setup: Any = load
    nodes: Any = [("127.0.0.1", node.port)]
    if way == "allocation":
        nodes = [NodeAllocate("127.0.0.1", node.port, setup_args=(3, "noted"))]
    elif way == "dictionary":
        nodes = [{"host": "127.0.0.1", "port": node.port, "setup_args": (3, "noted")}]
    else:
        setup = functools.partial(load, 3, note="noted")
    cluster = make_cluster(look, setup=setup, nodes=nodes)
    value, _, noted, _ = cluster.submit(2)()
    assert (value, noted) == (6, "noted")


def several(first: str, second: str) -> None:
    global told
    told = first + second


def tell() -> tuple[str, str]:
    return told, dispy_node_name


def test_each_node_has_its_own(make_cluster: MakeCluster, start_node: StartNode) -> None:
    nodes = [start_node("--cpus", "1", "--name", name) for name in ("a", "b")]
    allocations = [
        NodeAllocate("127.0.0.1", node.port, setup_args=("for ", name))
        for node, name in zip(nodes, "ab", strict=True)
    ]
    cluster = make_cluster(tell, setup=several, nodes=allocations)
    wait_for(lambda: len(cluster.status().nodes) == 2, what="both nodes are used")
    for node in cluster.status().nodes:
        job = cluster.submit_node(node)
        assert job is not None
        assert job() == (f"for {node.name}", node.name)


def fail_by_error() -> None:
    print("as far as here")
    raise LookupError("no data here")


def fail_by_value() -> str:
    return "ready"


def fail_by_false() -> float:
    return 0.5


def fail_by_exit() -> None:
    raise SystemExit(3)


def fail_by_death() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (fail_by_error, "LookupError: no data here"),
        (fail_by_error, "as far as here"),
        (fail_by_error, "Traceback"),
        (fail_by_value, "it returned 'ready', and not 0, 1, 2 or None"),
        (fail_by_false, "it returned 0.5"),
        (fail_by_exit, "SystemExit: 3"),
        (fail_by_death, "SIGKILL"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_node_where_it_fails_is_not_used_and_jobs_end_with_the_reason(
    make_cluster: MakeCluster, start_node: StartNode, setup: Any, reason: str
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(name_and, setup=setup)
    job = cluster.submit(1)
    assert job.wait(20), cluster.why(job)
    assert job.status == TERMINATED
    assert reason in job.exception
    assert node.name in job.exception or setup is fail_by_death
    assert make_cluster(name_and).submit(2)() == (node.name, 2)


@pytest.mark.parametrize("value", [0, 1, 2, None, True, False])
def test_what_stands_for_success(make_cluster: MakeCluster, start_node: StartNode, value: Any) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(name_and, setup=functools.partial(functools.partial, int, "0"))
    assert cluster.submit(1).wait(20)
    setup = functools.partial(dict.get, {0: value}, 0)
    assert make_cluster(name_and, setup=setup).submit(1)()[1] == 1


def write(path: str, text: str = "cleaned") -> None:
    """A cleanup."""
    with open(path, "a") as file:
        file.write(f"{text} {os.path.basename(os.getcwd())} {os.path.exists('by a job')};")


def touch() -> str:
    open("by a job", "w").close()
    return os.getcwd()


@pytest.mark.parametrize("way", ["shut down", "closed", "node stopped"])
def test_cleanup_is_called_once_after_all_jobs(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path, way: str
) -> None:
    """With the arguments of setup, in the working directory, which goes afterwards."""
    noted = tmp_path / "noted"
    node = start_node("--cpus", "1")
    cluster = make_cluster(
        touch, cleanup=write, nodes=[NodeAllocate("127.0.0.1", node.port, setup_args=(str(noted),))]
    )
    directory = cluster.submit()()
    if way == "shut down":
        cluster.shutdown()
    elif way == "closed":
        cluster.close()
    else:
        node.stop()
    wait_for(noted.exists, what="cleanup is called")
    wait_for(lambda: not os.path.exists(directory), what="the directory is gone")
    assert noted.read_text() == f"cleaned {os.path.basename(directory)} True;"


def fail_to_clean() -> None:
    raise LookupError("nothing to clean")


def test_a_cleanup_that_fails_is_told_at_the_node(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(name_and, cleanup=fail_to_clean)
    assert cluster.submit(1)()
    cluster.close()
    node.wait_line("cleanup of name_and failed: LookupError: nothing to clean", stream="stderr")
    assert make_cluster(name_and).submit(2)() == (node.name, 2)


def load_much() -> None:
    global much
    import numpy

    much = numpy.ones(SIZE, dtype="uint8")


def share() -> tuple[int, int, int]:
    """Sum, and what this process has of its own (bytes)."""
    total = int(much.sum())
    own = 0
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith(("Private_Dirty", "Private_Clean")):
                own += int(line.split()[1]) * 1024
    return total, own, os.getpid()


def test_workers_share_the_memory_of_what_setup_has_loaded(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(share, setup=load_much)
    found = [job() for job in [cluster.submit() for _ in range(20)]]
    assert {total for total, *_ in found} == {SIZE}
    assert max(own for _, own, _ in found) < SIZE // 2


def share_counter() -> None:
    global counter
    import multiprocessing

    counter = multiprocessing.Value("i", 0)


def count(times: int) -> int:
    for _ in range(times):
        with counter.get_lock():
            counter.value += 1
    return counter.value


def test_values_and_locks_of_multiprocessing_work_across_jobs(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(count, setup=share_counter)
    for job in [cluster.submit(100) for _ in range(20)]:
        job()
    assert cluster.submit(0)() == 2000


def leave_thread() -> None:
    import threading

    threading.Thread(target=threading.Event().wait, name="a reader", daemon=True).start()


def test_threads_that_setup_leaves_are_named(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node("--cpus", "1")
    assert make_cluster(name_and, setup=leave_thread).submit(1)()
    node.wait_line("setup has left 1 threads running .a reader.", stream="stderr")


def test_setup_runs_again_in_a_host_that_is_started_again(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(look, setup=load)
    host = cluster.submit(1)()[3]
    os.kill(host, 9)
    wait_for(lambda: psutil.pid_exists(host), lambda is_there: not is_there, what="it is gone")
    value, _, _, other = cluster.submit(1)()
    assert value == 1
    assert other != host


def test_what_cannot_be_setup_is_refused_at_once(place: Any) -> None:
    with pytest.raises(UsageError, match="setup must be a function, not int"):
        dispy.JobCluster(name_and, setup=3)
    with pytest.raises(UsageError, match="cleanup must be a function, not str"):
        dispy.JobCluster(name_and, cleanup="yes")
    held = threading.Lock()

    def refuse() -> Any:
        return held

    with pytest.raises(PicklingError, match="held"):
        dispy.JobCluster(name_and, setup=refuse)
    with pytest.raises(PicklingError, match="setup_args"):
        dispy.JobCluster(name_and, setup=load, nodes=[NodeAllocate("*", setup_args=(held,))])


class Chooses(NodeAllocate):
    """Decides on the arguments of setup when it sees the node."""

    def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, *rest: Any) -> int:
        self.setup_args = (threading.Lock(),) if name == "bad" else (2,)
        return cpus


def test_arguments_that_allocate_chooses_and_that_cannot_be_sent_cost_that_node_only(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--cpus", "1", "--name", "bad")
    start_node("--cpus", "1", "--name", "good")
    cluster = make_cluster(look, setup=load, nodes=[Chooses("*")])
    assert cluster.submit(3)()[0] == 6
    wait_for(lambda: "node bad is not used: setup_args cannot be sent" in caplog.text, what="it is said")


SCRIPT = """
import dispy

def prepare(factor):
    global table, helper_used
    table = {n: factor * n for n in range(5)}
    helper_used = double(4)

def double(n):
    return 2 * n

def compute(n):
    return table[n] + double(n) + helper_used

if __name__ == "__main__":
    nodes = [dispy.NodeAllocate("*", setup_args=(10,))]
    cluster = dispy.JobCluster(compute, nodes=nodes, setup=prepare, depends=[double])
    print([cluster.submit(n)() for n in range(5)])
"""


def test_a_program_in_one_file(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    program = run_program(SCRIPT)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout.splitlines()[-1] == str([12 * n + 8 for n in range(5)])
