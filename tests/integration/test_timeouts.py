"""Seconds to wait, wherever they are given: endless ones are no error, negative ones no wait, and NaN is refused."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import UsageError

from .conftest import MakeCluster
from .helpers import wait_for
from .jobs import name_and, until


class Waiting:
    """A cluster with a job."""

    def __init__(self, cluster: dispy.JobCluster, *args: Any) -> None:
        self.cluster = cluster
        self.args = args
        self.job = cluster.submit(*args)


def second(job: dispy.DispyJob, timeout: Any) -> bool:
    """Waits where another thread does, too."""
    job.finish  # makes the event
    return job.wait(timeout)


WAITS: dict[str, Callable[[Waiting, Any], Any]] = {
    "job.wait": lambda w, timeout: w.job.wait(timeout),
    "job.wait of several": lambda w, timeout: second(w.job, timeout),
    "cluster.wait": lambda w, timeout: w.cluster.wait(timeout),
    "as_completed": lambda w, timeout: list(dispy.as_completed([w.job], timeout=timeout)),
    "dispy.wait": lambda w, timeout: dispy.wait([w.job], timeout).done,
    "map": lambda w, timeout: list(w.cluster.map([*w.args] * 2, timeout=timeout)),
    "close": lambda w, timeout: w.cluster.close(timeout),
    "recover_jobs": lambda _, timeout: [dispy.recover_jobs(timeout=timeout)],
}

ENDLESS = [math.inf, 1e300, 1e12, 10**400, threading.TIMEOUT_MAX, None]


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("way", WAITS)
@pytest.mark.parametrize("has_callback", [False, True], ids=["", "callback"])
def test_endless_timeouts(make_cluster: MakeCluster, way: str, has_callback: bool) -> None:
    callback = (lambda _: None) if has_callback else None
    cluster = make_cluster(name_and, job_status=callback)
    for timeout in ENDLESS:
        if way == "close":
            cluster = make_cluster(name_and, job_status=callback)
        assert WAITS[way](Waiting(cluster, 5, 0.01), timeout), timeout


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("way", WAITS)
def test_no_number_is_refused(make_cluster: MakeCluster, way: str) -> None:
    waiting = Waiting(make_cluster(name_and), 5)
    for value in (math.nan, "5", True, [1]):
        with pytest.raises(UsageError, match="timeout must be a number of seconds, not"):
            WAITS[way](waiting, value)
    assert waiting.job()[1] == 5


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("way", [way for way in WAITS if way != "recover_jobs"])
def test_negative_timeouts_do_not_wait(make_cluster: MakeCluster, gate: Path, way: str) -> None:
    """-1 is what locks take for endless."""
    waiting = Waiting(make_cluster(until), str(gate))
    wait_for(lambda: waiting.job.status == dispy.DispyJob.Running, what="the job runs")
    for timeout in (-1, -0.5, -math.inf, 0):
        if way in ("as_completed", "map"):
            with pytest.raises(TimeoutError):
                WAITS[way](waiting, timeout)
        else:
            assert not WAITS[way](waiting, timeout), timeout
    gate.touch()
