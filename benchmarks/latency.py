"""One job at a time: from ``submit`` to the result, over and over, in turns with the pool."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row, noop, quantile


def run(quick: bool) -> list[Row]:
    """Measure the median of a round trip against the pool's, and our tail."""
    count, repeats = (50, 1) if quick else (1_000, 7)
    blocks: list[list[float]] = []
    pool_blocks: list[list[float]] = []

    def ours() -> float:
        with harness.cluster(noop, warm=1) as cluster:
            block = round_trips(lambda number: cluster.submit(number)(), count)
        blocks.append(block)
        return quantile(block, 0.5)

    def theirs() -> float:
        with harness.pool() as pool:
            block = round_trips(lambda number: pool.submit(noop, number).result(), count)
        pool_blocks.append(block)
        return quantile(block, 0.5)

    with harness.node():
        pairs = harness.interleave(repeats, ours, theirs)
    tails = [tail(block) for block in blocks]
    pool_tails = [tail(block) for block in pool_blocks]
    return [
        median_row(
            "submit to result, p50: ratio to the pool",
            harness.ratios(pairs),
            "x",
            at_most(1.2),
            at_most(0.95),
        ),
        median_row("submit to result, p99 / p50", tails, "x", at_most(2)),
        median_row("  the pool's p99 / p50", pool_tails, "x"),
        median_row("submit to result, p50: dispy", [pair[0] * 1e6 for pair in pairs], "us"),
        median_row("submit to result, p50: pool", [pair[1] * 1e6 for pair in pairs], "us"),
    ]


def tail(seconds: list[float]) -> float:
    """The 99th percentile over the median of one block, a second or so: it moves less than all blocks together."""
    return quantile(seconds, 0.99) / quantile(seconds, 0.5)


def round_trips(call: Callable[[int], object], count: int) -> list[float]:
    """Seconds of so many calls, one after another, after a tenth as many to get going."""
    taken = []
    for number in range(-count // 10, count):
        start = time.perf_counter()
        call(number)
        if number >= 0:
            taken.append(time.perf_counter() - start)
    return taken
