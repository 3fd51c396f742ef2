"""How soon a CPU works again after what ran on it was killed: a job's process, its computation's host, its node.

On a node of one CPU a job runs and others wait. The time is from the signal to the start of the next job, as the node
that runs it tells it. A killed node refuses connections; its jobs may run again and go to another one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row
from dispy import JobCluster


def run(quick: bool) -> list[Row]:
    """Measure all three."""
    repeats = 2 if quick else 20
    with harness.sandbox(), harness.running_node(1), harness.cluster(sleep) as made:
        workers = [kill(made, lambda pid: pid) for _ in range(repeats)]
    hosts = [kill_host() for _ in range(2 if quick else 5)]
    nodes = [kill_node() for _ in range(2 if quick else 5)]
    return [
        median_row("job's process killed, to the start of the next job", workers, "s", at_most(0.1), at_most(0.05)),
        Row("  the longest", max(workers), "s", at_most(0.25)),
        median_row("computation's host killed, likewise", hosts, "s", at_most(1.0), at_most(0.3)),
        median_row("node killed, to the start of its job elsewhere", nodes, "s", at_most(1.0), at_most(0.3)),
    ]  # fmt: skip


def sleep(seconds: float) -> int:
    """A job that takes so long; returns its process."""
    time.sleep(seconds)
    return os.getpid()


def wait_for(path: str) -> None:
    """A job that runs until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.002)


def kill(made: JobCluster, victim: Callable[[int], int]) -> float:
    """Kill what runs a job; returns the seconds until the next one starts."""
    pid = made.submit(0)()
    running, following = made.submit(600.0), made.submit(0)
    while running.status != running.Running:
        time.sleep(0.002)
    killed = time.time()
    os.kill(victim(pid), signal.SIGKILL)
    following()
    return harness.span(following)[0] - killed


def kill_host() -> float:
    """The same with the host, of a cluster of its own: hosts that die often are given up."""
    with harness.sandbox(), harness.running_node(1), harness.cluster(sleep) as made:
        return kill(made, lambda pid: psutil.Process(pid).ppid())


def kill_node() -> float:
    """Kill the node of a job; returns the seconds until it starts on another one."""
    with harness.sandbox(), contextlib.ExitStack() as stack:
        first, _ = stack.enter_context(harness.listening_node(1))
        made = stack.enter_context(harness.cluster(wait_for, reentrant=True))
        gate = os.path.join(os.environ["XDG_RUNTIME_DIR"], "gate")
        job = made.submit(gate)
        while job.status != job.Running:
            time.sleep(0.002)
        stack.enter_context(harness.listening_node(1))
        while sum(node.cpus for node in made.status().nodes) < 2:
            time.sleep(0.01)
        killed = time.time()
        os.kill(first, signal.SIGKILL)
        with open(gate, "x"):
            job()
        return harness.span(job)[0] - killed
