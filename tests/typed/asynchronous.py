"""A program with clusters, jobs, futures, callbacks and asyncio, as a checker reads it. Never run."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

import dispy
from dispy import DispyJob, JobCluster


def area(width: float, height: float, unit: str = "m") -> str:
    """Returns an area, in words."""
    return f"{width * height} {unit}2"


def tell(job: DispyJob[str]) -> None:
    """Say how a job has ended."""
    if job.status == DispyJob.Finished:
        print(job.result.upper(), job.stdout, job.end_time)


def main() -> None:
    """Use all that blocks."""
    with JobCluster(area, nodes=["a*"], job_status=tell, max_queued=100) as cluster:
        data = cluster.put([1.0, 2.0])
        jobs = [cluster.submit(n, 2.0, unit="cm") for n in (1.0, 2.0)]
        jobs.append(cluster.submit(data, 2.0))
        jobs.append(cluster.submit(1.0, 2.0, dispy_job_depends=["file"]))
        jobs.append(cluster.submit_job_id("mine", 1.0, 2.0))
        if (job := cluster.submit_node("host", 1.0, 2.0)) is not None:
            jobs.append(job)
        assert_type(jobs, list[DispyJob[str]])
        jobs[0].add_done_callback(tell)
        assert_type(jobs[0](), str)
        assert_type(jobs[0].get(timeout=5), str)
        assert_type(jobs[0].done(), bool)
        future: concurrent.futures.Future[str] = jobs[0].as_future()
        assert_type(concurrent.futures.wait([future]).done.pop().result(), str)
        assert_type(list(dispy.as_completed(jobs, timeout=5)), list[DispyJob[str]])
        assert_type(dispy.wait(jobs, return_when=dispy.FIRST_COMPLETED).done, set[DispyJob[str]])
        assert_type(cluster.map([1.0], [2.0], chunksize=3), Iterator[str])
        assert_type(next(cluster.starmap([(1.0, 2.0)], return_exceptions=True)), str | Exception)
        assert_type(cluster.cancel(jobs), int)
    with dispy.Executor(4) as pool:
        call = pool.submit(area, 1.0, 2.0)
        assert_type({each.result() for each in concurrent.futures.as_completed([call, future])}, set[str])
    assert_type(dispy.recover_jobs(), list[DispyJob])


async def in_a_loop() -> None:
    """Use all that awaits."""
    async with dispy.SharedJobCluster(area, scheduler_host="host") as cluster:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(cluster.asubmit(1.0, 2.0))
        job = task.result()
        assert_type(job, DispyJob[str])
        assert_type(await job, str)
        assert_type(await job.aget(timeout=5, cancel=True), str)
        assert_type(await asyncio.gather(job, job), tuple[str, str])
        assert_type(await asyncio.wrap_future(job.as_future()), str)
        async for ended in dispy.aas_completed([job], timeout=5):
            assert_type(ended, DispyJob[str])
        async for result in cluster.amap([1.0], [2.0], constants={"unit": "cm"}):
            assert_type(result, str)
        async for kept in cluster.amap([1.0], return_exceptions=True):
            assert_type(kept, str | Exception)


def anything(cluster: JobCluster, jobs: list[DispyJob]) -> None:
    """Without parameters both are of any function, as programs wrote before."""
    jobs.append(cluster.submit("whatever", it=1))
    program = JobCluster("/usr/bin/convert")
    code: int = program.submit("a.png", "b.png")()
    print(code, jobs[0].result.anything)
    exact: JobCluster[..., int] = JobCluster("/usr/bin/convert")
    assert_type(exact.submit("a.png"), DispyJob[int])
    seen: DispyJob[object] = exact.submit("b.png")
    print(seen)
