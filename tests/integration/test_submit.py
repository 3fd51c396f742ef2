"""Submitting jobs and looking at them, from any thread."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import dispy
from dispy import DispyJob
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import wait_for
from .jobs import name_and, until


@pytest.mark.usefixtures("a_node")
def test_ids(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(name_and)
    first, second = cluster.submit(), cluster.submit()
    assert isinstance(first.id, int)
    assert second.id > first.id
    for job_id in (0, "", "name", (1, 2), [1], {"a": 1}):
        job = cluster.submit_job_id(job_id, 5)
        assert job.id == job_id
        assert type(job.id) is type(job_id)
        assert job()[1] == 5
    assert isinstance(cluster.submit_job_id(None).id, int)
    first.id = "assigned later"
    assert first()[1] is None
    assert first.id == "assigned later"
    assert isinstance(first, dispy.DispyJob)
    assert len({first, second, first}) == 2


@pytest.mark.usefixtures("a_node")
def test_jobs_have_all_attributes(make_cluster: MakeCluster) -> None:
    job = make_cluster(name_and).submit(3)
    assert (job.submit_time <= time.time(), job.exception) == (True, None)
    assert job() == job.result == (job.result[0], 3)
    assert job(clear=True) == job.result
    assert job.finish.is_set() in (True, False)
    assert (job.status, job.error, job.stdout, job.stderr) == (DispyJob.Finished, None, "", "")
    for attribute in ("submit_time", "start_time", "end_time"):
        assert isinstance(getattr(job, attribute), float)
    assert DispyJob.Created < DispyJob.Running < DispyJob.ProvisionalResult < DispyJob.Cancelled
    assert DispyJob.Cancelled < DispyJob.Terminated < DispyJob.Abandoned < DispyJob.Finished


def test_submit_node(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--name", "left", "--cpus", "1")
    start_node("--name", "right", "--cpus", "1")
    cluster = make_cluster(name_and)
    nodes = wait_for(lambda: cluster.status().nodes, lambda seen: len(seen) == 2, what="both nodes")
    for node in nodes:
        jobs = [cluster.submit_node(node, n) for n in range(10)]
        assert [job() for job in jobs] == [(node.name, n) for n in range(10)]
        job = cluster.submit_job_id_node("mine", node, 5)
        assert (job.id, job()) == ("mine", (node.name, 5))
        assert cluster.submit_node(node.name, 1)() == (node.name, 1)
    assert cluster.submit_node("127.0.0.1", 1)()[1] == 1
    with caplog.at_level(logging.WARNING, "dispy"):
        assert cluster.submit_node("192.0.2.7", 1) is None
    assert "192.0.2.7" in caplog.text
    with pytest.raises(UsageError):
        cluster.submit_node(17, 1)


def test_pinned_jobs_wait_for_their_node(
    make_cluster: MakeCluster, start_node: StartNode, gate: Any
) -> None:
    start_node("--name", "busy", "--cpus", "1")
    start_node("--name", "idle", "--cpus", "1")
    cluster = make_cluster(until)
    wait_for(lambda: cluster.status().nodes, lambda seen: len(seen) == 2, what="both nodes")
    jobs = [cluster.submit_node("busy", str(gate)) for _ in range(3)]
    wait_for(lambda: jobs[0].status, lambda status: status == DispyJob.Running, what="the first runs")
    assert cluster.submit_node("idle", "/")() == "idle"
    assert [job.status for job in jobs[1:]] == [DispyJob.Created] * 2
    gate.touch()
    assert [job() for job in jobs] == ["busy"] * 3


def test_status_and_node_jobs(make_cluster: MakeCluster, start_node: StartNode, gate: Any) -> None:
    start_node("--name", "one", "--cpus", "2")
    cluster = make_cluster(until)
    jobs = [cluster.submit(str(gate)) for _ in range(5)]
    wait_for(
        lambda: [job.status for job in jobs],
        lambda seen: seen.count(DispyJob.Running) == 2,
        what="two jobs run",
    )
    status = cluster.status()
    assert isinstance(status, dispy.ClusterStatus)
    assert (len(status.nodes), status.jobs_pending) == (1, 5)
    node = status.nodes[0]
    assert (node.ip_addr, node.name, node.cpus, node.avail_cpus) == ("127.0.0.1", "one", 2, 2)
    assert (node.busy, node.jobs_done) == (2, 0)
    assert node.update_time > 0
    running = cluster.node_jobs(node)
    assert isinstance(running, list)
    assert set(running) == set(jobs[:2])
    assert set(cluster.node_jobs("127.0.0.1")) == set(running)
    assert cluster.node_jobs("192.0.2.1") == -1
    gate.touch()
    assert cluster() is True
    node = cluster.status().nodes[0]
    assert (node.busy, node.jobs_done, cluster.status().jobs_pending) == (0, 5, 0)
    assert node.cpu_time == pytest.approx(sum(job.end_time - job.start_time for job in jobs))
    assert cluster.cpu_time == pytest.approx(node.cpu_time)
    assert node.tx > 100
    assert node.rx > 100
    assert cluster.name == "until"


def test_print_status(make_cluster: MakeCluster, start_node: StartNode, gate: Any, capsys: Any) -> None:
    start_node("--name", "one", "--cpus", "1")
    cluster = make_cluster(until)
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == DispyJob.Running, what="the job runs")
    cluster.print_status()
    assert "Jobs pending: 1" in capsys.readouterr().out
    gate.touch()
    cluster.close()
    cluster.print_status(wall_time=job.end_time - job.start_time)
    text = capsys.readouterr().out
    assert re.search(r"127\.0\.0\.1 \(one\) *\| +1 \| +1 \|", text), text
    assert "speedup: 1.0" in text
    assert "pending" not in text
    with pytest.warns(DeprecationWarning, match="stats is now called print_status"):
        cluster.stats()
    assert "Node" in capsys.readouterr().out


@pytest.mark.usefixtures("a_node")
def test_wait_with_timeouts(make_cluster: MakeCluster, gate: Any) -> None:
    cluster = make_cluster(until)
    assert cluster.wait() is True
    job = cluster.submit(str(gate))
    started = time.monotonic()
    assert cluster.wait(0.1) is False
    assert job.wait(0.1) is False
    assert job.finish.wait(0.1) is False
    assert 0.3 <= time.monotonic() - started < 3
    assert cluster.wait(0) is False
    gate.touch()
    assert job.wait(5) is True
    assert job.finish.is_set()
    assert cluster.wait(5) is True
    assert cluster.end_time is not None


@pytest.mark.usefixtures("a_node")
def test_many_wait_for_one_job(make_cluster: MakeCluster, gate: Any) -> None:
    job = make_cluster(until).submit(str(gate))
    seen: list[bool] = []
    ways: list[Callable[[], bool]] = [lambda: job.wait(8), lambda: job.finish.wait(8), lambda: bool(job())]
    threads = [threading.Thread(target=lambda way=way: seen.append(way())) for way in ways * 4]
    for thread in threads:
        thread.start()
    gate.touch()
    for thread in threads:
        thread.join()
    assert seen == [True] * 12


def test_discover_nodes(make_cluster: MakeCluster, start_node: StartNode) -> None:
    cluster = make_cluster(name_and, nodes=["127.0.0.1"])
    start_node("--name", "late")
    assert cluster.discover_nodes(["127.0.0.1"]) == 0
    assert cluster.submit(1)() == ("late", 1)


def test_from_many_threads_at_once(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    seen: list[Any] = []
    cluster = make_cluster(name_and, job_status=lambda job: seen.append(job.id))
    faults: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(60):
                job = cluster.submit_job_id((thread, n), (thread, n))
                if n % 7 == 3:
                    cluster.cancel(job)
                if n % 5 == 0:
                    cluster.status()
                if n % 3 == 0:
                    assert job() is None or job()[1] == (thread, n)
                if n % 11 == 0:
                    cluster.wait(0.001)
                if n % 13 == 0:
                    assert cluster.submit_node("127.0.0.1", n)()[1] == n
            assert cluster.wait(10)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert faults == []
    assert cluster.wait(5)
    cluster.shutdown()
    given = [item for item in seen if isinstance(item, tuple)]
    assert len(given) == len(set(given)) == 480
