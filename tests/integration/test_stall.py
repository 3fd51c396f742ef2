"""Work that stands still for no reason that dispy knows is not left without a word."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

import dispy.client.session.state

from .conftest import MakeCluster
from .helpers import Node, wait_for


def pid() -> int:
    return os.getpid()


def test_node_and_program_say_what_has_not_moved(
    make_cluster: MakeCluster,
    tuned_node: Callable[..., Node],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here a worker stands still before it begins a job."""
    monkeypatch.setattr(dispy.client.session.state, "STALL_S", 0.5)
    node = tuned_node(cpus=1, stall_s=0.5)
    cluster = make_cluster(pid)
    worker = cluster.submit()()
    os.kill(worker, signal.SIGSTOP)
    try:
        job = cluster.submit()
        node.wait_line(
            rf"nothing has moved for 0.5 s: a process for pid of .* was given job {job.number} and has",
            stream="stderr",
        )
        said = f"cluster pid has moved for 0.5 s: node {node.name} has 1 job, from number {job.number}, and"
        wait_for(lambda: said in caplog.text, what="the program says so")
        assert "it is on node" in cluster.why(job)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert job() == worker
