"""What it costs to be able to recover: no-op jobs with no journal, with the short one, and with the full one.

In turns, each with a cluster of its own, from the first ``submit`` until the cluster is closed: so what was
still to be written is in it. The full journal is on the disk of the temporary directory, and synced.
"""

from __future__ import annotations

import time

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row, noop
from dispy import config


def run(quick: bool) -> list[Row]:
    """Measure jobs per second without a journal, and by how much the others are slower."""
    count, repeats = (500, 1) if quick else (100_000, 9)
    rates: dict[str, list[float]] = {"none": [], "short": [], "full": []}
    with harness.node():
        for number in range(repeats):
            names = list(rates)
            for name in names[number % 3 :] + names[: number % 3]:
                rates[name].append(count / measure(count, name))
    none, short, full = rates.values()
    return [
        median_row("short journal: throughput lost", _lost(none, short), "%", at_most(2), at_most(1)),
        median_row("full journal: throughput lost", _lost(none, full), "%", at_most(15), at_most(10)),
        median_row(f"{count:,} no-op jobs, no journal", none, "jobs/s"),
        median_row("  short journal", short, "jobs/s"),
        median_row("  full journal", full, "jobs/s"),
    ]


def _lost(without: list[float], with_it: list[float]) -> list[float]:
    return [(1 - one / other) * 100 for other, one in zip(without, with_it, strict=True)]


def measure(count: int, name: str) -> float:
    """Seconds that so many jobs take with one of the journals."""
    before = config.Journal
    config.Journal = name != "none"
    try:
        with harness.cluster(noop, warm=count // 4, durable=name == "full") as cluster:
            start = time.perf_counter()
            harness.run_jobs(cluster, count)
            cluster.close()
            return time.perf_counter() - start
    finally:
        config.Journal = before
