"""Faults of the node's own program: one on behalf of a computation ends that computation, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dispy

from .conftest import MakeCluster
from .helpers import Node, Place

FAULTY = """
import sys
from dispy.cli.node import main
from dispy.core import execution as core
from dispy.node.service import NodeService

kind, which, count = getattr(core, sys.argv.pop(1)), sys.argv.pop(1), 0
perform = NodeService._perform_by_type[kind]

def fail(service, action):
    global count
    owner = service._owners.get(getattr(action, "worker", None))
    key = owner[0].key if owner is not None else action.key
    computation = service._machine.state.computations.get(key)
    if computation is not None and computation.spec.name == which:
        count += 1
        raise RuntimeError(f"a fault of {kind.__name__}")
    return perform(service, action)

NodeService._perform_by_type[kind] = fail
main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    return path


@pytest.fixture(params=["StartHost", "ForkWorker", "Offer", "StageFiles"])
def node(request: pytest.FixtureRequest, place: Place, script: Path) -> Iterator[Node]:
    """A node that has a fault at one action, for the computation ``hurt``."""
    command = [sys.executable, str(script), request.param, "hurt"]
    made = Node(place, "--listen_port", "0", "--cpus", "2", command=command)
    try:
        yield made.wait_listens()
    finally:
        made.end()


def hurt(data: bytes) -> int:
    return len(data)


def test_a_fault_ends_one_computation(node: Node, make_cluster: MakeCluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    other = make_cluster(os.getpid)
    assert isinstance(other.submit()(), int)
    cluster = make_cluster(hurt, depends=[str(tmp_path / "file")])
    jobs = [cluster.submit(bytes(1 << 20)) for _ in range(3)]
    for job in jobs:
        job.wait(20)
        assert job.status in (
            dispy.DispyJob.Finished,
            dispy.DispyJob.Terminated,
            dispy.DispyJob.Abandoned,
        ), job
    fault = "has a fault: RuntimeError: a fault of"
    assert all(job.exception is None or fault in job.exception or "died" in job.exception for job in jobs)
    assert isinstance(other.submit()(), int)
    assert node.process.poll() is None
    assert "is given up; please report this" in node.stderr
    assert node.stop() == 0
