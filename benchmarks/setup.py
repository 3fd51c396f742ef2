"""What ``setup`` has loaded, read by many jobs: as fast as jobs that read nothing, and at once.

Half a gigabyte in the host, which workers share: the price would be page tables to be copied for each worker,
or pages to be copied where jobs count references.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Row, at_least, at_most, median_row, noop

SIZE = 500 * 1000 * 1000

# What setup leaves for the jobs.
table: Any
loaded_at: float


def load() -> None:
    """The setup: eight bytes per number, so that it takes its time."""
    global table, loaded_at
    import time

    import numpy

    table = numpy.arange(SIZE // 8)
    loaded_at = time.time()


def read(index: int) -> int:
    """A job that reads of it."""
    return int(table[index * 1000])


def came_up(value: Any) -> tuple[float, int]:
    """When a worker began its first job, after setup (seconds), and which worker."""
    import os
    import time

    began = time.time() - loaded_at
    time.sleep(0.2)  # so that the other worker has the other job
    return began, os.getpid()


def run(quick: bool) -> list[Row]:
    """Measure jobs per second with and without, and when the workers are there."""
    count, repeats = (500, 1) if quick else (10_000, 5)

    def with_data() -> float:
        with harness.cluster(read, setup=load) as cluster:
            harness.gather([cluster.submit(number) for number in range(count // 4)])
            start = time.perf_counter()
            jobs = [cluster.submit(number) for number in range(count)]
            if [job() for job in jobs] != [number * 1000 for number in range(count)]:
                raise RuntimeError("jobs have read something else")
            return count / (time.perf_counter() - start)

    def without() -> float:
        with harness.cluster(noop, warm=count // 4) as cluster:
            return count / harness.run_jobs(cluster, count)

    def ready_ms() -> float:
        with harness.cluster(came_up, setup=load) as cluster:
            jobs = [cluster.submit(number) for number in range(2)]
            found: list[tuple[float, int]] = [job() for job in jobs]
            if len({pid for _, pid in found}) != 2:
                raise RuntimeError("one worker has done it all")
            return max(began for began, _ in found) * 1000

    with harness.node():
        pairs = harness.interleave(repeats, with_data, without)
        ready = [ready_ms() for _ in range(repeats)]
    size = f"{SIZE // 1000_000} MB"
    return [
        median_row(
            f"jobs that read {size} of setup: ratio to no-op jobs",
            harness.ratios(pairs),
            "x",
            at_least(0.8),
        ),
        median_row("  reading", [pair[0] for pair in pairs], "jobs/s"),
        median_row("  no-op", [pair[1] for pair in pairs], "jobs/s"),
        median_row(f"from the end of setup ({size}) to both workers at work", ready, "ms", at_most(60)),
    ]
