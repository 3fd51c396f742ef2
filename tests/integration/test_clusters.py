"""Several clusters in one program, and how a cluster ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

import dispy
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import wait_for
from .jobs import name_and


def test_clusters_share_a_node_fairly(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    first, second = make_cluster(name_and), make_cluster(name_and, isolate=True)
    second.submit(0)()  # to start its host may take as long as all jobs of the first
    many = [first.submit(n, 0.02) for n in range(150)]
    many[0].wait()
    few = [second.submit(n, 0.01) for n in range(5)]
    assert all(job.wait(5) for job in few), "a second cluster waits for all jobs of the first"
    assert not many[-1].finish.is_set()
    assert first.wait(10)
    assert [job.result[1] for job in many] == list(range(150))


def test_clusters_end_by_themselves(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node()
    first, second = make_cluster(name_and), make_cluster(lambda: "second")
    assert first.submit(1)()[1] == 1
    first.shutdown()
    assert second.submit()() == "second"
    second.shutdown()
    third = make_cluster(lambda: "third")
    assert third.submit()() == "third"


def test_many_clusters_one_after_another(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node()
    for n in range(15):
        with dispy.JobCluster(lambda n=n: n) as cluster:
            assert cluster.submit()() == n
    make_cluster(name_and).submit()()
    wait_for(node.descendants, lambda pids: len(pids) <= 4, what="hosts of closed clusters have ended")


def test_context_manager(make_cluster: MakeCluster) -> None:
    with make_cluster(name_and) as cluster:
        jobs = [cluster.submit(n, 0.01) for n in range(10)]
    assert [job.result[1] for job in jobs] == list(range(10))


def test_context_manager_lets_exceptions_pass(make_cluster: MakeCluster) -> None:
    started = time.monotonic()
    cluster = make_cluster(name_and)
    job = cluster.submit(1, 600)
    with pytest.raises(ZeroDivisionError), cluster:
        raise ZeroDivisionError
    assert time.monotonic() - started < 4
    assert job.finish.is_set()


def test_use_after_close(make_cluster: MakeCluster, capsys: Any) -> None:
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    assert cluster.close() is True
    for call in (
        lambda: cluster.submit(1),
        lambda: cluster.submit_job_id(1, 1),
        lambda: cluster.submit_node("127.0.0.1", 1),
        lambda: cluster.cancel(job),
        lambda: cluster.node_jobs("127.0.0.1"),
        lambda: cluster.discover_nodes(["*"]),
    ):
        with pytest.raises(UsageError, match="closed"):
            call()
    assert cluster.wait() is True
    assert cluster.close() is None
    assert cluster.status().nodes[0].jobs_done == 1
    cluster.print_status()
    assert "127.0.0.1" in capsys.readouterr().out
    cluster.shutdown()
    cluster.shutdown()
    assert cluster.status().jobs_pending == 0
    assert job()[1] == 1
