"""Many jobs whose arguments or results are of middling size: together they are more than one message holds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dispy.protocol import limits

from .conftest import MakeCluster, StartNode
from .helpers import SOON_S


def take(value: Any) -> Any:
    return value


@pytest.mark.parametrize(("count", "size"), [(3000, 6800), (600, 60_000)])
def test_many_jobs_of_middling_size_come_back(
    make_cluster: MakeCluster, start_node: StartNode, count: int, size: int
) -> None:
    """The node has learned that jobs are short, and takes thousands at once."""
    start_node("--cpus", "2")
    cluster = make_cluster(take)
    assert [job() for job in [cluster.submit(n) for n in range(2500)]] == list(range(2500))
    text = "x" * size
    assert all(job() == text for job in [cluster.submit(text) for _ in range(count)])
    assert all(result == text for result in cluster.map([text] * count))


def test_what_cannot_be_said_ends_jobs_with_the_reason(
    make_own_cluster: MakeCluster, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is larger than a node takes, which is a fault of ours: it is not sent again without end."""
    start_node("--cpus", "2")
    cluster = make_own_cluster(take)
    assert cluster.submit(1)() == 1
    with monkeypatch.context() as fault:
        fault.setattr(limits, "CONTROL_FRAME_MAX", 50_000)
        job = cluster.submit("x" * 60_000)
        assert job.wait(SOON_S)
    assert job.status == job.Abandoned
    assert re.search(r"a RunJobs of 60\d{3} bytes was to be sent; 50000 are allowed", job.exception or "")
    assert cluster.submit("again")() == "again"
