"""The disaster drill: half of many nodes die at once in the middle of thousands of jobs that may run again.

The nodes are real ``dispynode`` processes of one CPU, the jobs sleep. When a part of the jobs has ended, half of the
nodes are killed. What the lost CPUs explain is computed from what was left to do at that moment, the jobs that ran
on the dead included; what it took longer is the claim.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from benchmarks import harness
from benchmarks.harness import Row, at_most

JOB_S = 0.1


def run(quick: bool) -> list[Row]:
    """Measure how much longer it takes than the lost CPUs explain."""
    nodes, count = (4, 200) if quick else (32, 5_000)
    with harness.sandbox(), contextlib.ExitStack() as stack:
        started = [stack.enter_context(harness.listening_node(1, "--name", f"n{n}")) for n in range(nodes)]
        cluster = stack.enter_context(harness.cluster(time.sleep, reentrant=True))
        while len(cluster.status().nodes) < nodes:
            time.sleep(0.05)
        start = time.perf_counter()
        jobs = [cluster.submit(JOB_S) for _ in range(count)]
        while cluster.status().jobs_pending > count * 2 // 3:
            time.sleep(0.02)
        victims = started[: nodes // 2]
        left_by_them = [
            below for pid, _ in victims for below in psutil.Process(pid).children(recursive=True)
        ]
        for pid, _ in victims:
            os.kill(pid, signal.SIGKILL)
        killed_s = time.perf_counter() - start
        # What ran at that moment is begun anew on the dead half, and half done on the other.
        left = cluster.status().jobs_pending
        alive = nodes - len(victims)
        expected_s = left * JOB_S / alive
        if not cluster.wait(120):
            raise RuntimeError(f"{cluster.status().jobs_pending} jobs hang")
        took_s = time.perf_counter() - start - killed_s
        unfinished = [job for job in jobs if job.exception is not None]
        if unfinished:
            raise RuntimeError(f"{len(unfinished)} jobs did not finish, one: {unfinished[0].exception}")
        _, orphans = psutil.wait_procs(left_by_them, timeout=5)
        if orphans:
            raise RuntimeError(f"{len(orphans)} processes of dead nodes live on")
    return [
        Row(
            f"{len(victims)} of {nodes} nodes killed amid {count:,} jobs: time beyond what lost CPUs explain",
            took_s - expected_s,
            "s",
            at_most(2.0),
            at_most(0.5),
        ),
        Row("  what they explain", expected_s, "s"),
    ]
