"""CPU time of all processes together per no-op job: client, node, hosts and workers.

User and system time of the whole process tree before and after a run, from the kernel's accounting,
divided by the number of jobs. The pool's figure is taken the same way.
"""

from __future__ import annotations

import os

from benchmarks import harness
from benchmarks.harness import Row, at_most, cpu_s_by_pid, median_row, noop


def run(quick: bool) -> list[Row]:
    """Measure the CPU time of a job, and where it goes."""
    count, repeats = (1_000, 1) if quick else (100_000, 5)
    with harness.pool() as pool:
        before = sum(cpu_s_by_pid().values())
        harness.run_futures(pool, noop, count // 10)
        pool_us = (sum(cpu_s_by_pid().values()) - before) / (count // 10) * 1e6
    samples: list[tuple[float, float, float]] = []
    with harness.node() as node, harness.cluster(noop, warm=count // 10) as cluster:
        for _ in range(repeats):
            start = cpu_s_by_pid()
            harness.run_jobs(cluster, count)
            spent = {
                pid: (seconds - start.get(pid, 0.0)) / count * 1e6
                for pid, seconds in cpu_s_by_pid().items()
            }
            client_us, node_us = spent.pop(os.getpid()), spent.pop(node)
            samples.append((client_us, node_us, sum(spent.values())))
    total, client, daemon, workers = [sum(s) for s in samples], *zip(*samples, strict=True)
    return [
        median_row("CPU time per no-op job, all processes", total, "us", at_most(30), at_most(20)),
        median_row("  of it in the client", client, "us"),
        median_row("  of it in the node", daemon, "us"),
        median_row("  of it in host and workers", workers, "us"),
        Row("the pool's CPU time per no-op job", pool_us, "us"),
    ]
