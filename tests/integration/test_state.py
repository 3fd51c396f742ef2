"""What a job changes of its process is back as it was before the next one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest

from .conftest import MakeCluster, StartNode


def look() -> dict[str, Any]:
    mask = os.umask(0)
    os.umask(mask)
    return {
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": mask,
        "handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "blocked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "stdout": (type(sys.stdout).__name__, sys.stdout is sys.__stdout__, sys.stdout.closed),
        "stdin": sys.stdin is None or sys.stdin.closed,
        "filters": [str(item) for item in warnings.filters],
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) < 3),
        "path": dispy_job_path,
    }


def change(what: str) -> str:
    if what == "directory":
        os.chdir("/")
    elif what == "removed directory":
        directory = tempfile.mkdtemp()
        os.chdir(directory)
        os.rmdir(directory)
    elif what == "environment":
        os.environ["DISPY_TEST_NEW"] = "new"
        os.environ.pop("PATH")
        os.environ["XDG_STATE_HOME"] = "/changed"
    elif what == "putenv":
        os.putenv("DISPY_TEST_NEW", "new")
    elif what == "cleared environment":
        os.environ.clear()
    elif what == "umask":
        os.umask(0o777)
    elif what == "handlers":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    elif what == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    elif what == "timer":
        signal.alarm(1000)
    elif what == "replaced stdout":
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    elif what == "closed stdout":
        sys.stdout.close()
    elif what == "closed descriptors":
        os.close(1)
        os.close(2)
    elif what == "redirected descriptors":
        descriptor = os.open("own.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        print("into the file")
    elif what == "stdin":
        sys.stdin = None
    elif what == "filters":
        warnings.simplefilter("error")
    elif what == "replaced filters":
        warnings.filters = []
    elif what == "reset filters":
        warnings.resetwarnings()
    else:
        raise AssertionError(what)
    return what


def steps(what: str) -> Any:
    print("step")
    if what == "look":
        return look()
    if what == "child":
        return subprocess.run(
            ["sh", "-c", "echo child; echo $DISPY_TEST_NEW; exec env"], check=True, capture_output=True
        ).stdout.decode()
    return change(what)


CHANGES = [
    "directory", "removed directory", "environment", "putenv", "cleared environment", "umask", "handlers", "blocked",
    "timer", "replaced stdout", "closed stdout", "closed descriptors", "redirected descriptors", "stdin", "filters",
    "replaced filters", "reset filters",
]  # fmt: skip


def test_state_is_restored(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Whatever is changed, and by what means: seen by the next job, and by what that starts."""
    start_node("--cpus", "1")
    cluster = make_cluster(steps, depends=[look, change])
    before = cluster.submit("look")()
    faults: dict[str, Any] = {}
    for what in CHANGES:
        changed, looked, child = cluster.submit(what), cluster.submit("look"), cluster.submit("child")
        if changed() != what:
            faults[what] = changed.exception
        after = looked()
        differences = after and {key: value for key, value in after.items() if value != before[key]}
        if differences or looked.exception or looked.stdout != "step\n":
            faults[f"after {what}"] = (differences, looked.stdout, looked.exception)
        if (child() or "").splitlines()[:2] != ["child", ""]:
            faults[f"child after {what}"] = (child.result, child.exception)
    assert faults == {}


def test_state_is_restored_within_a_batch(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Jobs that travel together do not see each other either."""
    start_node("--cpus", "1")
    cluster = make_cluster(steps, depends=[look, change])
    before = cluster.submit("look")()
    harmless = [what for what in CHANGES if what not in ("timer", "closed descriptors")]
    jobs = [(what, cluster.submit(what), cluster.submit("look")) for what in harmless for _ in range(3)]
    for what, changed, looked in jobs:
        assert changed() == what, changed.exception
        assert looked() == before, f"after {what}"


def test_globals_stay_in_a_worker_and_modules_too(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """The documented difference to the original; ``isolate=True`` is the way to have none of it."""
    start_node("--cpus", "1")

    def count() -> int:
        global calls
        calls = globals().get("calls", 0) + 1
        return calls

    shared = make_cluster(count)
    assert [shared.submit()() for _ in range(3)] == [1, 2, 3]
    isolated = make_cluster(count, isolate=True)
    assert [isolated.submit()() for _ in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("a_node")
def test_isolated_jobs_have_processes_of_their_own(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda n: (n, os.getpid()), isolate=True)
    jobs = [cluster.submit(n) for n in range(30)]
    results = [job() for job in jobs]
    assert [n for n, _ in results] == list(range(30))
    assert len({pid for _, pid in results}) == 30


def meet(path: str) -> int:
    """Ends when jobs have run in two processes."""
    open(f"{path}/{os.getpid()}", "w").close()
    while len(os.listdir(path)) < 2:
        time.sleep(0.002)
    return os.getpid()


def test_shared_processes_are_used_again(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(meet)
    (tmp_path / "met").mkdir()
    jobs = [cluster.submit(str(tmp_path / "met")) for _ in range(100)]
    assert len({job() for job in jobs}) == 2


@pytest.mark.usefixtures("a_node")
def test_generators_differ_between_workers(make_cluster: MakeCluster) -> None:
    """Numpy's would be equal in forked processes; here every job of a process of its own draws."""

    def draw() -> tuple[int, int, int]:
        legacy = int(numpy.random.randint(1 << 30))
        return random.getrandbits(64), legacy, int(numpy.random.default_rng().integers(1 << 30))

    for isolate in (True, False):
        cluster = make_cluster(draw, isolate=isolate)
        jobs = [cluster.submit() for _ in range(20)]
        results = [job() for job in jobs]
        assert None not in results, jobs[0].exception
        for column in zip(*results, strict=True):
            assert len(set(column)) == 20, f"isolate={isolate}: {column}"


@pytest.mark.usefixtures("a_node")
def test_seeding_in_a_job_is_honoured(make_cluster: MakeCluster) -> None:
    def draw(seed: int) -> tuple[float, float]:
        random.seed(seed)
        numpy.random.seed(seed)
        return random.random(), float(numpy.random.random())

    cluster = make_cluster(draw)
    jobs = [cluster.submit(5) for _ in range(4)]
    assert [job() for job in jobs] == [draw(5)] * 4


@pytest.mark.usefixtures("a_node")
def test_times_are_those_of_the_run(make_cluster: MakeCluster) -> None:
    before = time.time()
    cluster = make_cluster(lambda: time.sleep(0.1))
    jobs = [cluster.submit() for _ in range(3)]
    for job in jobs:
        job()
        assert before <= job.submit_time <= job.start_time + 0.01
        assert 0.09 < job.end_time - job.start_time < 1
        assert job.end_time <= time.time()


@pytest.mark.usefixtures("a_node")
def test_working_directory_is_the_nodes_and_not_the_clients(make_cluster: MakeCluster) -> None:
    Path("client.txt").exists()
    assert make_cluster(lambda: os.path.exists("pyproject.toml")).submit()() is False
