"""What it costs to be able to recover: no-op jobs with no journal, with the short one, and with the full one.

The short one is paid for by the node and the cluster, not by the job, so a difference would be small: both kinds of
cluster are open at once and take turns of a tenth of a second, which a machine that is shared with others
spoils less. The full one in longer turns, each with a cluster of its own, from the first ``submit`` until the
cluster is closed, so that what was still to be written is in it; it is on the disk of the temporary
directory, and synced.
"""

from __future__ import annotations

import time

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row, noop
from dispy import config


def run(quick: bool) -> list[Row]:
    """Measure jobs per second without a journal, and by how much the others are slower."""
    count, repeats = (500, 1) if quick else (100_000, 9)
    none: list[float] = []
    full: list[float] = []
    with harness.node():
        unnoted, short = turns(*((100, 2) if quick else (10_000, 150)))
        for number in range(repeats):
            for is_full in (False, True) if number % 2 else (True, False):
                (full if is_full else none).append(count / measure(count, is_full))
    return [
        median_row("short journal: throughput lost", _lost(unnoted, short), "%", at_most(2), at_most(1)),
        median_row("full journal: throughput lost", _lost(none, full), "%", at_most(15), at_most(10)),
        median_row(f"{count:,} no-op jobs, no journal", none, "jobs/s"),
        median_row("  full journal", full, "jobs/s"),
    ]


def turns(count: int, repeats: int) -> tuple[list[float], list[float]]:
    """Jobs per second without a journal and with the short one, in turns of so many jobs."""
    rates: tuple[list[float], list[float]] = ([], [])
    before = config.Journal
    try:
        config.Journal = False
        with harness.cluster(noop, warm=count) as unnoted:
            config.Journal = True
            with harness.cluster(noop, warm=count) as noted:
                for number in range(repeats):
                    for place in (0, 1) if number % 2 else (1, 0):
                        start = time.perf_counter()
                        harness.run_jobs((unnoted, noted)[place], count)
                        rates[place].append(count / (time.perf_counter() - start))
    finally:
        config.Journal = before
    return rates


def _lost(without: list[float], with_it: list[float]) -> list[float]:
    return [(1 - one / other) * 100 for other, one in zip(without, with_it, strict=True)]


def measure(count: int, is_full: bool) -> float:
    """Seconds that so many jobs take with a full journal, or with none."""
    before = config.Journal
    config.Journal = is_full
    try:
        with harness.cluster(noop, warm=count // 4, durable=is_full) as cluster:
            start = time.perf_counter()
            harness.run_jobs(cluster, count)
            cluster.close()
            return time.perf_counter() - start
    finally:
        config.Journal = before
