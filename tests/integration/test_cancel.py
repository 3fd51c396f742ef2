"""Cancel and close: queued jobs, running ones, those that go on, and those that come after."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import Place, wait_for, wait_gone
from .schedulers import IS_SHARED

CANCELLED, TERMINATED, FINISHED = (
    dispy.DispyJob.Cancelled,
    dispy.DispyJob.Terminated,
    dispy.DispyJob.Finished,
)


PATIENCE_S = 5
"""Grace period for jobs that end in order: on a busy machine one is held up for longer than the usual half second."""


def long(how: str = "plain") -> Any:
    """Runs until it is interrupted; tells by a provisional result that it runs."""
    children = []
    if how == "ignores":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children.append(
            subprocess.Popen(["sh", "-c", "trap '' INT TERM; setsid sleep 600 & sleep 600"]).pid
        )
    try:
        print("started", flush=True)
        # Inside: the cancel may come before this returns.
        dispy_provisional_result([os.getpid(), *children])
        while True:
            time.sleep(600)
    except KeyboardInterrupt:
        if how == "catches":
            print("caught")
            return "best value"
        if how == "fails":
            raise ValueError("while ending") from None
        if how == "goes on":
            while True:
                time.sleep(600)
        raise


def wait_runs(job: dispy.DispyJob) -> list[int]:
    """Wait until a job has told that it runs; returns the pids that it told."""
    pids: list[int] = wait_for(lambda: job.result, what="the job runs")
    return pids


def test_queued_job_ends_at_once(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(long)
    running = cluster.submit()
    wait_runs(running)
    queued = [cluster.submit("never") for _ in range(500)]
    started = time.monotonic()
    for job in (queued[0], queued[250], queued[499]):
        assert cluster.cancel(job) == 0
        assert job.wait(5), "a queued job does not end"
        assert job.status == CANCELLED
        assert job() is None
        assert (job.start_time, job.end_time, job.stdout) == (None, None, None)
        assert job.exception == "cancelled"
        assert cluster.cancel(job) == -1
    assert time.monotonic() - started < 5
    for job in queued:
        cluster.cancel(job)
    wait_for(lambda: cluster.status().jobs_pending, lambda count: count == 1, what="one job left")
    assert running.result, "the running job was hit"
    assert not running.finish.is_set()


def test_job_without_any_node_can_be_cancelled(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "LocalNode", False)
    cluster = make_cluster(long)
    job = cluster.submit()
    assert cluster.cancel(job) == 0
    assert job.wait(5)
    assert job.status == CANCELLED


@pytest.mark.usefixtures("a_node")
def test_running_job_is_interrupted(make_cluster: MakeCluster) -> None:
    config.CancelGrace = PATIENCE_S
    cluster = make_cluster(long)
    job = cluster.submit()
    (pid,) = wait_runs(job)
    assert cluster.cancel(job) == 0
    assert job.wait(PATIENCE_S)
    assert job.status == TERMINATED
    assert job() is None
    assert job.exception == "cancelled"
    assert (job.stdout, job.stderr) == (None, None)
    assert job.start_time < job.end_time
    again = cluster.submit()
    wait_runs(again)
    cluster.cancel(again)
    assert again.wait(PATIENCE_S)
    assert os.path.exists(f"/proc/{pid}"), "a worker was lost though the job ended in order"


@pytest.mark.usefixtures("a_node")
def test_status_is_cancelled_until_the_end_is_known(make_cluster: MakeCluster) -> None:
    config.CancelGrace = 1.0
    cluster = make_cluster(long)
    job = cluster.submit("goes on")
    wait_runs(job)
    cluster.cancel(job)
    assert job.status == CANCELLED
    assert not job.finish.is_set()
    assert job.wait(5)
    assert job.status == TERMINATED


@pytest.mark.usefixtures("a_node")
def test_caught_interrupt_gives_the_best_value(make_cluster: MakeCluster) -> None:
    config.CancelGrace = PATIENCE_S
    cluster = make_cluster(long)
    job = cluster.submit("catches")
    wait_runs(job)
    cluster.cancel(job)
    assert job() == "best value"
    assert job.status == FINISHED
    assert job.stdout == "started\ncaught\n"
    assert job.exception is None


@pytest.mark.usefixtures("a_node")
def test_exception_while_ending(make_cluster: MakeCluster) -> None:
    config.CancelGrace = PATIENCE_S
    cluster = make_cluster(long)
    job = cluster.submit("fails")
    wait_runs(job)
    cluster.cancel(job)
    job()
    assert job.status == TERMINATED
    assert "ValueError: while ending" in job.exception


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("how", ["ignores", "goes on"])
@pytest.mark.parametrize("grace", [0.3, 1.0])
def test_job_that_goes_on_is_killed_after_the_grace_period(
    make_cluster: MakeCluster, how: str, grace: float
) -> None:
    config.CancelGrace = grace
    cluster = make_cluster(long)
    job = cluster.submit(how)
    pids = wait_runs(job)
    started = time.monotonic()
    cluster.cancel(job)
    assert job.wait(grace + 4), "it is not killed"
    assert grace * 0.9 < time.monotonic() - started
    assert job.status == TERMINATED
    assert "cancelled" in job.exception
    assert "killed" in job.exception
    wait_gone(pids, what="the job and its descendants are gone", deadline_s=4)
    assert make_cluster(abs).submit(-1)() == 1


@pytest.mark.usefixtures("a_node")
def test_cancel_twice(make_cluster: MakeCluster) -> None:
    config.CancelGrace = 0.5
    cluster = make_cluster(long)
    job = cluster.submit("goes on")
    wait_runs(job)
    assert cluster.cancel(job) == 0
    started = time.monotonic()
    for _ in range(10):
        cluster.cancel(job)
    assert job.wait(5)
    assert time.monotonic() - started < 4
    assert cluster.cancel(job) == -1


@pytest.mark.usefixtures("a_node")
def test_cancel_of_a_foreign_job(make_cluster: MakeCluster) -> None:
    first, second = make_cluster(abs), make_cluster(long)
    job = second.submit()
    wait_runs(job)
    assert first.cancel(job) == -1
    assert not job.wait(0.05)


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("several", [False, True], ids=["one", "list"])
def test_a_callback_cancels_the_job_that_it_is_called_with(
    make_cluster: MakeCluster, several: bool
) -> None:
    """With a provisional result that is a copy, which stands for the job; it does so in its cluster only."""
    heard: list[tuple[int, int, str]] = []

    def on_job(job: dispy.DispyJob) -> None:
        if job.status == dispy.DispyJob.ProvisionalResult:
            given = [job] if several else job
            heard.append((other.cancel(given), cluster.cancel(given), cluster.why(job)))

    cluster, other = make_cluster(long, job_status=on_job), make_cluster(long)
    others_first = other.submit()  # which has the same number
    wait_runs(others_first)
    job = cluster.submit("catches")
    assert job.wait(10)
    assert (job.status, job.result) == (FINISHED, "best value")
    assert not others_first.wait(0.05)
    ((refused, cancelled, why),) = heard
    assert (refused, cancelled) == (-1, 0)
    assert "node" in why


@pytest.mark.usefixtures("a_node")
def test_waiting_on_a_cancelled_job_ends(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(long)
    job = cluster.submit()
    wait_runs(job)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(job())) for _ in range(3)]
    for thread in threads:
        thread.start()
    cluster.cancel(job)
    for thread in threads:
        thread.join(8)
    assert results == [None] * 3


@pytest.mark.usefixtures("a_node")
def test_interrupt_that_the_job_sends_itself_is_an_exception(make_cluster: MakeCluster) -> None:
    """Only the interrupt of a cancel is shown as such."""
    cluster = make_cluster(raise_interrupt)
    job = cluster.submit()
    job()
    assert job.status == TERMINATED
    assert "KeyboardInterrupt" in job.exception


def raise_interrupt() -> None:
    raise KeyboardInterrupt


# A signal never hits the next job.


def short(seconds: float, number: int) -> int:
    if seconds:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
    return number


@pytest.mark.parametrize("batch", [1, 40], ids=["few at a time", "many at a time"])
def test_signal_never_hits_the_next_job(
    make_cluster: MakeCluster, start_node: StartNode, batch: int
) -> None:
    """Thousands of jobs of about the time that a cancel takes to arrive."""
    config.CancelGrace = PATIENCE_S
    start_node("--cpus", "2")
    cluster = make_cluster(short)
    draw = random.Random(batch)
    total, hit = 3000, 0
    jobs: list[dispy.DispyJob] = []
    cancelled: set[int] = set()
    while len(jobs) < total:
        for _ in range(batch * 2):
            jobs.append(cluster.submit(draw.choice((0, 0.0001, 0.0003, 0.001)), len(jobs)))
        if batch == 1:
            draw.choice(jobs[-2:]).wait(draw.choice((0, 0.0002, 0.0005)))
        for job in draw.sample(jobs[-batch * 6 :], k=min(batch, len(jobs))):
            if cluster.cancel(job) == 0:
                cancelled.add(job.number)
    assert cluster.wait(20), cluster.status()
    for number, job in enumerate(jobs):
        if job.number in cancelled:
            hit += job.status in (CANCELLED, TERMINATED)
            assert job.status == FINISHED or job.exception == "cancelled", (job.status, job.exception)
        else:
            assert job.status == FINISHED, f"job {number} was not cancelled, but ended: {job.exception}"
        assert job.result == (number if job.status == FINISHED else None)
    assert hit > total // 50, "too few cancels arrived in time for this test to mean anything"


@pytest.mark.parametrize("is_list", [False, True], ids=["one by one", "a list"])
def test_many_queued_jobs(make_cluster: MakeCluster, start_node: StartNode, is_list: bool) -> None:
    """Each is Cancelled at once to look at, and ends soon; nothing of them is kept."""
    start_node("--cpus", "1")
    cluster = make_cluster(long)
    running = cluster.submit()
    wait_runs(running)
    queued = [cluster.submit("never") for _ in range(20_000)]
    kept = queued.pop(10_000)
    if is_list:
        assert cluster.cancel(queued) == 0
    else:
        assert {cluster.cancel(job) for job in queued} == {0}
    assert {job.status for job in queued} == {CANCELLED}
    for job in reversed(queued):
        assert job.wait(5)
        assert (job.status, job.exception, job.result) == (CANCELLED, "cancelled", None)
    cluster.status()  # the engine has done what it was about
    assert cluster.cancel(queued) == cluster.cancel(queued[0]) == -1
    if not IS_SHARED:
        computation = cluster._session.backend.service.state.computations[EMBEDDED, cluster._session.number]
        assert (len(computation.queue), len(computation.cancelled), computation.open) == (1, 0, 2)
    assert set(cluster._session.jobs.values()) == {running, kept}
    assert not cluster._session.cancels
    assert not cluster._session.inbox
    assert cluster.cancel([kept, running]) == 0
    assert running.wait(5)


def test_what_cancel_takes(make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this cluster, one or several; nothing is cancelled if one of them is no job."""
    monkeypatch.setattr(config, "LocalNode", False)
    cluster, other = make_cluster(short), make_cluster(short)
    jobs = [cluster.submit(0, number) for number in range(3)]
    for wrong in (None, "job", 1, [jobs[0], None], jobs[0].id):
        with pytest.raises(UsageError, match="cancel takes"):
            cluster.cancel(wrong)
    assert [job.status for job in jobs] == [dispy.DispyJob.Created] * 3
    assert cluster.cancel([]) == 0
    assert other.cancel(jobs[0]) == other.cancel(jobs) == -1
    assert cluster.cancel(job for job in jobs) == 0
    assert all(job.wait(5) for job in jobs)
    cluster.close()
    with pytest.raises(UsageError, match="closed"):
        cluster.cancel(jobs[0])


class Slow:
    """Takes its time to be rebuilt where it arrives: until there is a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _rebuild, (self.path,)


def _rebuild(path: str) -> Slow:
    while not os.path.exists(path):
        time.sleep(0.005)
    return Slow(path)


@pytest.mark.usefixtures("a_node")
def test_job_that_has_ended_cannot_be_cancelled(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture, gate: Path
) -> None:
    """Though its result is still being rebuilt: it ends once, as what it was, and is counted once."""
    cluster = make_cluster(Slow, depends=[_rebuild])
    job = cluster.submit(str(gate))
    wait_for(lambda: cluster._session.ended, what="the result has arrived")
    cluster.cancel(job)
    cluster.status()
    gate.touch()
    assert job().path == str(gate)
    assert job.status == FINISHED
    if not IS_SHARED:
        assert (
            cluster._session.backend.service.state.computations[EMBEDDED, cluster._session.number].open == 0
        )
    assert cluster.submit(str(gate))().path == str(gate)
    assert "failed" not in caplog.text


@pytest.mark.usefixtures("a_node")
def test_close_does_not_wait_for_results_that_are_never_rebuilt(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture, gate: Path
) -> None:
    """The job is given up; its result, when it comes in the end, changes nothing."""
    cluster = make_cluster(Slow, depends=[_rebuild])
    job = cluster.submit(str(gate))
    wait_for(lambda: cluster._session.ended, what="the result has arrived")
    assert cluster.close(terminate=True) is True
    assert job.wait(0)
    assert job.status == dispy.DispyJob.Abandoned
    gate.touch()
    wait_for(lambda: cluster._session.ended, lambda ended: not ended, what="the result is rebuilt")
    assert (job.status, job.result) == (dispy.DispyJob.Abandoned, None)
    assert "failed" not in caplog.text


# Close.


def test_close_of_many_with_a_node_that_stands_still(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """It takes the grace period and two seconds, and every job has ended then."""
    nodes = [start_node("--cpus", "1", "--name", name) for name in ("one", "two")]
    cluster = make_cluster(long)
    running = [cluster.submit() for _ in nodes]
    for job in running:
        wait_runs(job)
    queued = [cluster.submit() for _ in range(3000)]
    nodes[0].send(signal.SIGSTOP)
    started = time.monotonic()
    try:
        assert cluster.close(terminate=True) is True
        assert time.monotonic() - started < config.CancelGrace + 2.0 + 3.0
    finally:
        nodes[0].send(signal.SIGCONT)
    assert {job.status for job in running} == {TERMINATED, dispy.DispyJob.Abandoned}
    statuses = [job.status for job in queued]
    # What lay at the node that stands still is given up, all else is cancelled.
    assert set(statuses) <= {CANCELLED, dispy.DispyJob.Abandoned}
    assert statuses.count(CANCELLED) > 2900
    assert all(job.finish.is_set() for job in running + queued)


@pytest.mark.usefixtures("a_node")
def test_close_waits(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(short)
    jobs = [cluster.submit(0.01, n) for n in range(20)]
    assert cluster.close() is True
    assert [job.result for job in jobs] == list(range(20))
    assert cluster.close() is None


@pytest.mark.usefixtures("a_node")
def test_close_with_a_timeout_changes_nothing_if_jobs_are_left(make_cluster: MakeCluster) -> None:
    config.CancelGrace = PATIENCE_S
    cluster = make_cluster(long)
    job = cluster.submit("catches")
    wait_runs(job)
    started = time.monotonic()
    assert cluster.close(timeout=0.2) is False
    assert 0.15 < time.monotonic() - started < 4
    other = cluster.submit("catches")
    for one in (job, other):
        if one is other:
            wait_runs(one)
        cluster.cancel(one)
        assert one() == "best value"
    assert cluster.close(timeout=5) is True


@pytest.mark.parametrize("timeout", [None, 0, 0.1])
def test_close_terminating(
    make_cluster: MakeCluster,
    start_node: StartNode,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float | None,
) -> None:
    # On a busy machine half a second may not be enough to return something.
    monkeypatch.setattr(dispy.config, "CancelGrace", 2)
    start_node("--cpus", "2")
    cluster = make_cluster(long)
    catching, going_on = cluster.submit("catches"), cluster.submit("ignores")
    pids = wait_runs(catching) + wait_runs(going_on)
    queued = [cluster.submit() for _ in range(10)]
    started = time.monotonic()
    assert cluster.close(timeout=timeout, terminate=True) is True
    assert time.monotonic() - started < 7
    assert (catching.status, catching.result) == (FINISHED, "best value")
    assert going_on.status == TERMINATED
    assert {job.status for job in queued} == {CANCELLED}
    assert all(job.finish.is_set() for job in [catching, going_on, *queued])
    assert [job() for job in queued] == [None] * 10
    wait_gone(pids, what="what ran for the cluster is gone", deadline_s=3)


@pytest.mark.usefixtures("a_node")
def test_close_from_another_thread_ends_waits(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(long)
    job = cluster.submit()
    wait_runs(job)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (cluster.wait(), ended.set()))
    thread.start()
    cluster.close(terminate=True)
    assert ended.wait(8)
    thread.join()


def test_cancelled_jobs_free_their_cpu(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    node = start_node("--cpus", "2")
    cluster = make_cluster(long)
    for _ in range(3):
        jobs = [cluster.submit(how) for how in ("plain", "ignores")]
        for job in jobs:
            wait_runs(job)
        for job in jobs:
            cluster.cancel(job)
        for job in jobs:
            assert job.wait(5), cluster.status()
    assert all(shown.busy == 0 for shown in cluster.status().nodes)
    assert node.process.poll() is None
