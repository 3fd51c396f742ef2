"""No-op jobs per second: submitted one by one, a ``DispyJob`` each, all results gathered.

The pool does the same with futures and the same number of jobs, in turns with us. Both have run jobs
before the clock starts. The rate by itself is also taken over a longer run.
"""

from __future__ import annotations

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop


def run(quick: bool) -> list[Row]:
    """Measure the rate, and its ratio to the pool's."""
    count, long_count, repeats = (500, 1_000, 1) if quick else (20_000, 200_000, 5)
    with harness.node():

        def ours() -> float:
            with harness.cluster(noop, warm=count // 4) as cluster:
                return count / harness.run_jobs(cluster, count)

        def theirs() -> float:
            with harness.pool() as pool:
                return count / harness.run_futures(pool, noop, count)

        pairs = harness.interleave(repeats, ours, theirs)
        with harness.cluster(noop, warm=count) as cluster:
            long = [long_count / harness.run_jobs(cluster, long_count) for _ in range(repeats)]
    name = f"no-op jobs, submitted and gathered, {count:,} at once"
    return [
        median_row(f"{name}: ratio to the pool", harness.ratios(pairs), "x", at_least(10), at_least(15)),
        median_row(f"{name}: dispy", [pair[0] for pair in pairs], "jobs/s"),
        median_row(f"{name}: pool", [pair[1] for pair in pairs], "jobs/s"),
        median_row(f"the same with {long_count:,}: dispy", long, "jobs/s", None, at_least(120_000)),
    ]
