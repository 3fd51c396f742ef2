"""``map`` of a no-op: items per second against the pool's ``map``, and the memory that it takes.

The pool has the best of several chunk sizes, found first; both then run in turns over the same items,
and every result is looked at. Memory is the growth of the peak of the resident set while ten million
items go through, none of them kept: what is held beside the results. What sums are taken over runs
of different length is measured, too: a chunk must neither be so long that one CPU ends late nor so
short that it costs more than its items.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable

from benchmarks import harness
from benchmarks.harness import Row, at_least, at_most, median_row, noop
from dispy import JobCluster

CHUNK_SIZES = (1_000, 5_000, 20_000, 50_000, 100_000)


def run(quick: bool) -> list[Row]:
    """Measure the rate, its ratio to the pool's, the peak of memory, and how well sleeps are spread."""
    count, many, repeats = (20_000, 50_000, 1) if quick else (2_000_000, 10_000_000, 5)
    with harness.node():
        # First: a peak does not go down again.
        with harness.cluster(noop, warm=100) as cluster:
            check(cluster.map(range(count // 10)), count // 10)
            before = peak_kib()
            seconds = harness.timed(lambda: check(cluster.map(range(many)), many))
            grown = peak_kib() - before

        def ours() -> float:
            with harness.cluster(noop, warm=100) as cluster:
                return count / harness.timed(lambda: check(cluster.map(range(count)), count))

        with harness.pool() as pool:

            def rate(size: int) -> float:
                return count / harness.timed(
                    lambda: check(pool.map(noop, range(count), chunksize=size), count)
                )

            best = max(CHUNK_SIZES[:2] if quick else CHUNK_SIZES, key=rate)
            pairs = harness.interleave(repeats, ours, lambda: rate(best))
        with harness.cluster(time.sleep, warm=0) as cluster:
            spread = [spread_of(cluster, pause) for pause in spans(quick)]
    name = f"map of a no-op over {count:,} items"
    return [
        median_row(
            f"{name}: ratio to the pool with its best chunk size ({best:,})",
            harness.ratios(pairs),
            "x",
            at_least(0.3),
            at_least(0.6),
        ),
        median_row(f"{name}: dispy", [pair[0] for pair in pairs], "items/s", None, at_least(1_000_000)),
        median_row(f"{name}: pool", [pair[1] for pair in pairs], "items/s"),
        Row(
            f"peak memory above the results, {many:,} items", grown / 1024, "MiB", at_most(50), at_most(20)
        ),
        Row(f"  items per second of these {many:,}", many / seconds, "items/s"),
        *[Row(f"map of {text}: use of the CPUs", share, "", None, at_least(0.9)) for text, share in spread],
    ]


def check(results: Iterable[int], count: int) -> None:
    """Take all results, keep none."""
    total = 0
    for result in results:
        total += result
    if total != count * (count - 1) // 2:
        raise RuntimeError("a map returned something else than it should")


def peak_kib() -> int:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def spans(quick: bool) -> list[tuple[str, list[float]]]:
    """Sleeps of one length, of two, and growing without a warning."""
    scale = 0.1 if quick else 1.0
    return [
        ("1,000 sleeps of 2 ms", [0.002 * scale] * 1000),
        ("12 sleeps of 0.4 s", [0.4 * scale] * 12),
        ("2,000 sleeps of 50 us, then 20 of 0.1 s", [0.00005 * scale] * 2000 + [0.1 * scale] * 20),
    ]


def spread_of(cluster: JobCluster, span: tuple[str, list[float]]) -> tuple[str, float]:
    """How long both CPUs were in use, as a share of all the time."""
    text, pauses = span
    list(cluster.map([0.0] * 4))
    before = cluster.cpu_time
    seconds = harness.timed(lambda: list(cluster.map(pauses)))
    return text, (cluster.cpu_time - before) / (2 * seconds)
