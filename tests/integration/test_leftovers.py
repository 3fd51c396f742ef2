"""What jobs leave behind: processes and threads. It ends, and nothing of it is seen later."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.client.session import received_files

from .conftest import MakeCluster, StartNode
from .helpers import Place, is_alive, wait_for, wait_gone

TERMINATED, FINISHED = dispy.DispyJob.Terminated, dispy.DispyJob.Finished


def leaves_a_child(how: str) -> int:
    print("mine")
    if how == "popen":
        return subprocess.Popen(["sh", "-c", "while sleep 0.01; do echo stray; done"]).pid
    if how == "fork":
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                time.sleep(0.01)
                os.write(1, b"stray\n")
        return pid
    if how == "daemon":
        command = "setsid sh -c 'echo $$; while sleep 0.01; do echo stray; done' >pid 2>&1 &"
        subprocess.run(["sh", "-c", command], check=True)
        while not os.path.exists("pid") or not (text := Path("pid").read_text()):
            time.sleep(0.001)
        return int(text.split()[0])
    if how == "system":
        os.system("while sleep 0.01; do echo stray; done & echo $! >pid")
        return int(Path("pid").read_text())
    if how == "c":
        ctypes.CDLL(None).system(b"while sleep 0.01; do echo stray; done & echo $! >pid")
        return int(Path("pid").read_text())
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        return process.pid or 0
    return os.getpid()


def test_processes_left_behind_are_killed(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(leaves_a_child)
    for how in ("popen", "fork", "daemon", "system", "c", "multiprocessing"):
        worker = cluster.submit("nothing")()
        job = cluster.submit(how)
        pid = job()
        assert job.status == FINISHED, f"{how}: {job.exception}"
        assert "mine\n" in job.stdout
        later = [cluster.submit("nothing") for _ in range(5)]
        for other in later:
            assert other() != worker, f"the worker whose job left a process ({how}) is used again"
            assert other.stdout == "mine\n", f"output of what was left behind ({how})"
        wait_gone([pid, worker], what=f"what the job left behind ({how}) is gone", deadline_s=3)


def test_threads_left_behind(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")

    def compute(n: int) -> int:
        def work() -> None:
            while True:
                time.sleep(0.005)
                print("stray")

        if n == 0:
            threading.Thread(target=work, daemon=True).start()
        return os.getpid()

    cluster = make_cluster(compute)
    first = cluster.submit(1)()
    job = cluster.submit(0)
    assert job() == first
    assert job.status == FINISHED
    later = [cluster.submit(2) for _ in range(10)]
    for other in later:
        assert other() != first
        assert other.stdout == ""
    wait_gone([first], what="the worker with the thread is gone")


def test_children_that_ended_are_no_reason_to_retire(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")

    def compute() -> tuple[int, int]:
        subprocess.run(["true"], check=True)
        pool = multiprocessing.get_context("fork").Pool(2)
        total = sum(pool.map(abs, range(-5, 0)))
        pool.close()
        pool.join()
        return os.getpid(), total

    cluster = make_cluster(compute)
    results = [cluster.submit()() for _ in range(4)]
    assert results == [(results[0][0], 15)] * 4


def test_killed_worker_takes_its_jobs_children_with_it(
    make_cluster: MakeCluster, place: Place, start_node: StartNode
) -> None:
    start_node("--cpus", "1")

    def compute(path: str) -> None:
        child = subprocess.Popen(["setsid", "sleep", "600"])
        Path(path).write_text(f"{child.pid}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    path = place.root / "pid"
    job = make_cluster(compute).submit(str(path))
    job()
    assert "SIGKILL" in job.exception
    child = int(path.read_text())
    wait_for(lambda: is_alive(child), lambda alive: not alive, what="the job's child is gone")


def forks_and_waits(how: str) -> tuple[int, int]:
    pid = os.fork()
    if pid == 0:
        if how == "exits":
            sys.exit(7)
        if how == "raises":
            raise ValueError("in the child")
        return 0, 0
    return os.getpid(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_that_comes_back_ends_as_in_a_program(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """It does not answer for the job, and is no second worker; the worker goes on."""
    start_node("--cpus", "1")
    for isolate in (False, True):
        cluster = make_cluster(forks_and_waits, isolate=isolate)
        jobs = [cluster.submit(how) for how in ("exits", "raises", "returns")]
        results = [job() for job in jobs]
        assert None not in results, [job.exception for job in jobs]
        assert [code for _, code in results] == [7, 1, 0]
        assert "ValueError: in the child" in jobs[1].stderr
        assert jobs[2].stderr == ""
        assert isolate or len({worker for worker, _ in results}) == 1


def test_a_forked_child_of_setup_ends_as_in_a_program(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")

    def prepare() -> int:
        global found
        found = forks_and_waits("exits")[1]
        return 0

    assert make_cluster(lambda: found, setup=prepare).submit()() == 7


def test_forked_children_of_a_job_send_values_and_files(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: each waits for its own answer, and is not given that of another."""
    monkeypatch.setattr(received_files, "_root", str(place.root))
    start_node("--cpus", "1")

    def compute(count: int) -> list[int]:
        def send(child: int) -> None:
            codes = [dispy_provisional_result((child, n)) for n in range(20)]
            Path(f"from-{child}").write_text("sent")
            sys.exit(any(codes) or dispy_send_file(f"from-{child}"))

        fork = multiprocessing.get_context("fork")
        children = [fork.Process(target=send, args=(child,)) for child in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return [child.exitcode for child in children]

    told: list[Any] = []
    cluster = make_cluster(compute, job_status=lambda job: told.append(job.result))
    assert cluster.submit(4)() == [0] * 4
    wait_for(lambda: len(told), lambda count: count == 81, what="all values and the result")
    assert [sorted(n for child, n in told[:-1] if child == which) for which in range(4)] == [
        list(range(20))
    ] * 4
    assert all((place.root / f"from-{child}").read_text() == "sent" for child in range(4))
