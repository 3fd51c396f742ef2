"""No-op calls by ``dispy.Executor``: against the cluster below it, with the pool beside both.

Executor and cluster run in turns over the same node, the pool after them. All futures are asked for their results.
"""

from __future__ import annotations

import dispy
from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop


def run(quick: bool) -> list[Row]:
    """Measure rates of ``submit`` and ``map``, and their ratios to those of a cluster and the pool."""
    count, items, repeats = (500, 5_000, 1) if quick else (20_000, 2_000_000, 7)
    with harness.node(), harness.cluster(noop, warm=count // 4) as cluster, dispy.Executor() as executor:
        harness.run_futures(executor, noop, count // 4)

        def map_by_cluster() -> float:
            return items / harness.timed(lambda: _check(list(cluster.map(range(items))), items))

        def map_by_executor() -> float:
            return items / harness.timed(lambda: _check(list(executor.map(noop, range(items))), items))

        submitted = harness.interleave(
            repeats,
            lambda: count / harness.run_futures(executor, noop, count),
            lambda: count / harness.run_jobs(cluster, count),
        )
        mapped = harness.interleave(repeats, map_by_executor, map_by_cluster)
        with harness.pool() as pool:
            by_pool = [count / harness.run_futures(pool, noop, count) for _ in range(repeats)]
    name = f"no-op calls by an executor, {count:,} at once"
    return [
        median_row(
            f"{name}: ratio to the cluster's submit", harness.ratios(submitted), "x", None, at_least(0.85)
        ),
        median_row(f"{name}: executor", [pair[0] for pair in submitted], "calls/s"),
        median_row(f"{name}: cluster", [pair[1] for pair in submitted], "jobs/s"),
        median_row(f"{name}: pool", by_pool, "calls/s"),
        median_row(
            f"map of {items:,} items: ratio to the cluster's map",
            harness.ratios(mapped),
            "x",
            None,
            at_least(0.9),
        ),
        median_row("  executor", [pair[0] for pair in mapped], "items/s"),
        median_row("  cluster", [pair[1] for pair in mapped], "items/s"),
    ]


def _check(results: list[int], count: int) -> None:
    """Refuse results that are not those of all items."""
    if len(results) != count or results[-1] != count - 1:
        raise RuntimeError("a map returned something else than it should")
