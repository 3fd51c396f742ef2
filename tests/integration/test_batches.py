"""Many jobs whose arguments or results are of middling size: together they are more than one message holds."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import MakeCluster, StartNode


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
