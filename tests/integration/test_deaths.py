"""Sudden deaths of workers, hosts and nodes, and nodes that leave: every job ends, no process stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy
from dispy.errors import JobError

from .conftest import MakeCluster, StartNode
from .helpers import Node, Place, free_base_port, wait_for, wait_gone
from .others import with_accounts

pytestmark = with_accounts

ABANDONED, CREATED, FINISHED = dispy.DispyJob.Abandoned, dispy.DispyJob.Created, dispy.DispyJob.Finished
RUNNING, TERMINATED = dispy.DispyJob.Running, dispy.DispyJob.Terminated


def run(directory: str, name: Any, is_held: bool = True) -> tuple[Any, str]:
    """Notes each of its runs; goes on until there is a file called 'gate'; has a child that stays."""
    with open(f"{directory}/runs-{name}", "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {dispy_node_name}\n")
    if is_held:
        subprocess.Popen(["setsid", "sleep", "600"])
    while is_held and not os.path.exists(f"{directory}/gate"):
        time.sleep(0.005)
    return name, dispy_node_name


class Runs:
    """What the jobs noted."""

    def __init__(self, place: Place) -> None:
        self.directory = place.root / "runs"
        self.directory.mkdir()
        self.directory.chmod(0o777)  # jobs may run as another account

    def of(self, name: Any) -> list[tuple[int, int, str]]:
        """Worker, host and node of each run of a job."""
        path = self.directory / f"runs-{name}"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1]), line.split()[2]) for line in lines]

    def wait(self, name: Any, count: int = 1) -> tuple[int, int, str]:
        """Wait until a job runs for the ``count``-th time."""
        return wait_for(lambda: self.of(name), lambda seen: len(seen) >= count, what=f"job {name} runs")[-1]

    def release(self) -> None:
        """Let all jobs end."""
        (self.directory / "gate").touch()


@pytest.fixture
def runs(place: Place) -> Any:
    found = Runs(place)
    yield found
    found.release()


def lost_node(place: Place, node: Node) -> list[int]:
    """Kill a node; returns the processes that it had."""
    below = node.descendants()
    assert below
    place.is_swept = True
    node.send(signal.SIGKILL)
    assert node.wait() == -signal.SIGKILL
    return below


# Workers.


def test_killed_worker(make_cluster: MakeCluster, start_node: StartNode, runs: Runs) -> None:
    """Its job ends, with the reason; those behind it run. Nothing is run again that must not."""
    node = start_node("--cpus", "1", "--name", "one")
    cluster = make_cluster(run)
    job = cluster.submit(str(runs.directory), "x")
    worker, _, _ = runs.wait("x")
    below = psutil.Process(worker).children(recursive=True)
    others = [cluster.submit(str(runs.directory), n, False) for n in range(20)]
    os.kill(worker, signal.SIGKILL)
    assert job.wait(5)
    assert job.status == TERMINATED
    assert "SIGKILL" in job.exception
    assert isinstance(job.error, JobError)
    assert [other() for other in others] == [(n, "one") for n in range(20)]
    assert all(len(runs.of(n)) == 1 for n in range(20)), "a job ran twice"
    wait_gone([worker, *(child.pid for child in below)])
    assert node.process.poll() is None
    assert len(runs.of("x")) == 1


def test_workers_killed_again_and_again(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs
) -> None:
    """Each kill ends one job at most, none is lost, none is run twice."""
    node = start_node("--cpus", "2")
    cluster = make_cluster(run)
    jobs = [cluster.submit(str(runs.directory), n, False) for n in range(600)]
    for _ in range(12):
        kill_a_worker(node)
    assert cluster.wait(15), cluster.status()
    ended = [job for job in jobs if job.status != FINISHED]
    assert len(ended) <= 12
    assert all(job.status == TERMINATED and "SIGKILL" in job.exception for job in ended), [
        (job.status, job.exception) for job in ended
    ]
    assert [n for n in range(600) if len(runs.of(n)) > 1] == [], "jobs that ran twice"
    assert cluster.submit(str(runs.directory), "after", False)() is not None


def kill_a_worker(node: Node) -> None:
    """End one of the workers; they are the children of the node's children."""
    for host in psutil.Process(node.pid).children():
        with suppress(psutil.NoSuchProcess):
            for worker in host.children():
                worker.kill()
                wait_gone([worker.pid])
                return


# Hosts.


def test_killed_host(make_cluster: MakeCluster, start_node: StartNode, runs: Runs) -> None:
    """Its workers and what they started go with it; their jobs end; the computation goes on."""
    node = start_node("--cpus", "2", "--name", "one")
    cluster = make_cluster(run)
    running = [cluster.submit(str(runs.directory), name) for name in "ab"]
    hosts = {runs.wait(name)[1] for name in "ab"}
    (host,) = hosts
    below = wait_for(
        lambda: [child.pid for child in psutil.Process(host).children(recursive=True)],
        lambda pids: len(pids) >= 4,
        what="two workers and what they started",
    )
    queued = [cluster.submit(str(runs.directory), n, False) for n in range(10)]
    os.kill(host, signal.SIGKILL)
    wait_gone([host, *below], what="the workers of the killed host are gone")
    for job in running:
        assert job.wait(5)
        assert job.status in (TERMINATED, ABANDONED)
        assert "SIGKILL" in job.exception, job.exception
    assert all(job.wait(5) for job in queued), "jobs behind a killed host do not end"
    later = cluster.submit(str(runs.directory), "later", False)
    assert later.wait(5), "the computation does not go on"
    assert [(job.result, job.exception) for job in [*queued, later]] == [
        ((n, "one"), None) for n in [*range(10), "later"]
    ]
    assert all(len(runs.of(n)) == 1 for n in [*range(10), "later", "a", "b"]), "a job ran twice"
    assert node.process.poll() is None


def test_jobs_that_may_run_again_do_when_their_worker_or_host_dies(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(run, nodes=[("127.0.0.1", node.port)], reentrant=True)
    jobs = [cluster.submit(runs.directory, name) for name in range(3)]
    worker, _, _ = runs.wait(0)
    os.kill(worker, signal.SIGKILL)
    _, host, _ = runs.wait(0, 2)
    os.kill(host, signal.SIGKILL)
    wait_gone([host])
    runs.release()
    assert [job()[0] for job in jobs] == [0, 1, 2]
    assert [len(runs.of(name)) for name in range(3)] == [3, 1, 1]


@pytest.mark.parametrize("isolate", [False, True])
def test_a_job_that_kills_itself_each_time(make_cluster: MakeCluster, runs: Runs, isolate: bool) -> None:
    def die(directory: str) -> None:
        run(directory, "fatal", is_held=False)
        os.kill(os.getpid(), signal.SIGSEGV)

    cluster = make_cluster(die, depends=[run], reentrant=True, isolate=isolate)
    job = cluster.submit(runs.directory)
    assert job() is None
    assert job.status == TERMINATED
    assert "SIGSEGV" in job.exception
    assert "was started 3 times and died each time" in job.exception
    assert len(runs.of("fatal")) == 3


def test_killed_spare_host(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node()

    def hosts() -> list[int]:
        return [
            pid for pid in node.descendants() if b"worker.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    (spare,) = wait_for(hosts, lambda pids: len(pids) == 1, what="a spare host")
    os.kill(spare, signal.SIGKILL)
    wait_gone([spare])
    for n in range(3):
        job = make_cluster(lambda n=n: n).submit()
        assert job.wait(5), "no host is there"
        assert job.result == n


# Nodes.


def test_killed_node(make_cluster: MakeCluster, start_node: StartNode, runs: Runs, place: Place) -> None:
    """Running jobs that are not reentrant are Abandoned at once; those that never started are not lost."""
    node = start_node("--cpus", "1", "--name", "first")
    recorded: list[Any] = []
    cluster = make_cluster(
        run,
        nodes=["127.0.0.1"],
        cluster_status=lambda status, node, _: recorded.append((status, node and node.name)),
    )
    job = cluster.submit(str(runs.directory), "x")
    runs.wait("x")
    wait_for(lambda: job.status, lambda status: status == RUNNING, what="the job is known to run")
    below = lost_node(place, node)
    wait_gone(below, what="what ran on the killed node is gone")
    assert job.wait(5), "job() of a lost job does not return"
    assert job() is None
    assert job.status == ABANDONED
    assert "first" in job.exception, job.exception
    assert "lost" in job.exception, job.exception
    assert isinstance(job.error, JobError)
    assert job.ip_addr == "127.0.0.1"
    wait_for(
        lambda: recorded, lambda seen: (dispy.DispyNode.Closed, "first") in seen, what="its end is told"
    )
    assert any(status == ABANDONED for status, _ in recorded)
    queued = cluster.submit(str(runs.directory), "y", False)
    start_node("--cpus", "1", "--name", "second")
    assert queued() == ("y", "second")
    assert len(runs.of("x")) == 1


def test_killed_node_with_reentrant_jobs(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs, place: Place
) -> None:
    first = start_node("--cpus", "2", "--name", "first")
    cluster = make_cluster(run, reentrant=True)
    jobs = [cluster.submit(str(runs.directory), n) for n in range(6)]
    for n in range(2):
        assert runs.wait(n)[2] == "first"
    start_node("--cpus", "2", "--name", "second")
    for n in (2, 3):
        assert runs.wait(n)[2] == "second"
    below = lost_node(place, first)
    wait_gone(below)
    runs.release()
    assert cluster.wait(8), [job.status for job in jobs]
    assert [(job.status, job.result) for job in jobs] == [(FINISHED, (n, "second")) for n in range(6)]
    assert [len(runs.of(n)) for n in range(6)] == [2, 2, 1, 1, 1, 1]


def test_killed_node_with_jobs_that_are_not_reentrant_and_another_node(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs, place: Place
) -> None:
    """Only those that may have started are lost; none is run twice."""
    first = start_node("--cpus", "1", "--name", "first")
    cluster = make_cluster(run)
    held = cluster.submit(str(runs.directory), "held")
    runs.wait("held")
    start_node("--cpus", "1", "--name", "second")
    wait_for(lambda: cluster.status().nodes, lambda seen: len(seen) == 2, what="both nodes")
    jobs = [cluster.submit(str(runs.directory), n, False) for n in range(50)]
    lost_node(place, first)
    assert held.wait(5)
    assert held.status == ABANDONED
    assert cluster.wait(8), [job.status for job in jobs]
    for n, job in enumerate(jobs):
        assert job.status in (FINISHED, ABANDONED)
        assert len(runs.of(n)) <= 1, f"job {n} ran twice"
        assert job.status == ABANDONED or job.result == (n, "second")
    assert sum(job.status == ABANDONED for job in jobs) <= 2, "jobs that had not started were given up"


def test_pinned_job_of_a_killed_node(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs, place: Place
) -> None:
    """There is nowhere else to run it, reentrant or not."""
    first = start_node("--cpus", "1", "--name", "first")
    cluster = make_cluster(run, reentrant=True)
    wait_for(lambda: cluster.status().nodes, what="the node")
    jobs = [cluster.submit_node("first", str(runs.directory), name) for name in "ab"]
    runs.wait("a")
    start_node("--cpus", "1", "--name", "second")
    lost_node(place, first)
    for job in jobs:
        assert job.wait(5), "a pinned job of a lost node waits for ever"
        assert job.status in (ABANDONED, dispy.DispyJob.Cancelled)
        assert job.exception
    assert len(runs.of("b")) == 0


def test_own_node_of_the_program_is_killed(
    make_own_cluster: MakeCluster,
    start_node: StartNode,
    runs: Runs,
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The jobs end; for others the program gets a new node, or is told why they wait."""
    place.is_swept = True
    cluster = make_own_cluster(run)
    job = cluster.submit(str(runs.directory), "x")
    _, host, _ = runs.wait("x")
    node = psutil.Process(host).parent()
    assert node is not None
    below = [child.pid for child in node.children(recursive=True)]
    node.kill()
    wait_gone(below)
    assert job.wait(5)
    assert job.status == ABANDONED
    later = cluster.submit(str(runs.directory), "y", False)
    wait_for(
        lambda: (later.result, caplog.text),
        lambda seen: seen[0] or "no node of nodes=" in seen[1],
        what="a new node, or the reason why there is none",
    )
    start_node()
    assert later()[0] == "y"


@pytest.mark.parametrize("reentrant", [False, True])
def test_stopped_node(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs, reentrant: bool
) -> None:
    """It says good-bye: its jobs move on at once, or end with that reason."""
    first = start_node("--cpus", "1", "--name", "first")
    cluster = make_cluster(run, reentrant=reentrant)
    job = cluster.submit(str(runs.directory), "x")
    runs.wait("x")
    queued = [cluster.submit(str(runs.directory), n, False) for n in range(5)]
    start_node("--cpus", "1", "--name", "second")
    assert first.stop() == 0
    runs.release()
    assert [other() for other in queued] == [(n, "second") for n in range(5)]
    if reentrant:
        assert job() == ("x", "second")
    else:
        assert job.wait(5)
        assert job.status == ABANDONED
        assert "stopped" in job.exception
    assert [node.name for node in cluster.status().nodes if node.cpus] == ["second"]


def test_node_that_hangs_and_comes_back(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs
) -> None:
    """Two seconds of silence are no death."""
    node = start_node("--cpus", "1", "--name", "one")
    cluster = make_cluster(run)
    job = cluster.submit(str(runs.directory), "x")
    runs.wait("x")
    node.send(signal.SIGSTOP)
    started = time.monotonic()
    wait_for(lambda: time.monotonic() - started, lambda passed: passed > 2, what="two seconds")
    node.send(signal.SIGCONT)
    runs.release()
    assert job() == ("x", "one")
    assert len(runs.of("x")) == 1


@pytest.mark.parametrize(("pulse_s", "limits_s"), [(None, (3.5, 15.0)), (0.2, (0.4, 4.0))])
def test_node_that_hangs_for_good(
    make_cluster: MakeCluster,
    start_node: StartNode,
    runs: Runs,
    pulse_s: float | None,
    limits_s: tuple[float, float],
) -> None:
    """Silent for longer than five intervals: it is given up, and its jobs run elsewhere; not much sooner or later."""
    node = start_node("--cpus", "1", "--name", "first")
    cluster = make_cluster(run, reentrant=True, pulse_interval=pulse_s)
    job = cluster.submit(str(runs.directory), "x")
    runs.wait("x")
    start_node("--cpus", "1", "--name", "second")
    wait_for(lambda: cluster.status().nodes, lambda nodes: len(nodes) == 2, what="both nodes")
    begin = time.monotonic()
    node.send(signal.SIGSTOP)
    try:
        wait_for(lambda: len(runs.of("x")), lambda count: count == 2, what="it runs again", deadline_s=15)
        assert limits_s[0] < time.monotonic() - begin < limits_s[1]
        runs.release()
        assert job() == ("x", "second")
    finally:
        node.send(signal.SIGCONT)
    assert job.result == ("x", "second")


def test_killed_node_is_replaced_at_its_port(
    make_cluster: MakeCluster, start_node: StartNode, runs: Runs, place: Place
) -> None:
    # Not one of those that others get who ask for any: between the two it is free.
    port = str(free_base_port() + 1)
    first = start_node("--cpus", "1", "--name", "first", port=port)
    cluster = make_cluster(run, nodes=[("127.0.0.1", first.port)], reentrant=True)
    job = cluster.submit(str(runs.directory), "x")
    runs.wait("x")
    lost_node(place, first)
    start_node("--cpus", "1", "--name", "again", port=port)
    runs.release()
    assert job() == ("x", "again")
    assert Path(runs.directory, "runs-x").exists()


def test_shutdown_while_a_node_does_not_answer(
    make_own_cluster: MakeCluster, start_node: StartNode, runs: Runs
) -> None:
    """Also when the connection stands and the node has not proved itself yet: nothing is left open."""
    node = start_node("--cpus", "1", "--name", "first")
    node.send(signal.SIGSTOP)
    try:
        cluster = make_own_cluster(run, nodes=[("127.0.0.1", node.port)])
        job = cluster.submit(str(runs.directory), "x", False)
        wait_for(
            lambda: [link for link in psutil.Process().net_connections("tcp") if link.raddr],
            lambda links: any(link.raddr.port == node.port for link in links),
            what="a connection to the node",
        )
        assert cluster.close(terminate=True)
        cluster.shutdown()
        assert job.status == dispy.DispyJob.Cancelled
    finally:
        node.send(signal.SIGCONT)
