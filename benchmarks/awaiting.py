"""Ten thousand jobs that are all open at once, in one asyncio loop, against calling each of them.

In five ways: one coroutine submits by ``submit`` and awaits job after job, as the program that calls them does; the
same with ``asubmit``; a task for each, by ``asyncio.gather``; ``aas_completed`` against ``as_completed``; ``amap``
against ``map``, of twenty times as many items. What tasks cost with nothing to wait for is measured beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import dispy
from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop
from dispy import JobCluster

Cluster = JobCluster[[int], int]


def run(quick: bool) -> list[Row]:
    """Measure jobs per second all ways, in turns."""
    count, repeats = (500, 1) if quick else (10_000, 9)
    items = 20 * count
    with harness.node(), harness.cluster(noop, warm=count) as cluster:

        def called() -> float:
            return count / harness.run_jobs(cluster, count)

        def completed() -> float:
            return count / harness.timed(lambda: checked(as_completed(cluster, count), count))

        def mapped() -> float:
            return items / harness.timed(lambda: checked(list(cluster.map(range(items))), items))

        def awaited(wait: Callable[[Cluster, int], Awaitable[list[int]]], many: int = count) -> float:
            async def run() -> None:
                checked(await wait(cluster, many), many)

            return many / harness.timed(lambda: asyncio.run(run()))

        in_turn = harness.interleave(repeats, lambda: awaited(one_by_one), called)
        submitted = harness.interleave(repeats, lambda: awaited(asubmitted), called)
        in_tasks = harness.interleave(repeats, lambda: awaited(gathered), called)
        as_they_end = harness.interleave(repeats, lambda: awaited(aas_completed), completed)
        in_maps = harness.interleave(repeats, lambda: awaited(amapped, items), mapped)
    tasks_us = [harness.timed(lambda: asyncio.run(bare(count))) / count * 1e6 for _ in range(repeats)]
    name = f"await of {count:,} jobs at once"
    bar, aim = at_least(0.6), at_least(0.8)
    return [
        median_row(f"{name}: ratio to calling them", harness.ratios(in_turn), "x", bar, aim),
        median_row(f"{name}: awaited", [pair[0] for pair in in_turn], "jobs/s"),
        median_row(f"{name}: called", [pair[1] for pair in in_turn], "jobs/s"),
        median_row(f"{name}, by asubmit: ratio", harness.ratios(submitted), "x", bar, aim),
        median_row(f"{name}, a task for each: ratio", harness.ratios(in_tasks), "x", bar, aim),
        median_row(f"{name}, a task for each: awaited", [pair[0] for pair in in_tasks], "jobs/s"),
        median_row("aas_completed: ratio to as_completed", harness.ratios(as_they_end), "x", bar, aim),
        median_row("amap: ratio to map", harness.ratios(in_maps), "x", bar, aim),
        median_row("  asyncio's own: a task that ends at once", tasks_us, "us"),
    ]


def checked(results: list[int], count: int) -> None:
    """Check that each of the jobs has returned its number."""
    if sorted(results) != list(range(count)):
        raise RuntimeError("jobs returned something else than they should")


async def one_by_one(cluster: Cluster, count: int) -> list[int]:
    """Submit all, then await each in one coroutine."""
    jobs = [cluster.submit(number) for number in range(count)]
    return [await job for job in jobs]


async def asubmitted(cluster: Cluster, count: int) -> list[int]:
    """Submit all by ``asubmit``, then await each in one coroutine."""
    jobs = [await cluster.asubmit(number) for number in range(count)]
    return [await job for job in jobs]


async def gathered(cluster: Cluster, count: int) -> list[int]:
    """Submit all, then await each in a task of its own."""
    return await asyncio.gather(*[cluster.submit(number) for number in range(count)])


async def aas_completed(cluster: Cluster, count: int) -> list[int]:
    """Submit all, then take them as they end."""
    jobs = [cluster.submit(number) for number in range(count)]
    return [job.result async for job in dispy.aas_completed(jobs)]


def as_completed(cluster: Cluster, count: int) -> list[int]:
    """Do as ``aas_completed``, on a thread."""
    jobs = [cluster.submit(number) for number in range(count)]
    return [job.result for job in dispy.as_completed(jobs)]


async def amapped(cluster: Cluster, count: int) -> list[int]:
    """Take the results of a map."""
    return [result async for result in cluster.amap(range(count))]


async def bare(count: int) -> None:
    """Tasks with nothing to wait for."""
    await asyncio.gather(*[asyncio.sleep(0) for _ in range(count)])
