"""Cancelling a million queued jobs, and closing with thousands of them on several nodes.

Jobs are queued behind sleeping ones on a node of two CPUs, and cancelled one by one, in a loop; then as a list.
Then a cluster is closed with all CPUs of four nodes running sleepers and thousands waiting, and once more
while one of the nodes stands still (SIGSTOP), which ends after the grace period and two seconds. Nodes offer
more CPUs than the machine has: sleepers need none.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterator

import psutil

import dispy
from benchmarks import harness
from benchmarks.harness import Row, at_most, cluster, gather, median_row
from dispy import DispyJob, JobCluster

SLEEP_S = 600.0


def run(quick: bool) -> list[Row]:
    """Measure both."""
    count, repeats = (5_000, 1) if quick else (1_000_000, 3)
    if quick:
        dispy.config.CancelGrace = 0.5
    with harness.sandbox(), harness.running_node(2), cluster(time.sleep) as made:
        gather([made.submit(0) for _ in range(10)])
        sleepers = [made.submit(SLEEP_S) for _ in range(2)]
        gc.collect()
        before = psutil.Process().memory_info().rss
        loops = [cancel(made, count, is_list=False) for _ in range(repeats)]
        lists = [cancel(made, count, is_list=True) for _ in range(repeats)]
        left = psutil.Process().memory_info().rss - before
        pending = made.status().jobs_pending
        if pending != len(sleepers):
            raise RuntimeError(f"{pending} jobs are left of {len(sleepers)}")
        made.cancel(sleepers)
    nodes, cpus, queued = (2, 2, 50) if quick else (4, 64, 5_000)
    close_s = close(nodes, cpus, queued, is_stopped=False)
    stopped_s = close(nodes, cpus, queued, is_stopped=True)
    bound_s = dispy.config.CancelGrace + 2.0
    claim = f"close(terminate=True), {nodes} nodes of {cpus} CPUs, {queued:,} queued"
    return [
        median_row(f"cancel {count:,} queued jobs in a loop, to the end of the last", loops, "s", at_most(2.0),
                   at_most(1.0)),
        median_row("  the same, given as a list", lists, "s"),
        Row("  memory of the process that is left, per job", left / count, "bytes"),
        Row(claim, close_s, "s", at_most(bound_s), at_most(1.0)),
        Row("  the same with a node that stands still", stopped_s, "s", at_most(bound_s + 1.0)),
    ]  # fmt: skip


def cancel(made: JobCluster, count: int, is_list: bool) -> float:
    """Queue jobs and cancel them; seconds until the last has ended."""
    jobs = [made.submit(0) for _ in range(count)]
    made.status()
    start = time.perf_counter()
    if is_list:
        made.cancel(jobs)
    else:
        for job in jobs:
            made.cancel(job)
    for job in reversed(jobs):
        job.wait()
    seconds = time.perf_counter() - start
    if any(job.status != DispyJob.Cancelled for job in jobs):
        raise RuntimeError("a job was not cancelled")
    return seconds


def close(nodes: int, cpus: int, queued: int, is_stopped: bool) -> float:
    """Close a cluster whose nodes run a sleeper on each CPU; seconds."""
    with harness.sandbox(), contextlib.ExitStack() as stack:
        pids = [stack.enter_context(wide_node(cpus)) for _ in range(nodes)]
        made = stack.enter_context(cluster(time.sleep))
        jobs = [made.submit(SLEEP_S) for _ in range(nodes * cpus + queued)]
        deadline = time.monotonic() + harness.START_S
        while sum(job.status == DispyJob.Running for job in jobs) < nodes * cpus:
            if time.monotonic() > deadline:
                raise RuntimeError("not all CPUs are used")
            time.sleep(0.05)
        if is_stopped:
            os.kill(pids[0], signal.SIGSTOP)
        try:
            return harness.timed(lambda: made.close(terminate=True))
        finally:
            os.kill(pids[0], signal.SIGCONT)


@contextlib.contextmanager
def wide_node(cpus: int) -> Iterator[int]:
    """A node that offers more CPUs than the machine has; yields its pid."""
    with harness.listening_node(cpus, module="benchmarks.programs.wide_node") as (pid, _):
        yield pid
