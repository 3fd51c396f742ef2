"""What a ``job_status`` callback costs: the rate of no-op jobs with one, as share of that without.

The clock stops when all results are gathered and the callback has been called for every job.
"""

from __future__ import annotations

import threading
import time

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop
from dispy import DispyJob


def run(quick: bool) -> list[Row]:
    """Measure the share that is left."""
    count, repeats = (500, 1) if quick else (50_000, 5)
    warm = count // 4

    def without() -> float:
        with harness.cluster(noop, warm=warm) as cluster:
            return count / harness.run_jobs(cluster, count)

    with harness.node():
        pairs = harness.interleave(repeats, lambda: with_callback(count, warm), without)
    return [
        median_row(
            "rate with a job_status callback, as share of that without",
            harness.ratios(pairs),
            "",
            at_least(0.7),
            at_least(0.9),
        ),
        median_row("  with", [pair[0] for pair in pairs], "jobs/s"),
        median_row("  without", [pair[1] for pair in pairs], "jobs/s"),
    ]


def with_callback(count: int, warm: int) -> float:
    """Jobs per second with a callback that counts."""
    called = 0
    done = threading.Event()

    def seen(job: DispyJob) -> None:
        nonlocal called
        called += 1
        if called == count + warm:
            done.set()

    with harness.cluster(noop, warm=warm, job_status=seen) as cluster:
        start = time.perf_counter()
        harness.run_jobs(cluster, count)
        if not done.wait(30):
            raise RuntimeError(f"the callback was called {called} times for {count + warm} jobs")
        return count / (time.perf_counter() - start)
