"""``setup`` and ``cleanup``: data that jobs find in memory, nodes that refuse, and what is there afterwards."""

from __future__ import annotations

import ctypes.util
import functools
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy
from dispy import NodeAllocate
from dispy.client.session import explain
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import PYTHON, describe, wait_for
from .jobs import name_and, until

TERMINATED = dispy.DispyJob.Terminated

PAGE = 4096
SIZE = 48_828 * PAGE  # 200 MB
WORKERS = 8


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


def fail_by_odd_name() -> None:
    """As where a file has a name that is not UTF-8."""
    raise LookupError("no part \udcff here")


def fail_by_value() -> str:
    return "ready"


def fail_by_false() -> float:
    return 0.5


def fail_by_exit() -> None:
    raise SystemExit(3)


def fail_by_death() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("per", ["node", "worker"])
@pytest.mark.parametrize(
    ("setup", "reasons"),
    [
        (fail_by_error, ["LookupError: no data here", "as far as here", "Traceback"]),
        (fail_by_odd_name, ["LookupError: no part \\udcff here"]),
        (fail_by_value, ["it returned 'ready', and not 0, 1, 2 or None"]),
        (fail_by_false, ["it returned 0.5"]),
        (fail_by_exit, ["SystemExit: 3"]),
        (fail_by_death, ["SIGKILL"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_node_where_it_fails_is_not_used_and_jobs_end_with_the_reason(
    make_cluster: MakeCluster, start_node: StartNode, setup: Any, reasons: list[str], per: str
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(name_and, setup=setup, setup_per=per)
    job = cluster.submit(1)
    assert job.wait(20), cluster.why(job)
    assert job.status == TERMINATED
    assert all(reason in job.exception for reason in reasons)
    assert node.name in job.exception or setup is fail_by_death
    assert "or ran setup" in job.exception or setup is not fail_by_death or per == "worker"
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
    global much, meeting
    import multiprocessing

    much = bytearray(b"x") * SIZE
    meeting = multiprocessing.Barrier(WORKERS)


def share() -> tuple[int, int, int]:
    """What there is, and what of its memory this process has for itself, and its part of the shared (bytes)."""
    meeting.wait(20)
    total = much[::PAGE].count(b"x")
    own = part = 0
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Private_"):
                own += int(line.split()[1]) * 1024
            elif line.startswith("Pss:"):
                part = int(line.split()[1]) * 1024
    meeting.wait(20)
    return total, own, part


def test_eight_workers_share_the_memory_of_what_setup_has_loaded(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    wide = "from dispy.cli import node; from dispy.node import daemon; daemon.usable_cpus = lambda: 8; node.main()"
    start_node("--cpus", str(WORKERS), command=[*PYTHON, "-c", wide])
    cluster = make_cluster(share, setup=load_much)
    found = [job() for job in [cluster.submit() for _ in range(WORKERS)]]
    assert {total for total, *_ in found} == {SIZE // PAGE}
    assert max(own for _, own, _ in found) < SIZE // 10
    assert sum(part for *_, part in found) < SIZE * 1.5


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


def fail_if(is_bad: bool) -> None:
    if is_bad:
        print("almost")
        raise LookupError("not on this one")


def test_a_failure_is_told_in_every_way(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture, gate: Path
) -> None:
    """As an event, in the log, by ``status``, and by ``why`` while jobs wait for other nodes."""
    nodes = [
        NodeAllocate(
            "127.0.0.1", start_node("--cpus", "1", "--name", name).port, setup_args=(name == "bad",)
        )
        for name in ("bad", "good")
    ]
    told: list[Any] = []
    cluster = make_cluster(
        until, setup=fail_if, nodes=nodes, cluster_status=lambda *event: told.append(event)
    )
    wait_for(lambda: len(cluster.status().nodes) == 2, what="both have been tried")
    (shown,) = [node for node in cluster.status().nodes if node.name == "bad"]
    assert shown.cpus == 0
    jobs = [cluster.submit(str(gate)) for _ in range(50)]
    for said in (
        "setup failed on bad",
        "LookupError: not on this one",
        "Traceback",
        "It printed:",
        "almost",
    ):
        assert said in shown.reason
        assert said in caplog.text
        assert said in cluster.why(jobs[-1])
    wait_for(
        lambda: [node for status, node, _ in told if status == dispy.DispyNode.Closed],
        lambda closed: closed == [shown],
        what="the callback is told",
    )
    gate.touch()
    assert {job() for job in jobs} == {"good"}


def wait_for_ever() -> None:
    print("begun", flush=True)
    import subprocess
    import time

    global child
    child = subprocess.Popen(["sleep", "1000"])
    while True:
        time.sleep(0.01)


def wait_and_catch() -> None:
    try:
        wait_for_ever()
    except Exception:
        return


def wait_deaf() -> None:
    """As C code does that runs for long."""
    import signal
    import subprocess
    import time

    subprocess.Popen(["sleep", "1000"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(1000)


@pytest.mark.parametrize("per", ["node", "worker"])
@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (wait_for_ever, ["TimeoutError", "Traceback", "in wait_for_ever", "It printed:", "begun"]),
        (wait_and_catch, ["It printed:", "begun"]),
        (wait_deaf, []),
    ],
)
def test_a_node_where_it_takes_too_long_is_not_used(
    make_cluster: MakeCluster,
    start_node: StartNode,
    setup: Any,
    said: list[str],
    per: str,
) -> None:
    """Nothing that it has started there stays, which the fixtures see to."""
    node = start_node("--cpus", "1")
    # Some of them have to come so far in it.
    limit_s = 0.4 if said else 0.1
    cluster = make_cluster(name_and, setup=setup, setup_per=per, setup_timeout=limit_s)
    job = cluster.submit(1)
    assert job.wait(20), cluster.why(job)
    assert job.status == TERMINATED
    for text in [f"setup failed on {node.name}", f"it took longer than setup_timeout, {limit_s} s", *said]:
        assert text in job.exception
    wait_for(lambda: [pid for pid in node.descendants() if "sleep 1000" in describe(pid)],
             lambda left: not left, what="what it started is gone")  # fmt: skip
    assert make_cluster(name_and, setup=load, setup_timeout=20).submit(2)() == (node.name, 2)


def load_in_worker(path: str) -> None:
    global mine, thread, child, where
    import subprocess
    import threading

    where = path
    mine = os.getpid()
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    child = subprocess.Popen(["sleep", "1000"])
    os.environ["SET_UP"] = "yes"


def use_in_worker(path: str) -> tuple[int, int, bool, bool, str | None]:
    all_here(path)
    return mine, os.getpid(), thread.is_alive(), child.poll() is None, os.environ.get("SET_UP")


def all_here(path: str) -> None:
    """Two jobs are running."""
    open(f"{path}/{os.getpid()}", "w").close()
    while len(os.listdir(path)) < 2:
        time.sleep(0.002)


def clean_in_worker(path: str) -> None:
    child.kill()
    os.rename(f"{path}/{mine}", f"{where}/clean {os.getpid()}")


def test_it_runs_in_each_worker_if_that_is_wanted(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path
) -> None:
    """Threads and processes that it makes stay there, with the environment; so does the worker, and is cleaned up."""
    node = start_node("--cpus", "2")
    path = tmp_path / "workers"
    path.mkdir()
    allocation = NodeAllocate("127.0.0.1", node.port, setup_args=(str(path),))
    cluster = make_cluster(
        use_in_worker, setup=load_in_worker, cleanup=clean_in_worker, setup_per="worker", nodes=[allocation]
    )
    found = [job() for job in [cluster.submit(str(path)) for _ in range(20)]]
    workers = {pid for _, pid, *_ in found}
    assert len(workers) == 2
    assert all(mine == pid for mine, pid, *_ in found)
    assert {rest for _, _, *rest in map(tuple, found) for rest in [tuple(rest)]} == {(True, True, "yes")}
    cluster.close()
    wanted = sorted(f"clean {pid}" for pid in workers)
    wait_for(lambda: sorted(os.listdir(path)), lambda seen: seen == wanted, what="both are cleaned up")


def fail_second(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        raise LookupError("only one of us") from None


def test_a_worker_where_it_fails_leaves_the_jobs_to_those_where_it_did_not(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node("--cpus", "2")
    allocation = NodeAllocate("127.0.0.1", node.port, setup_args=(str(tmp_path / "one"),))
    cluster = make_cluster(os.getpid, setup=fail_second, setup_per="worker", nodes=[allocation])
    first = cluster.submit()()
    assert first is not None
    assert {job() for job in [cluster.submit() for _ in range(50)]} == {first}


def leave_thread() -> None:
    import threading

    threading.Thread(target=threading.Event().wait, name="a reader", daemon=True).start()


def test_threads_that_setup_leaves_are_named(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node("--cpus", "1")
    assert make_cluster(name_and, setup=leave_thread).submit(1)()
    node.wait_line("setup has started threads .a reader.", stream="stderr")


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
    for options, said in [
        ({"setup_per": "job"}, "setup_per must be 'node' or 'worker', not 'job'"),
        ({"setup_timeout": 0}, "setup_timeout must be a number of seconds, not 0"),
        ({"setup_timeout": "1"}, "setup_timeout must be a number of seconds, not '1'"),
        ({"setup_per": "worker", "isolate": True}, "isolate=True forks a process for each job"),
    ]:
        with pytest.raises(UsageError, match=said):
            dispy.JobCluster(name_and, setup=load, **options)
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


def test_who_waits_for_setup_is_not_told_to_start_a_node(
    make_cluster: MakeCluster,
    start_node: StartNode,
    gate: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    node = start_node("--cpus", "1")
    begun = tmp_path / "begun"

    def prepare() -> None:
        begun.touch()
        while not gate.exists():
            time.sleep(0.01)

    job = make_cluster(name_and, setup=prepare).submit(1)
    wait_for(begun.exists, what="the node is found, and runs setup")
    monkeypatch.setattr(explain, "WARN_S", 0.1)
    said = f"waits: node {node.name}: it is loading the computation, or runs its setup"
    wait_for(lambda: caplog.text, lambda text: said in text, what="why it waits")
    assert "no node" not in caplog.text
    gate.touch()
    assert job() == (node.name, 1)


def test_a_program_in_one_file(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    program = run_program(SCRIPT)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout.splitlines()[-1] == str([12 * n + 8 for n in range(5)])


def compute_with_openmp() -> None:
    """Run something in threads of the OpenMP of GCC, as scikit-learn does."""
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("gomp") or "")
    library.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None), None, 4, 0)


def multiply() -> float:
    import numpy

    return float((numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0])


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_libraries_that_setup_has_computed_with_compute_in_jobs(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture, isolate: bool
) -> None:
    has_openmp = ctypes.util.find_library("gomp") is not None
    depends = [multiply, compute_with_openmp]

    def prepare() -> None:
        multiply()
        if has_openmp:
            compute_with_openmp()

    def compute() -> float:
        if has_openmp:
            compute_with_openmp()
        return multiply()

    node = start_node("--cpus", "2")
    cluster = make_cluster(compute, setup=prepare, depends=depends, isolate=isolate)
    jobs = [cluster.submit() for _ in range(4)]
    assert dispy.wait(jobs, timeout=30).not_done == set()
    assert [job() for job in jobs] == [300.0] * 4
    assert "threads" not in caplog.text + node.stderr
