"""``as_completed``, ``wait``, ``await job`` and ``max_queued``, with real jobs."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import DispyJob
from dispy.errors import UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import wait_for


def when(path: str, value: Any = None) -> Any:
    while not os.path.exists(path):
        time.sleep(0.005)
    if isinstance(value, str):
        raise ValueError(value)
    return value


def test_as_completed(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(when)
    late = cluster.submit(str(gate), "late")
    early = [cluster.submit("/", n) for n in range(20)]
    assert early[7]() == 7
    seen = dispy.as_completed([late, *early, early[0]], timeout=20)
    ended = [next(seen) for _ in early]
    assert set(ended) == set(early)
    gate.touch()
    assert list(seen) == [late]
    assert list(dispy.as_completed([late, *early])) == [late, *early]
    assert list(dispy.as_completed([])) == []


def test_as_completed_in_time(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when)
    job = cluster.submit(str(gate))
    results = dispy.as_completed([job], timeout=0.05)
    with pytest.raises(TimeoutError, match="1 job has not ended"):
        next(results)
    assert job._waiter is None
    left = dispy.as_completed([job])
    left.close()
    with pytest.raises(UsageError, match="takes jobs, not 5"):
        dispy.as_completed([5])
    with pytest.raises(UsageError, match="into a list"):
        dispy.wait(job)
    with pytest.raises(UsageError, match="return_when"):
        dispy.wait([job], return_when="SOON")


def test_wait(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(when)
    open_job = cluster.submit(str(gate))
    quick = [cluster.submit("/", n) for n in range(5)]
    first = dispy.wait([open_job, *quick], return_when=dispy.FIRST_COMPLETED)
    assert first.done <= set(quick)
    assert first.done
    assert first.done | first.not_done == {open_job, *quick}
    wait_for(lambda: dispy.wait(quick, 5), lambda both: not both.not_done, what="the quick ones")
    assert dispy.wait([open_job, *quick], 0) == (set(quick), {open_job})
    failing = cluster.submit("/", "no")
    assert failing in dispy.wait([open_job, failing], return_when=dispy.FIRST_EXCEPTION).done
    gate.touch()
    everything = [open_job, *quick, failing]
    assert dispy.wait(everything) == (set(everything), set())
    assert dispy.wait([], 0, dispy.ALL_COMPLETED) == (set(), set())


@pytest.mark.usefixtures("a_node")
def test_await(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(when)

    async def run() -> None:
        jobs = [cluster.submit("/", n) for n in range(300)]
        assert await asyncio.gather(*jobs, *jobs) == [*range(300)] * 2
        assert [await job for job in jobs] == list(range(300))
        failed = cluster.submit("/", "broken")
        assert await failed is None
        assert isinstance(failed.error, ValueError)

    threads = threading.active_count()
    asyncio.run(run())
    # A second loop after the first has been closed, and debug mode's checks.
    asyncio.run(run(), debug=True)
    assert threading.active_count() <= threads + 3  # those of the engine, none per wait


@pytest.mark.usefixtures("a_node")
def test_many_tasks_threads_and_loops_wait_for_one_job(make_cluster: MakeCluster, gate: Path) -> None:
    job = make_cluster(when).submit(str(gate), 5)
    seen: list[Any] = []
    begun = threading.Barrier(9)

    async def await_it() -> None:
        tasks = [asyncio.ensure_future(job) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.to_thread(begun.wait)
        seen.extend(await asyncio.gather(*tasks))

    def call_it() -> None:
        begun.wait()
        seen.append(job())

    def complete_it() -> None:
        begun.wait()
        seen.extend(one() for one in dispy.as_completed([job]))

    def finish_it() -> None:
        begun.wait()
        job.finish.wait()
        seen.append(job.result)

    ways = [lambda: asyncio.run(await_it())] * 3 + [call_it, call_it, complete_it, complete_it, finish_it]
    threads = [threading.Thread(target=way) for way in ways]
    for thread in threads:
        thread.start()
    begun.wait()
    gate.touch()
    for thread in threads:
        thread.join()
    assert seen == [5] * 35


@pytest.mark.usefixtures("a_node")
def test_await_can_be_given_up(make_cluster: MakeCluster, gate: Path) -> None:
    job = make_cluster(when).submit(str(gate), 1)

    async def run() -> Any:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.01)
        assert job._waiter is None
        task = asyncio.ensure_future(job)
        await asyncio.sleep(0)
        gate.touch()
        return await task

    assert asyncio.run(run()) == 1

    async def leave() -> None:
        task = asyncio.ensure_future(other)
        await asyncio.sleep(0)
        assert not task.done()

    gate.unlink()
    other = job._session.cluster.submit(str(gate), 2)
    asyncio.run(leave())
    gate.touch()
    assert other() == 2


def test_outside_a_loop(make_cluster: MakeCluster, gate: Path) -> None:
    job = make_cluster(when).submit(str(gate))
    with pytest.raises(RuntimeError, match="no running event loop"):
        job.__await__().send(None)


# max_queued


def test_submit_waits_for_room(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(when, max_queued=3)
    jobs: list[DispyJob] = []
    most = []

    def produce() -> None:
        for n in range(40):
            jobs.append(cluster.submit(str(gate), n))
            most.append(len(cluster._session.jobs))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    # What has been submitted may not be in the list yet when the next one waits.
    wait_for(
        lambda: (cluster._session.room_waiters, len(jobs)),
        lambda seen: seen[0] and seen[1] == 3,
        what="somebody waits for room",
    )
    assert len(cluster._session.jobs) == 3
    gate.touch()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert sorted(job() for job in jobs) == sorted([*range(40)] * 4)
    with pytest.raises(UsageError, match="max_queued"):
        dispy.JobCluster(when, max_queued=0)


@pytest.mark.usefixtures("a_node")
def test_an_argument_that_cannot_be_sent_takes_no_room(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(when, max_queued=1)
    for _ in range(3):
        with pytest.raises(UsageError):
            cluster.submit("/", threading.Lock())
    assert [cluster.submit("/", n)() for n in range(3)] == [0, 1, 2]


@pytest.mark.usefixtures("a_node")
def test_callbacks_submit_without_waiting(make_cluster: MakeCluster) -> None:
    more: list[DispyJob] = []
    enough = threading.Event()

    def on_job(job: DispyJob) -> None:
        if len(more) < 6:
            more.extend(cluster.submit("/", n) for n in range(3))
        else:
            enough.set()

    cluster = make_cluster(when, job_status=on_job, max_queued=2)
    cluster.submit("/", 0)
    assert enough.wait(8)
    assert [job() for job in more] == [0, 1, 2] * 2


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("terminate", [False, True])
def test_close_ends_the_wait_for_room(make_cluster: MakeCluster, gate: Path, terminate: bool) -> None:
    cluster = make_cluster(when, max_queued=1)
    cluster.submit(str(gate))
    faults: list[BaseException] = []

    def submit() -> None:
        try:
            cluster.submit("/")
        except BaseException as error:
            faults.append(error)

    # One alone where the room comes at once: others might begin to submit after that.
    threads = [threading.Thread(target=submit) for _ in range(1 if terminate else 3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: cluster._session.room_waiters, what="somebody waits for room")
    closer = threading.Thread(target=lambda: cluster.close(terminate=terminate))
    closer.start()
    for thread in threads:
        thread.join()
    assert [type(fault) for fault in faults] == [UsageError] * len(threads)
    gate.touch()
    closer.join()


def test_ctrl_c_ends_the_wait_for_room(run_program: RunProgram) -> None:
    program = run_program(
        """
import dispy, time

if __name__ == "__main__":
    cluster = dispy.JobCluster(time.sleep, max_queued=2)
    jobs = [cluster.submit(60) for _ in range(2)]
    try:
        print("full", flush=True)
        cluster.submit(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    cluster.close(terminate=True)
"""
    )
    program.wait_line("full")
    program.interrupt_group()
    program.wait_line("interrupted")
    assert program.wait() == 0
