"""How many files a node keeps lists of for a program: what is more is refused, and said why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import dispy
from dispy import NodeAllocate
from dispy.protocol import limits

from .conftest import MakeCluster, StartNode
from .filing import write
from .helpers import Node, wait_for

FAULT = "node few would have {} files of this program, and takes 10; close other clusters, or send archives"


def count() -> int:
    return sum(len(files) for _, _, files in os.walk("."))


def test_a_node_keeps_no_more_lists_than_it_may(
    make_cluster: MakeCluster,
    tuned_node: Callable[..., Node],
    here: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of computations, of jobs and of what is sent, all together; what ends makes room."""
    tuned_node(listed_max=10, cpus=1, name="few")
    write(here, *[f"six/{number}" for number in range(6)], *[f"five/{number}" for number in range(5)])
    cluster = make_cluster(count, depends=["six"])
    assert cluster.submit()() == 6
    job = cluster.submit(dispy_job_depends=["five"])
    assert job() is None
    assert (job.status, FAULT.format(11) in job.exception) == (dispy.DispyJob.Terminated, True)
    assert cluster.send_file("five") == -1
    assert FAULT.format(11) in caplog.text
    other = make_cluster(count, depends=["five"])
    assert other.submit()() is None
    (shown,) = other.status().nodes
    assert FAULT.format(11) in shown.reason
    assert cluster.submit(dispy_job_depends=["five/1", "five/2", "five/3", "five/4"])() == 10
    for _ in range(3):
        assert cluster.submit(dispy_job_depends=["five/1", "five/2", "five/3"])() == 9
    assert cluster.close()
    assert make_cluster(count, depends=["five"]).submit()() == 5


def test_a_node_with_too_many_files_of_its_own_is_not_used(
    make_cluster: MakeCluster,
    start_node: StartNode,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More than one list may hold, with those of all nodes: it is said, and not sent."""
    monkeypatch.setattr(limits, "FILES_MAX", 10)
    node = start_node("--cpus", "1")
    write(here, *[f"six/{number}" for number in range(6)], *[f"five/{number}" for number in range(5)])
    cluster = make_cluster(
        count, nodes=[NodeAllocate("127.0.0.1", node.port, depends=["five"])], depends=["six"]
    )
    wait_for(lambda: caplog.text, lambda text: "is not used" in text, what="a word about it")
    assert (
        "with its own files it would have 11 files; 10 are allowed; put them into an archive" in caplog.text
    )
    assert cluster.status().nodes == []
