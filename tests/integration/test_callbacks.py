"""Callbacks: who is called, when, in which order, and what a callback may do."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

import pytest

import dispy
from dispy import DispyJob, DispyNode
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import Place, wait_for
from .jobs import name_and, until


class Recorder:
    """Takes both kinds of callbacks."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, Any, Any]] = []
        self.threads: set[str] = set()

    def on_job(self, job: DispyJob) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.append(("job", job.status, None, job))

    def on_cluster(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if status == DispyNode.AvailInfo:
            return  # comes now and then, and how often depends on how long all takes
        self.threads.add(threading.current_thread().name)
        self.events.append(("cluster", status, node, job))


def test_order_of_events(make_cluster: MakeCluster, start_node: StartNode, gate: Any) -> None:
    start_node("--name", "one", "--cpus", "1")
    recorder = Recorder()
    cluster = make_cluster(until, job_status=recorder.on_job, cluster_status=recorder.on_cluster)
    wait_for(lambda: recorder.events, what="the node is told")
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == DispyJob.Running, what="the job runs")
    gate.touch()
    job()
    cluster.shutdown()
    assert [(kind, status) for kind, status, _, _ in recorder.events] == [
        ("cluster", DispyNode.Initialized),
        ("cluster", DispyJob.Created),
        ("cluster", DispyJob.Running),
        ("job", DispyJob.Finished),
        ("cluster", DispyJob.Finished),
        ("cluster", DispyNode.Closed),
    ]
    kinds = [(kind, node and node.name, told) for kind, _, node, told in recorder.events]
    assert kinds[:5] == [
        ("cluster", "one", None),
        ("cluster", None, job),
        ("cluster", "one", job),
        ("job", None, job),
        ("cluster", "one", job),
    ]
    assert all(told is None or told is job for _, _, told in kinds), "the job itself is passed"
    assert len(recorder.threads) == 1
    assert threading.current_thread().name not in recorder.threads


def test_events_of_cancelled_jobs(make_cluster: MakeCluster, start_node: StartNode, gate: Any) -> None:
    start_node("--cpus", "1")
    recorder = Recorder()
    cluster = make_cluster(until, job_status=recorder.on_job, cluster_status=recorder.on_cluster)
    running = cluster.submit(str(gate))
    wait_for(lambda: running.status, lambda status: status == DispyJob.Running, what="the job runs")
    queued = cluster.submit(str(gate))
    cluster.cancel(queued)
    cluster.cancel(running)
    assert cluster.wait(5)
    cluster.shutdown()

    def told(job: DispyJob) -> list[tuple[str, int]]:
        return [(kind, status) for kind, status, _, about in recorder.events if about is job]

    assert [kind for kind, _ in told(queued)] == ["cluster", "job", "cluster"]
    assert told(queued)[-1] == ("cluster", DispyJob.Cancelled)
    assert [kind for kind, _ in told(running)] == ["cluster", "cluster", "job", "cluster"]
    assert told(running)[-1] == ("cluster", DispyJob.Terminated)


@pytest.mark.usefixtures("a_node")
def test_any_callable_is_a_callback(make_cluster: MakeCluster) -> None:
    seen: list[DispyJob] = []

    class Caller:
        def __call__(self, job: DispyJob) -> None:
            seen.append(job)

        def method(self, job: DispyJob) -> None:
            seen.append(job)

    def function(job: DispyJob) -> None:
        seen.append(job)

    def with_default(job: DispyJob, other: int = 5, *rest: int, **more: int) -> None:
        seen.append(job)

    callbacks = {
        "function": function,
        "method": Caller().method,
        "lambda": lambda job: seen.append(job),
        "partial": functools.partial(function),
        "object": Caller(),
        "builtin": seen.append,
        "defaults": with_default,
    }
    jobs = [make_cluster(name_and, job_status=callback).submit() for callback in callbacks.values()]
    for kind, job in zip(callbacks, jobs, strict=True):
        job()
        wait_for(lambda job=job: [one is job for one in seen], any, what=f"the callback ({kind}) is called")
    assert len(seen) == len(jobs)


def test_callbacks_that_cannot_be_called(place: Place) -> None:
    with pytest.raises(UsageError, match="job_status"):
        dispy.JobCluster(name_and, job_status=lambda: None)
    with pytest.raises(UsageError, match="cluster_status"):
        dispy.JobCluster(name_and, cluster_status=lambda _, __: None)
    with pytest.raises(UsageError, match="job_status"):
        dispy.JobCluster(name_and, job_status=5)


@pytest.mark.usefixtures("a_node")
def test_exceptions_in_callbacks_are_logged(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def on_job(job: DispyJob) -> None:
        if job.result[1] == 1:
            raise ValueError("in the callback")
        if job.result[1] == 2:
            raise SystemExit(3)
        seen.append(job.result[1])

    cluster = make_cluster(name_and, job_status=on_job)
    with caplog.at_level(logging.ERROR, "dispy"):
        jobs = [cluster.submit(n) for n in range(5)]
        assert cluster.wait(5)
        cluster.shutdown()
    assert [job.status for job in jobs] == [DispyJob.Finished] * 5
    assert sorted(seen) == [0, 3, 4]
    assert "Traceback" in caplog.text
    assert "ValueError: in the callback" in caplog.text


def test_submit_cancel_and_wait_in_callbacks(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    seen: list[Any] = []
    done = threading.Event()

    def on_job(job: DispyJob) -> None:
        try:
            value = job.result[1] if job.result else "cancelled"
            seen.append(value)
            if value == 1:
                inner = cluster.submit(2)
                assert inner.wait(5), "a job submitted by a callback does not run while the callback waits"
                assert inner()[1] == 2
                victim = cluster.submit(3, 600)
                assert cluster.cancel(victim) == 0
                assert victim.wait(5)
                assert cluster.submit_node(job.ip_addr, 4)()[1] == 4
                assert cluster.node_jobs(job.ip_addr) == []
                assert cluster.status().jobs_pending == 0
                assert cluster.wait(5)
                cluster.discover_nodes(["*"])
                seen.append("all done")
                done.set()
        except BaseException as error:
            seen.append(error)
            done.set()

    cluster = make_cluster(name_and, job_status=on_job)
    cluster.submit(1)
    assert done.wait(8), seen
    assert seen[:2] == [1, "all done"]
    cluster.shutdown()
    assert seen[2:] == [2, "cancelled", 4]


@pytest.mark.usefixtures("a_node")
def test_chain_of_jobs_through_callbacks(make_cluster: MakeCluster) -> None:
    """Each event submits the next job, as programs that schedule themselves do."""
    done = threading.Event()
    count = 0

    def on_status(status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        nonlocal count
        if status == DispyNode.Initialized or (status == DispyJob.Finished and count < 50):
            count += 1
            assert node is not None
            cluster.submit_node(node, count)
        elif status == DispyJob.Finished:
            done.set()

    cluster = make_cluster(name_and, cluster_status=on_status)
    assert done.wait(8), count
    assert cluster.wait(5)
    assert cluster.status().nodes[0].jobs_done >= 50


@pytest.mark.usefixtures("a_node")
def test_closing_in_a_callback(make_cluster: MakeCluster) -> None:
    closed: list[Any] = []
    done = threading.Event()

    def on_job(job: DispyJob) -> None:
        try:
            closed.append(cluster.close())
        finally:
            done.set()

    cluster = make_cluster(name_and, job_status=on_job)
    cluster.submit()
    assert done.wait(5)
    assert closed == [True]
