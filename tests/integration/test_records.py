"""Known-short jobs share records; a long one among them holds up nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .conftest import MakeCluster, StartNode


def act(seconds: float) -> float:
    if seconds:
        time.sleep(seconds)
    return seconds


def test_a_long_job_among_short_ones_holds_up_neither_their_results_nor_their_start(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(act)
    submit: Callable[..., Any] = cluster.submit
    for job in [submit(0) for _ in range(2000)]:  # until they are known to be short
        job()
    jobs = [submit(0) for _ in range(500)]
    long = submit(3)
    jobs += [submit(0) for _ in range(500)]
    started = time.monotonic()
    assert all(job.wait(2.5) for job in jobs), "short jobs wait behind a long one"
    assert time.monotonic() - started < 2.5
    assert not long.finish.is_set()
    assert long() == 3
