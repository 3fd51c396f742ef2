"""A fresh process per job: ``isolate=True`` against ``multiprocessing.Pool(maxtasksperchild=1)``.

Both with two processes at once and no-op jobs; the pool with a chunk size of one, or several jobs
would share a process.
"""

from __future__ import annotations

import multiprocessing
import signal

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop


def run(quick: bool) -> list[Row]:
    """Measure jobs per second of both."""
    count, repeats = (10, 1) if quick else (500, 5)

    def ours() -> float:
        with harness.cluster(noop, warm=10, isolate=True) as cluster:
            return count / harness.run_jobs(cluster, count)

    def theirs() -> float:
        context = multiprocessing.get_context("fork")
        # The pool ends its processes by SIGTERM, and forks them with our handler, in which one may get stuck.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            with context.Pool(2, maxtasksperchild=1) as pool:
                pool.map(noop, range(10), chunksize=1)
                return count / harness.timed(lambda: pool.map(noop, range(count), chunksize=1))
        finally:
            signal.signal(signal.SIGTERM, handler)

    with harness.node():
        pairs = harness.interleave(repeats, ours, theirs)
    return [
        median_row(
            "a process per job: ratio to Pool(maxtasksperchild=1)",
            harness.ratios(pairs),
            "x",
            at_least(1.5),
            at_least(2.5),
        ),
        median_row("  dispy", [pair[0] for pair in pairs], "jobs/s"),
        median_row("  pool", [pair[1] for pair in pairs], "jobs/s"),
    ]
