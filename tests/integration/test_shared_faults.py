"""Faults of dispy between a program and its shared scheduler: jobs end with a reason, and others go on."""

from __future__ import annotations

from typing import Any

import pytest

import dispy
from dispy.protocol import limits

from .conftest import StartNode
from .helpers import SOON_S
from .schedulers import Schedulers


def take(data: Any) -> Any:
    return data


def test_a_command_that_is_too_large(
    schedulers: Schedulers, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent again without end: the jobs are lost, the cluster goes on."""
    start_node("--cpus", "2")
    schedulers.start()
    cluster = dispy.SharedJobCluster(take)
    try:
        assert cluster.submit(1)() == 1
        with monkeypatch.context() as fault:
            fault.setattr(limits, "CONTROL_FRAME_MAX", 50_000)
            job = cluster.submit("x" * 60_000)
            assert job.wait(SOON_S)
        assert job.status == job.Abandoned
        again = cluster.submit("again")
        assert again.wait(SOON_S)
        assert again.result == "again"
    finally:
        cluster.close(terminate=True)
        cluster.shutdown()
