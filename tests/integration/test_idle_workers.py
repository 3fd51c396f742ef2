"""Processes for jobs of open clusters that have had nothing to do for long."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import dispy
from dispy import NodeAllocate

from .conftest import MakeCluster
from .helpers import Node, is_alive, wait_for, wait_gone


def prepare(path: str) -> None:
    global where
    where = path


def leave_mark(path: str = "") -> None:
    open(f"{where}/clean {os.getpid()}", "w").close()


def meet(path: str) -> int:
    """Two jobs run at once."""
    os.mkdir(f"{path}/{os.getpid()}")
    while len(os.listdir(path)) < 2:
        time.sleep(0.002)
    return os.getpid()


@pytest.mark.parametrize("per", ["node", "worker"])
def test_those_that_were_idle_for_longest_end_and_come_back_with_jobs(
    make_cluster: MakeCluster, tuned_node: Callable[..., Node], tmp_path: Path, per: str
) -> None:
    """Two for each CPU and eight stay. Workers that have called ``setup`` themselves call ``cleanup``."""
    node = tuned_node(cpus=2, idle_s=0.5)
    marks = tmp_path / "marks"
    marks.mkdir()
    allocation = NodeAllocate("127.0.0.1", node.port, setup_args=(str(marks),))

    def workers_of(cluster: dispy.JobCluster) -> list[int]:
        path = tmp_path / f"{time.monotonic_ns()}"
        path.mkdir()
        return [job() for job in [cluster.submit(str(path)) for _ in range(2)]]

    clusters = []
    pids = []
    for _ in range(7):
        cluster = make_cluster(meet, setup=prepare, cleanup=leave_mark, setup_per=per, nodes=[allocation])
        clusters.append(cluster)
        pids.append(workers_of(cluster))
    wait_gone(pids[0], what="the workers of the first cluster end")
    assert all(is_alive(pid) for others in pids[1:] for pid in others)
    wanted = sorted(f"clean {pid}" for pid in pids[0] if per == "worker")
    wait_for(lambda: sorted(os.listdir(marks)), lambda seen: seen == wanted, what="they are cleaned up")
    again = workers_of(clusters[0])
    assert not set(again) & {pid for others in pids for pid in others}
    wait_gone(pids[1], what="those of the next cluster end")
    assert all(is_alive(pid) for others in [*pids[2:], again] for pid in others)
