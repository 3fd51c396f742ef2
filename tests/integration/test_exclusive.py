"""``JobCluster(exclusive=True)``: alone on its nodes, in its turn, and those kept waiting know for whom."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import DispyNode

from . import jobs
from .conftest import MakeCluster, StartNode
from .helpers import wait_for


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


def noop(value: Any = None) -> Any:
    return value


def reason_of(cluster: dispy.JobCluster) -> str:
    nodes = cluster.status().nodes
    return nodes[0].reason if nodes else "no node"


def test_exclusive_cluster_is_alone(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts when what runs has ended, keeps others off while it is open, idle or not, and says so."""
    start_node("--cpus", "2", "--name", "one")
    seen: list[tuple[int, str]] = []

    def note(status: int, node: DispyNode | None, job: Any) -> None:
        if status == DispyNode.AvailInfo and node is not None:
            seen.append((status, node.reason))

    ordinary = make_cluster(jobs.until, cluster_status=note)
    running = [ordinary.submit(str(gate)) for _ in range(4)]
    wait_for(
        lambda: [job.status for job in running[:2]],
        lambda statuses: statuses == [dispy.DispyJob.Running] * 2,
        what="two jobs run",
    )
    alone = make_cluster(noop, exclusive=True)
    first = alone.submit(1)
    wait_for(
        lambda: alone.why(first),
        lambda why: "jobs of" in why and "have to end before it can be used exclusively" in why,
        what="the exclusive one knows what it waits for",
    )
    wait_for(
        lambda: ordinary.why(running[3]),
        lambda why: why.startswith("it waits: node one: used exclusively by cluster noop of "),
        what="the others know for whom they wait",
    )
    assert not first.finish.is_set()
    with caplog.at_level(logging.WARNING, "dispy"):
        gate.touch()
        assert first() == 1
        wait_for(
            lambda: [job.status for job in running].count(dispy.DispyJob.Finished),
            lambda count: count == 2,
            what="those that ran have ended, and no others",
        )
        wait_for(
            lambda: caplog.text,
            lambda text: "2 jobs of cluster until wait: node one: used exclusively by cluster noop" in text,
            what="a warning",
        )
    wait_for(
        lambda: [reason for _, reason in seen],
        lambda reasons: any("used exclusively by cluster noop" in reason for reason in reasons),
        what="cluster_status is told for whom they wait",
    )
    assert alone.close()
    assert ordinary.wait(5)
    wait_for(lambda: reason_of(ordinary), lambda reason: not reason, what="the reason is gone")
    wait_for(lambda: seen[-1][1], lambda reason: not reason, what="cluster_status is told")


def test_exclusive_clusters_have_their_turns(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """In the order in which they came; each is told who is before it."""
    start_node("--cpus", "1")
    first = make_cluster(noop, exclusive=True)
    assert first.submit(1)() == 1
    waiting = []
    for _ in range(2):
        cluster = make_cluster(jobs.name_and, exclusive=True)
        waiting.append((cluster, cluster.submit()))
        wait_for(lambda c=cluster: reason_of(c), lambda reason: "cluster noop of" in reason, what="told")
    (second, its_job), (third, last) = waiting
    first.close()
    assert its_job.wait(5)
    wait_for(lambda: reason_of(third), lambda reason: "cluster name_and of" in reason, what="told anew")
    assert not last.finish.is_set()
    second.close()
    assert last.wait(5)


def test_exclusive_clusters_use_what_they_have(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Each node grants for itself: who is second at one works on the other, and does not wait for both."""
    nodes = [start_node("--cpus", "1", "--name", name) for name in ("one", "two")]
    ports = [("127.0.0.1", node.port) for node in nodes]
    first = make_cluster(jobs.name_and, nodes=ports[:1], exclusive=True)
    assert first.submit()()[0] == "one"
    second = make_cluster(jobs.name_and, nodes=ports, exclusive=True)
    mine, theirs = ([cluster.submit(None, 0.01) for _ in range(10)] for cluster in (first, second))
    assert dispy.wait(mine + theirs, timeout=8).not_done == set()
    assert [{job.result[0] for job in submitted} for submitted in (mine, theirs)] == [{"one"}, {"two"}]
    first.close()
    wait_for(
        lambda: {job()[0] for job in [second.submit(None, 0.02) for _ in range(4)]},
        lambda names: names == {"one", "two"},
        what="it has both nodes",
    )


def until(path: str, value: int = 0) -> tuple[str, int]:
    while not os.path.exists(path):
        time.sleep(0.005)
    return dispy_node_name, value


def test_jobs_at_the_node_go_elsewhere(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    """What had not begun where an exclusive cluster comes runs on another node, as the second attempt."""
    one = start_node("--cpus", "1", "--name", "one")
    ordinary = make_cluster(until)
    [ordinary.submit(str(gate.parent))() for _ in range(3)]  # so short that more are sent ahead
    held = [ordinary.submit(str(gate), number) for number in range(4)]
    # A job that its worker has not taken yet is given back, too: the exclusive cluster would begin at once.
    wait_for(lambda: held[0].status, lambda status: status == dispy.DispyJob.Running, what="the first runs")
    alone = make_cluster(noop, nodes=[("127.0.0.1", one.port)], exclusive=True)
    first = alone.submit(1)
    wait_for(
        lambda: alone.why(first), lambda why: "jobs of" in why and "have to end" in why, what="it is there"
    )
    gate.touch()
    assert first() == 1
    assert not held[-1].finish.is_set()
    start_node("--cpus", "1", "--name", "two")
    assert ordinary.wait(5)
    assert [job.result for job in held] == [("one", 0), ("two", 1), ("two", 2), ("two", 3)]


def test_two_programs_of_one_name_can_be_told_apart(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """By the process number, which is in the reason."""
    start_node("--cpus", "1")
    first = make_cluster(noop, exclusive=True)
    first.submit()()
    second = make_cluster(noop)
    second.submit()
    wait_for(lambda: reason_of(second), lambda reason: f"({os.getpid()})" in reason, what="told")
