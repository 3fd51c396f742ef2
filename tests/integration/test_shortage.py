"""A node that runs out of descriptors says so, gives work back, and goes on when there are some again."""

from __future__ import annotations

import os
import resource
import threading

import pytest

import dispy

from .conftest import MakeCluster, StartNode
from .helpers import Node, Place, wait_for
from .jobs import name_and, until
from .others import with_accounts

pytestmark = with_accounts

FINISHED, TERMINATED = dispy.DispyJob.Finished, dispy.DispyJob.Terminated


def allow(node: Node, more: int | None) -> None:
    """Let a node open so many more descriptors; None: as many as we may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if more is not None:
        # The limit is one above the highest number: those that are free below it can be used, too.
        numbers = {int(number) for number in os.listdir(f"/proc/{node.pid}/fd")}
        limit = next(n for n in range(1 << 20) if n - len([m for m in numbers if m < n]) == more)
        most = (limit, most[1])
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, most)


@pytest.mark.parametrize("more", [1, 4, 9])
def test_what_a_node_has_no_descriptors_for_has_that_reason(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, more: int
) -> None:
    """Whether that is connections, a host or workers; what ran before runs on."""
    node = start_node("--cpus", "2")
    gate = place.root / "gate"
    before = make_cluster(until)
    running = before.submit(str(gate))
    wait_for(lambda: running.status == dispy.DispyJob.Running, what="the first runs")
    allow(node, more)
    during = make_cluster(name_and)
    jobs = [during.submit(n) for n in range(4)]
    for job in jobs:
        assert job.wait(20)
        if job.status != FINISHED:
            assert job.status == TERMINATED
            assert "Too many open files" in job.exception
    gate.touch()
    assert running.wait(20)
    assert running.status == FINISHED
    allow(node, None)
    after = make_cluster(name_and)
    assert after.submit("after")() == (node.name, "after")
    assert "fault" not in node.stderr


def test_a_shortage_that_passes_costs_time_only(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node("--cpus", "2")
    make_cluster(name_and).submit(0)()
    allow(node, 1)
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    wait_for(lambda: "Too many open files" in node.stderr, what="it lacks descriptors")
    allow(node, None)
    assert job() == (node.name, 1)


def test_clusters_made_on_several_threads_share_one_node(
    make_own_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """No node runs here: the program starts one for itself, and not one for each thread."""
    clusters: list[dispy.JobCluster] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        clusters.append(make_own_cluster(name_and))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cluster in clusters:
        assert cluster.submit(1)()[1] == 1
    assert caplog.text.count("started one with") == 1
