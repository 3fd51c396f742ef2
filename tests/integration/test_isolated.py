"""``isolate=True``: every job in a process of its own, with all that is promised of jobs elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy

from .conftest import MakeCluster, StartNode
from .helpers import wait_for, wait_gone

FINISHED, TERMINATED, CANCELLED = (
    dispy.DispyJob.Finished,
    dispy.DispyJob.Terminated,
    dispy.DispyJob.Cancelled,
)


def act(what: str, *args: Any) -> Any:
    print(f"begin {what}", flush=True)
    if what == "exit":
        os._exit(*args)
    if what == "signal":
        os.kill(os.getpid(), args[0])
        time.sleep(60)
    if what == "large":
        return bytes(args[0])
    if what == "values":
        return [dispy_provisional_result(n) for n in range(args[0])]  # type: ignore[name-defined]
    if what == "child":
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    if what == "wait":
        try:
            Path(args[0]).write_text(f"{os.getpid()} {os.getppid()}")
            time.sleep(60)
        except KeyboardInterrupt:
            if len(args) > 1:
                return args[1]
            raise
    return os.getpid()


def wait_until_written(path: str) -> str:
    return wait_for(
        lambda: Path(path).read_text() if os.path.exists(path) else "", what=f"the job has written {path}"
    )


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("code", [0, 3])
def test_exit(make_cluster: MakeCluster, code: int) -> None:
    cluster = make_cluster(act, isolate=True)
    jobs = [cluster.submit("exit", code), cluster.submit("pid")]
    assert jobs[0]() is None
    assert jobs[0].status == TERMINATED
    assert f"exit code {code}" in jobs[0].exception
    assert jobs[0].stdout == "begin exit\n"
    assert jobs[1].wait(10)
    assert jobs[1].status == FINISHED


@pytest.mark.usefixtures("a_node")
def test_fatal_signal(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(act, isolate=True)
    jobs = [cluster.submit("signal", number) for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)]
    for job, name in zip(jobs, ("SIGKILL", "SIGSEGV", "SIGTERM"), strict=True):
        job()
        assert job.status == TERMINATED
        assert name in job.exception
        assert job.stdout == "begin signal\n"


@pytest.mark.usefixtures("a_node")
def test_each_process_is_new_and_ends_with_its_job(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(act, isolate=True)
    pids = [job() for job in [cluster.submit("pid") for _ in range(50)]]
    assert len(set(pids)) == 50
    wait_gone(pids, deadline_s=2)


@pytest.mark.usefixtures("a_node")
def test_what_a_job_leaves_behind_is_killed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(act, isolate=True)
    jobs = [cluster.submit("child") for _ in range(4)]
    wait_gone([job() for job in jobs], deadline_s=2)
    assert {job.stdout for job in jobs} == {"begin child\n"}


@pytest.mark.usefixtures("a_node")
def test_large_results_and_provisional_ones(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(act, isolate=True)
    jobs = [cluster.submit("large", size) for size in (0, 1000, 65_000, 70_000, 3_000_000)]
    assert [len(job()) for job in jobs] == [0, 1000, 65_000, 70_000, 3_000_000]
    assert cluster.submit("values", 5)() == [0] * 5


@pytest.mark.usefixtures("a_node")
def test_cancel(make_cluster: MakeCluster, tmp_path: Any) -> None:
    """The job is interrupted, may return its best value, and the worker takes the next one."""
    cluster = make_cluster(act, isolate=True)
    paths = [str(tmp_path / name) for name in "ab"]
    jobs = [cluster.submit("wait", paths[0]), cluster.submit("wait", paths[1], "best")]
    for path in paths:
        wait_until_written(path)
    for job in jobs:
        cluster.cancel(job)
        job()
    assert (jobs[0].status, jobs[0].exception) == (TERMINATED, "cancelled")
    assert (jobs[1].status, jobs[1].result) == (FINISHED, "best")
    assert cluster.submit("pid")() not in (None, os.getpid())


def test_killed_worker_takes_the_job_with_it(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Any
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(act, isolate=True)
    path = str(tmp_path / "pids")
    job = cluster.submit("wait", path)
    pid, worker = map(int, wait_until_written(path).split())
    psutil.Process(worker).kill()
    job()
    assert job.status == TERMINATED
    assert "SIGKILL" in job.exception
    wait_gone([pid, worker], deadline_s=2)
    assert cluster.submit("pid")()


def test_cancels_never_hit_the_next_job(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Cancelled at every moment of the life of its process, a job ends; the others never notice."""
    start_node("--cpus", "1")
    cluster = make_cluster(lambda: os.getpid(), isolate=True)
    for delay_us in range(0, 6000, 60):
        hit, spared = cluster.submit(), cluster.submit()
        until = time.perf_counter() + delay_us / 1e6
        while time.perf_counter() < until:
            pass
        cluster.cancel(hit)
        assert hit.wait(4.5), "a cancelled job was neither interrupted nor finished"
        assert hit.status in (FINISHED, CANCELLED) or hit.exception == "cancelled"
        assert spared.wait(10)
        assert spared.status == FINISHED, spared.exception
