"""Clusters and jobs in asyncio loops, with real jobs: nothing blocks the loop, and nothing is left behind."""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

import dispy
from dispy import DispyJob
from dispy.errors import JobError, PicklingError, RemoteTraceback, UsageError

from .conftest import MakeCluster, RunProgram
from .helpers import SOON_S, wait_for

Loop = Callable[[], asyncio.AbstractEventLoop]

pytestmark = pytest.mark.usefixtures("a_node")


def when(path: str, value: Any = None) -> Any:
    while not os.path.exists(path):
        time.sleep(0.005)
    if isinstance(value, str):
        raise ValueError(value)
    return value


def own_pid_then(said: str, path: str) -> None:
    with open(said, "w") as file:
        file.write(str(os.getpid()))
    when(path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """Makes loops, asyncio's own and uvloop's."""
    made: Loop = request.param
    return made


def run(main: Any, loop: Loop = asyncio.new_event_loop) -> Any:
    """``asyncio.run`` in a loop of a kind, for at most 25 seconds."""

    async def watched() -> Any:
        async with asyncio.timeout(25):
            return await main

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(watched())


async def turns(condition: Callable[[], object], what: str) -> None:
    """Let the loop turn until a condition holds, which a loop that is blocked never sees."""
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, f"not in time: {what}"
        await asyncio.sleep(0.001)


# Clusters.


def test_a_cluster_is_closed_without_blocking_the_loop(
    make_cluster: MakeCluster, gate: Path, loop: Loop
) -> None:
    cluster = make_cluster(when)

    async def main() -> None:
        async def open_gate() -> None:
            await turns(lambda: cluster._session.closers, "the end of the block waits for the job")
            gate.touch()

        opening = asyncio.create_task(open_gate())
        async with cluster as entered:
            assert entered is cluster
            job = cluster.submit(str(gate), 5)
        assert job.done()
        assert job.result == 5
        await opening
        with pytest.raises(UsageError, match="is closed"):
            async with cluster:
                pass

    run(main(), loop)
    assert cluster.close() is None


def test_an_exception_in_the_block_cancels_its_jobs(make_cluster: MakeCluster, gate: Path) -> None:
    jobs: list[DispyJob] = []

    async def main() -> None:
        async with make_cluster(when) as cluster:
            jobs.append(cluster.submit(str(gate)))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main())
    assert jobs[0].done()
    assert "cancelled" in str(jobs[0].error)


@pytest.mark.parametrize("is_in_block", [True, False])
def test_a_cancelled_block_cancels_its_jobs(
    make_cluster: MakeCluster, gate: Path, loop: Loop, is_in_block: bool
) -> None:
    """Whether the task is cancelled in the block, or while the end of the block waits for its jobs."""
    cluster = make_cluster(when)

    async def block() -> None:
        async with cluster:
            cluster.submit(str(gate))
            if is_in_block:
                await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(block())
        if is_in_block:
            await turns(lambda: cluster._session.jobs, "the job is submitted")
        else:
            await turns(lambda: cluster._session.closers, "the end of the block waits")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), loop)
    assert cluster.status().jobs_pending == 0
    assert cluster.close() is None


def test_callbacks_may_need_the_loop_while_the_cluster_closes(make_cluster: MakeCluster) -> None:
    told: list[int] = []

    async def tell(job: DispyJob) -> None:
        told.append(job.result)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def on_end(job: DispyJob) -> None:
            asyncio.run_coroutine_threadsafe(tell(job), loop).result(SOON_S)

        async with make_cluster(when, job_status=on_end) as cluster:
            cluster.submit("/", 1).add_done_callback(on_end)

    run(main())
    assert told == [1, 1]


def test_a_loop_in_a_callback_closes_a_cluster(make_cluster: MakeCluster) -> None:
    outer, inner = make_cluster(when), make_cluster(when, job_status=id)
    seen: list[Any] = []

    async def use() -> None:
        async with inner:
            seen.append(await (await inner.asubmit("/", 2)).aget())

    outer.submit("/", 1).add_done_callback(lambda _: asyncio.run(use()))
    assert outer.wait(SOON_S)
    assert seen == [2]


# Submitting.


def test_submission_waits_for_room_and_the_loop_goes_on(
    make_cluster: MakeCluster, gate: Path, loop: Loop
) -> None:
    cluster = make_cluster(when, max_queued=2)
    most: list[int] = []

    async def main() -> None:
        jobs = [await cluster.asubmit(str(gate), n) for n in range(2)]
        later = [asyncio.create_task(cluster.asubmit("/", n)) for n in range(2, 40)]
        await turns(lambda: cluster._session.room_waiters, "one waits for room")
        assert not any(task.done() for task in later)
        assert cluster.status().jobs_pending == 2
        gate.touch()
        for task in later:
            jobs.append(await task)
            most.append(cluster.status().jobs_pending)
        assert [await job for job in jobs] == list(range(40))
        numbers = [job.number for job in jobs]
        assert numbers == sorted(numbers), "in the order of the calls"

    run(main(), loop)
    assert max(most) <= 2


def test_threads_and_tasks_wait_for_the_same_room(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when, max_queued=1)
    jobs: list[DispyJob] = []

    def submit() -> None:
        jobs.extend(cluster.submit("/", n) for n in range(50))

    async def main() -> None:
        threads = [threading.Thread(target=submit) for _ in range(2)]
        jobs.append(await cluster.asubmit(str(gate)))
        for thread in threads:
            thread.start()
        tasks = [asyncio.create_task(cluster.asubmit("/", n)) for n in range(50)]
        await turns(lambda: cluster._session.room_waiters, "somebody waits")
        gate.touch()
        jobs.extend(await asyncio.gather(*tasks))
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        await asyncio.gather(*jobs)

    run(main())
    assert len(jobs) == 151
    assert all(job.status == DispyJob.Finished for job in jobs)


def test_a_task_that_gives_up_leaves_no_job(make_cluster: MakeCluster, gate: Path, loop: Loop) -> None:
    cluster = make_cluster(when, max_queued=1)

    async def main() -> None:
        first = await cluster.asubmit(str(gate), 0)
        tasks = [asyncio.create_task(cluster.asubmit("/", n)) for n in range(1, 4)]
        await turns(lambda: cluster._session.room_waiters, "the first of them waits")
        for task in tasks[:2]:
            task.cancel()
        for task in tasks[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.touch()
        job = await tasks[2]
        assert await job == 3
        assert (first.number, job.number) == (1, 2), "nothing was submitted in between"

    run(main(), loop)


def test_tasks_that_give_up_at_any_moment(make_cluster: MakeCluster) -> None:
    """Whenever a task is cancelled: either it has its job, or there is none that runs on."""
    cluster = make_cluster(when, max_queued=1)

    async def main() -> None:
        jobs = []
        for n in range(60):
            task = asyncio.create_task(cluster.asubmit("/", n))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                jobs.append(await task)
        assert await (await cluster.asubmit("/", 9)) == 9
        for job in jobs:
            await job

    run(main())
    assert cluster.wait(SOON_S)


def test_what_waits_for_room_when_the_cluster_closes(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when, max_queued=1)

    async def main() -> None:
        first = await cluster.asubmit(str(gate))
        tasks = [asyncio.create_task(cluster.asubmit("/", n)) for n in range(3)]
        await turns(lambda: cluster._session.room_waiters, "the first of them waits")
        await asyncio.to_thread(cluster.close, terminate=True)
        for task in tasks:
            with pytest.raises(UsageError, match="closed"):
                await task
        assert first.done()
        with pytest.raises(UsageError, match="is closed"):
            await cluster.asubmit("/")

    run(main())


def test_a_loop_that_is_gone_is_not_submitted_for(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when, max_queued=1)
    gone = asyncio.new_event_loop()

    async def main() -> None:
        await cluster.asubmit(str(gate))
        for n in range(3):
            task = gone.create_task(cluster.asubmit("/", n))
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # they are never to end
        await turns(lambda: cluster._session.room_waiters, "the first of them waits")

    gone.run_until_complete(main())
    gone.close()
    gate.touch()
    assert cluster.wait(SOON_S)
    job = cluster.submit("/", 5)
    assert job() == 5
    assert job.number == 2, "nothing was submitted since the first"
    wait_for(
        lambda: [thread for thread in threading.enumerate() if thread.name == "dispy submit"],
        lambda left: not left,
        what="the queue's thread ends",
    )


def test_what_cannot_be_sent(make_cluster: MakeCluster, here: Path) -> None:
    cluster = make_cluster(when, max_queued=5)
    (here / "data.txt").write_text("x")

    async def main() -> None:
        with pytest.raises(PicklingError, match="lock"):
            await cluster.asubmit(threading.Lock())
        with pytest.raises(UsageError, match="no_such_file"):
            await cluster.asubmit("/", dispy_job_depends=["no_such_file"])
        assert await (await cluster.asubmit("data.txt", 4, dispy_job_depends=["data.txt"])) == 4

    run(main())


def test_a_journal_that_is_behind_does_not_stop_the_loop(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(when, recover_file=str(tmp_path / "journal"))

    async def main() -> None:
        jobs = [await cluster.asubmit("/", n) for n in range(100)]
        assert await asyncio.gather(*jobs) == list(range(100))
        cluster._session.journal.thread.is_behind = True
        assert await (await cluster.asubmit("/", 1)) == 1

    run(main())


# Maps.


def double(n: int) -> int:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return 2 * n


def test_maps_in_order_side_by_side(make_cluster: MakeCluster, loop: Loop) -> None:
    cluster = make_cluster(double)

    async def total(xs: range) -> int:
        return sum([result async for result in cluster.amap(xs)])

    async def main() -> None:
        assert [result async for result in cluster.amap(range(5000))] == list(range(0, 10_000, 2))
        sums = await asyncio.gather(*[total(range(n * 100)) for n in range(5)])
        assert sums == [sum(range(0, n * 200, 2)) for n in range(5)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(total(range(10))) for _ in range(5)]
        assert [task.result() for task in tasks] == [90] * 5

    run(main(), loop)


def test_items_are_read_as_results_are_taken(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)
    read: list[int] = []

    def items() -> Iterator[int]:
        for n in itertools.count():
            read.append(n)
            yield n

    async def main() -> None:
        results = cluster.amap(items(), chunksize=1)
        assert await anext(results) == 0
        before = len(read)
        await (await cluster.asubmit(1))
        assert len(read) == before < 100
        assert await anext(results) == 2
        threads = {thread.name for thread in threading.enumerate()}
        assert "dispy map" not in threads, "no thread reads what is the loop's"

    run(main())


def test_leaving_a_map_cancels_it(make_cluster: MakeCluster, gate: Path, loop: Loop) -> None:
    cluster = make_cluster(when)

    async def main() -> None:
        async for result in cluster.amap(itertools.chain(["/"], itertools.repeat(str(gate))), chunksize=1):
            assert result is None
            break
        await turns(lambda: not cluster.status().jobs_pending, "all chunks are cancelled")
        assert not cluster._session.maps
        taking = asyncio.ensure_future(anext(cluster.amap([str(gate)])))
        await turns(lambda: cluster.status().jobs_pending, "a chunk is under way")
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking
        del taking
        await turns(lambda: not cluster.status().jobs_pending, "the map of a cancelled task is cancelled")

    run(main(), loop)


def test_errors_of_items(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)

    async def main() -> None:
        seen = []

        async def take() -> None:
            async for result in cluster.amap([1, 2, -3, 4], chunksize=1):
                seen.append(result)

        with pytest.raises(ValueError, match="-3 is negative") as raised:
            await take()
        assert "item 2" in "".join(raised.value.__notes__)
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        assert seen == [2, 4]
        kept = [result async for result in cluster.amap([1, -3], return_exceptions=True)]
        assert kept[0] == 2
        assert isinstance(kept[1], ValueError)

    run(main())


def test_a_map_that_is_late_or_closed(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="item 0 of the map"):
            await anext(cluster.amap([str(gate)], timeout=0.05))
        waiting = asyncio.ensure_future(anext(cluster.amap([str(gate)])))
        await turns(lambda: cluster.status().jobs_pending, "a chunk is under way")
        await asyncio.to_thread(cluster.close, terminate=True)
        with pytest.raises(UsageError, match="was closed while its map was running"):
            await waiting
        with pytest.raises(UsageError, match="is closed"):
            cluster.amap([1])

    run(main())


def test_what_no_map_can_take(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)

    async def items() -> Any:
        yield 1

    for arguments, options, said in [
        ((), {}, "amap takes at least one iterable"),
        ((5,), {}, "argument 1 of amap must be an iterable, not 5"),
        ((items(),), {}, "submit what an asynchronous one yields by asubmit"),
        (([1],), {"seed": 1}, "amap has no option 'seed'"),
        (([1],), {"chunksize": 0}, "chunksize must be a number"),
    ]:
        with pytest.raises(UsageError, match=said):
            cluster.amap(*arguments, **options)


# Jobs.


def test_ten_thousand_at_once(make_cluster: MakeCluster, loop: Loop) -> None:
    cluster = make_cluster(double)

    async def main() -> None:
        jobs = [await cluster.asubmit(n) for n in range(10_000)]
        seen = {job.number async for job in dispy.aas_completed(jobs)}
        assert len(seen) == 10_000
        assert await asyncio.gather(*jobs) == list(range(0, 20_000, 2))

    run(main(), loop)


def test_nothing_remote_is_cancelled_unless_asked(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when)

    async def main() -> None:
        going_on, cancelled = [await cluster.asubmit(str(gate), n) for n in range(2)]
        for way in (going_on, going_on.aget(), anext(dispy.aas_completed([going_on]))):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(way, 0.02)
        assert not going_on.done()
        with pytest.raises(TimeoutError):
            await cancelled.aget(0.02, cancel=True)
        with pytest.raises(JobError, match="cancelled"):
            await cancelled.aget()
        gate.touch()
        assert await going_on.aget(SOON_S) == 0

    run(main())


def test_a_loop_that_closes_while_jobs_run(make_cluster: MakeCluster, gate: Path, loop: Loop) -> None:
    cluster = make_cluster(when)
    jobs: list[DispyJob] = []

    async def main() -> None:
        jobs.extend([await cluster.asubmit(str(gate), n) for n in range(3)])
        tasks = [
            asyncio.ensure_future(jobs[0].aget()),
            asyncio.ensure_future(anext(dispy.aas_completed(jobs))),
        ]
        await turns(lambda: all(job._waiter is not None for job in jobs), "all are waited for")
        assert not any(task.done() for task in tasks)

    run(main(), loop)  # cancels its tasks, and closes the loop
    gate.touch()
    assert cluster.wait(SOON_S)
    assert [job.result for job in jobs] == [0, 1, 2]


def test_loops_on_several_threads_share_a_cluster(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(double)
    totals: list[int] = []

    async def main() -> None:
        jobs = [await cluster.asubmit(n) for n in range(200)]
        total = 0
        async for job in dispy.aas_completed(jobs):
            total += job.result
        async for result in cluster.amap(range(200)):
            total += result
        totals.append(total)

    kinds = [asyncio.new_event_loop, uvloop.new_event_loop] * 2
    threads = [threading.Thread(target=run, args=(main(), kind)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == [2 * sum(range(0, 400, 2))] * 4


def test_top_level_await_as_notebooks_do_it(make_cluster: MakeCluster) -> None:
    """The cells of a notebook are compiled so, and awaited in a loop that runs already."""
    cells = [
        "job = await cluster.asubmit(4)",
        "result = await job",
        "rest = [r async for r in cluster.amap([1, 2])]",
        "async with cluster: rest.append(await (await cluster.asubmit(5)).aget())",
    ]
    names: dict[str, Any] = {"cluster": make_cluster(double)}

    async def main() -> None:
        for cell in cells:
            code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await eval(code, names)

    run(main())
    assert (names["result"], names["rest"]) == (8, [2, 4, 10])


def test_futures_of_jobs(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when)
    told: list[Any] = []
    late = cluster.submit(str(gate), 1)
    quick = [cluster.submit("/", n) for n in range(20)]
    broken = cluster.submit("/", "broken")
    broken.add_done_callback(told.append)
    futures = {job.as_future(): job for job in quick}
    for future in concurrent.futures.as_completed(futures, SOON_S):
        assert future.result() == futures[future].result  # type: ignore[index]
    with pytest.raises(ValueError, match="broken") as raised:
        broken.as_future().result(SOON_S)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    future = late.as_future()
    wait_for(future.running, what="it runs")
    assert not future.cancel()
    gate.touch()

    async def main() -> Any:
        return await asyncio.wrap_future(future)

    assert run(main()) == 1
    assert cluster.wait(SOON_S)
    assert told == [broken]
    waiting = [cluster.submit("/no/such/file") for _ in range(10)][-1]
    cancelled = waiting.as_future()
    assert cancelled.cancel()
    assert concurrent.futures.wait([cancelled], SOON_S).done == {cancelled}


def test_close_waits_for_callbacks_of_jobs(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(when)
    told: list[Any] = []

    def slow(job: DispyJob) -> None:
        when(str(gate))
        told.append(job.result)

    job = cluster.submit("/", 3)
    job.add_done_callback(slow)
    assert job.wait(SOON_S)
    assert cluster.wait(0.1) is False, "the function has not returned"
    assert cluster.close(0.1) is False
    gate.touch()
    assert cluster.close()
    assert told == [3]


def test_functions_of_jobs_come_before_those_of_the_cluster(make_cluster: MakeCluster) -> None:
    told: list[str] = []
    cluster = make_cluster(when, job_status=lambda _: told.append("cluster"))

    class Own:  # a result that user code has to rebuild ends on another thread
        pass

    for value in (3, Own()):
        job = cluster.submit("/", value)
        job.add_done_callback(lambda _: told.append("job"))
        assert cluster.wait(SOON_S)
    assert told == ["job", "cluster"] * 2


def test_a_killed_process_fails_what_waits(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(own_pid_then, depends=[when])
    job = cluster.submit(str(gate.parent / "pid"), str(gate))

    async def main() -> None:
        waits = [
            asyncio.ensure_future(way)
            for way in (job.aget(), asyncio.wrap_future(job.as_future()), anext(dispy.aas_completed([job])))
        ]
        pid = gate.parent / "pid"
        await turns(lambda: pid.exists() and pid.read_text(), "the job runs")
        os.kill(int(pid.read_text()), signal.SIGKILL)
        ends = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(end) for end in ends] == [JobError, JobError, DispyJob]
        assert "SIGKILL" in str(ends[0])
        assert await (await cluster.asubmit(str(pid), "/")) is None

    run(main())


# Programs.


INTERRUPTED = """
import asyncio, dispy, time

def compute(n):
    import time
    time.sleep(n)

async def main():
    async with dispy.JobCluster(compute, max_queued=1) as cluster:
        job = await cluster.asubmit(60)
        while job.status != job.Running:
            await asyncio.sleep(0.01)
        print("running", flush=True)
        await cluster.asubmit(60)

asyncio.run(main())
"""


def test_ctrl_c_ends_a_program_whose_task_waits_for_room(run_program: RunProgram) -> None:
    program = run_program(INTERRUPTED)
    program.wait_line("^running$")
    program.send(signal.SIGINT)
    assert program.wait(SOON_S) != 0
    assert "KeyboardInterrupt" in program.stderr
    assert "never retrieved" not in program.stderr
