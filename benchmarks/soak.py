"""The soak: very many no-op jobs through one cluster of one program, in chunks; does anything grow?

Resident memory of the program, the node and all processes below it is read after each chunk. The slope is that of a
line through the second half of them, times the jobs: what a leak would have made of it by then.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import psutil

from benchmarks import harness
from benchmarks.harness import Row, at_least, at_most, noop

CHUNK = 100_000


def run(quick: bool) -> list[Row]:
    """Measure growth of memory and change of the rate from the first million to the last."""
    chunks = 4 if quick else 200
    size = 2_000 if quick else CHUNK
    memory: dict[str, list[float]] = {}
    rates = []
    with harness.node() as pid, harness.cluster(noop, warm=1_000) as cluster:
        for _ in range(chunks):

            def chunk() -> None:
                if sum(job() for job in [cluster.submit(1) for _ in range(size)]) != size:
                    raise RuntimeError("a job returned something else than it should")

            rates.append(size / harness.timed(chunk))
            for name, mib in resident(pid).items():
                memory.setdefault(name, []).append(mib)
    tenth = max(1, chunks // 20)
    rows = [
        Row(
            f"{chunks * size:,} jobs: rate of the last {tenth * size:,} against the first",
            statistics.median(rates[-tenth:]) / statistics.median(rates[:tenth]),
            "x",
            at_least(0.9),
        ),
        Row("  rate", statistics.median(rates), "jobs/s"),
    ]
    for name, values in memory.items():
        half = values[len(values) // 2 :]
        rows.append(Row(f"  memory of {name}: growth", slope(half) * len(values), "MiB", at_most(8)))
        rows.append(Row("    at the start", values[0], "MiB"))
        rows.append(Row("    at the end", values[-1], "MiB"))
    return rows


def slope(values: Sequence[float]) -> float:
    """Growth from one value to the next, by least squares."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def resident(pid: int) -> dict[str, float]:
    """Resident memory (MiB) of this program, the node, its hosts and their workers."""
    node = psutil.Process(pid)
    hosts = node.children()
    workers = [worker for host in hosts for worker in host.children()]
    return {
        "the program": rss(psutil.Process()),
        "the node": rss(node),
        "the hosts": sum(map(rss, hosts)),
        "the workers": sum(map(rss, workers)),
    }


def rss(process: psutil.Process) -> float:
    """Resident memory of one process (MiB)."""
    return float(process.memory_info().rss) / 2**20
