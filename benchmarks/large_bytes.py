"""Jobs with 1 MB of bytes each way on the same machine, against a process pool: between small and large."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row
from dispy import JobCluster


def run(quick: bool) -> list[Row]:
    """Measure both in turns."""
    size, count, repeats = (1_000_000, 10, 1) if quick else (1_000_000, 200, 9)
    data = os.urandom(size)
    with harness.node(), harness.cluster(back) as cluster, harness.pool() as pool:
        echo(cluster, data, count)
        pairs = harness.interleave(
            repeats,
            lambda: count / harness.timed(lambda: echo(cluster, data, count)),
            lambda: count / harness.timed(lambda: pool_echo(pool, data, count)),
        )
    name = f"{count} jobs with 1 MB of bytes each way"
    return [
        median_row(f"{name}: ratio to the pool", harness.ratios(pairs), "x", at_least(1.5), at_least(3)),
        median_row(f"{name}", [pair[0] for pair in pairs], "jobs/s"),
        median_row("  the pool", [pair[1] for pair in pairs], "jobs/s"),
    ]


def back(data: bytes) -> bytes:
    """The job."""
    return data


def echo(cluster: JobCluster, data: bytes, count: int) -> None:
    """Submit so many jobs at once, then gather all results."""
    jobs = [cluster.submit(data) for _ in range(count)]
    for job in jobs:
        if job() != data:
            raise RuntimeError(f"{job!r} did not give its argument back: {job.exception}")


def pool_echo(pool: ProcessPoolExecutor, data: bytes, count: int) -> None:
    """The same with futures."""
    for future in [pool.submit(back, data) for _ in range(count)]:
        if future.result() != data:
            raise RuntimeError("the pool did not give its argument back")
