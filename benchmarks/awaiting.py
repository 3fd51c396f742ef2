"""``await`` of many jobs that are all open at once, in one asyncio loop, against calling each of them.

Twice: one coroutine awaits job after job, as the program that calls them does; and a task for each,
by ``asyncio.gather``. What the tasks themselves cost, with nothing to wait for, is measured beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop
from dispy import JobCluster


def run(quick: bool) -> list[Row]:
    """Measure jobs per second all ways, in turns."""
    count, repeats = (500, 1) if quick else (10_000, 9)
    with harness.node(), harness.cluster(noop, warm=count) as cluster:

        def called() -> float:
            return count / harness.run_jobs(cluster, count)

        def awaited(wait: Callable[[JobCluster, int], Awaitable[list[int]]]) -> float:
            async def run() -> None:
                if await wait(cluster, count) != list(range(count)):
                    raise RuntimeError("jobs returned something else than they should")

            return count / harness.timed(lambda: asyncio.run(run()))

        in_turn = harness.interleave(repeats, lambda: awaited(one_by_one), called)
        in_tasks = harness.interleave(repeats, lambda: awaited(gathered), called)
    tasks_us = [harness.timed(lambda: asyncio.run(bare(count))) / count * 1e6 for _ in range(repeats)]
    name = f"await of {count:,} jobs at once"
    bar, aim = at_least(0.6), at_least(0.8)
    return [
        median_row(f"{name}: ratio to calling them", harness.ratios(in_turn), "x", bar, aim),
        median_row(f"{name}: awaited", [pair[0] for pair in in_turn], "jobs/s"),
        median_row(f"{name}: called", [pair[1] for pair in in_turn], "jobs/s"),
        median_row(f"{name}, a task for each: ratio", harness.ratios(in_tasks), "x", bar, aim),
        median_row(f"{name}, a task for each: awaited", [pair[0] for pair in in_tasks], "jobs/s"),
        median_row("  asyncio's own: a task that ends at once", tasks_us, "us"),
    ]


async def one_by_one(cluster: JobCluster[..., int], count: int) -> list[int]:
    """Submit all, then await each in one coroutine."""
    jobs = [cluster.submit(number) for number in range(count)]
    return [await job for job in jobs]


async def gathered(cluster: JobCluster[..., int], count: int) -> list[int]:
    """Submit all, then await each in a task of its own."""
    return await asyncio.gather(*[cluster.submit(number) for number in range(count)])


async def bare(count: int) -> None:
    """Tasks with nothing to wait for."""
    await asyncio.gather(*[asyncio.sleep(0) for _ in range(count)])
