"""Known-short jobs share records; a long one among them holds up nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import MakeCluster, StartNode
from .helpers import SOON_S


def act(path: str) -> str:
    while path and not os.path.exists(path):
        time.sleep(0.005)
    return path


def test_a_long_job_among_short_ones_holds_up_neither_their_results_nor_their_start(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(act)
    submit: Callable[..., Any] = cluster.submit
    for job in [submit("") for _ in range(2000)]:  # until they are known to be short
        job()
    jobs = [submit("") for _ in range(500)]
    long = submit(str(gate))
    jobs += [submit("") for _ in range(500)]
    assert all(job.wait(SOON_S) for job in jobs), "short jobs wait behind a long one"
    assert not long.finish.is_set()
    gate.touch()
    assert long() == str(gate)
