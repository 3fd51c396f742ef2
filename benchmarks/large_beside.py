"""What is small beside what is large: jobs and cancels while 2 GiB go each way over a slow line with hiccups.

One job takes 2 GiB, another returns 2 GiB, both at once, through ``programs.slow_link``. Meanwhile another
cluster on the same link runs small jobs, one after another, and cancels running ones. What program and
node hold in memory is looked at all the time: the node's files for large data count, and so do
pages of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import psutil

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, at_most, quantile
from dispy import DispyJob, JobCluster, config
from dispy.system.processes import MARK

PAUSE_S = 0.005


def run(quick: bool) -> list[Row]:
    """Measure with 2 GiB, or with little."""
    return measure(8 << 20, 20e6) if quick else measure(2 << 30, 50e6)


def measure(size: int, rate: float) -> list[Row]:
    """Measure how long jobs and cancels take, how full the line is, and what is held.

    Args:
        size: Bytes each way.
        rate: Of the line, bytes per second each way.
    """
    config.SharedMemory = False
    with harness.sandbox(), harness.listening_node(2) as (pid, port), slow_link(port, rate) as line:
        nodes = [("127.0.0.1", line)]
        directory = memory_of(pid)
        with (
            harness.cluster(take, nodes=nodes) as taking,
            harness.cluster(make, nodes=nodes) as making,
            harness.cluster(small, warm=20, nodes=nodes) as passing,
        ):
            taking.submit(b"")()
            making.submit(1)()
            alone = [small_s(passing) for _ in range(100)]
            with Memory(psutil.Process(pid), directory) as memory:
                # Pages that nobody has touched: what is counted is ours alone.
                array = numpy.zeros(size, dtype="uint8")
                jobs = [taking.submit(array), making.submit(size)]
                start = time.time()
                jobs_s, cancels_s = beside(passing, lambda: all(job.finish.is_set() for job in jobs))
                # The clock of the node is ours: this machine's.
                seconds = (jobs[0].start_time or 0.0) - start
                if jobs[0]() != size or jobs[1]().nbytes != size:
                    raise RuntimeError(f"not what was sent: {[job.exception for job in jobs]}")
    under_way = 2 * size
    name = f"beside {size / (1 << 20):.0f} MiB each way at {rate / 1e6:.0f} MB/s"
    return [
        *took(f"{name}: a small job", jobs_s),
        Row("  p50 on an empty line", quantile(alone, 0.5) * 1e3, "ms"),
        *took(f"{name}: a cancel", cancels_s),
        Row("  how full the line to the node is", size / rate / seconds, "", at_least(0.5), at_least(0.8)),
        Row("memory of the program, against what is under way", memory.client / under_way, "x", at_most(2)),
        Row("memory of the node, against what is under way", memory.node / under_way, "x", at_most(2)),
    ]


def took(name: str, seconds: list[float]) -> list[Row]:
    """Rows of how long something took."""
    return [
        Row(f"{name}, p50", quantile(seconds, 0.5) * 1e3, "ms", at_most(100), at_most(25)),
        Row("  p90", quantile(seconds, 0.9) * 1e3, "ms"),
        Row("  p99", quantile(seconds, 0.99) * 1e3, "ms", at_most(100), at_most(50)),
        Row("  the longest", max(seconds) * 1e3, "ms"),
    ]


def take(data: numpy.ndarray[Any, Any]) -> int:
    """A job that takes much."""
    return len(data)


def make(size: int) -> numpy.ndarray[Any, Any]:
    """A job that returns much."""
    import numpy

    return numpy.zeros(size, dtype="uint8")


def small(seconds: float) -> float:
    """A job that is told how long to take; warming up it is called with whole numbers."""
    import time

    time.sleep(seconds if type(seconds) is float else 0)
    return seconds


def small_s(cluster: JobCluster) -> float:
    """Seconds from ``submit`` to the result."""
    return harness.timed(lambda: cluster.submit(0.0)())


def cancelled(cluster: JobCluster, job: DispyJob) -> None:
    """Cancel a job, and wait until it has ended."""
    cluster.cancel(job)
    job.finish.wait()


def beside(cluster: JobCluster, is_over: Callable[[], bool]) -> tuple[list[float], list[float]]:
    """Run small jobs, and cancel a running one after every tenth; returns how long each took (seconds)."""
    jobs_s: list[float] = []
    cancels_s: list[float] = []
    while not is_over() or not cancels_s:
        jobs_s.append(small_s(cluster))
        if len(jobs_s) % 10 == 0:
            job = cluster.submit(600.0)
            while job.status != job.Running:
                time.sleep(PAUSE_S)
            cancels_s.append(harness.timed(partial(cancelled, cluster, job)))
        time.sleep(PAUSE_S)
    return jobs_s, cancels_s


class Memory:
    """The most that this process and a node hold (bytes), beyond what they held at the start.

    Args:
        node: The node's process.
        directory: Its files for large data.
    """

    def __init__(self, node: psutil.Process, directory: Path) -> None:
        self._node = node
        self._directory = directory
        self._before = (psutil.Process().memory_info().rss, self._node_bytes())
        self.client = self.node = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _node_bytes(self) -> int:
        info = self._node.memory_info()
        own: int = info.rss - info.shared
        for parent, _, names in os.walk(self._directory):
            for name in names:
                try:
                    own += os.stat(f"{parent}/{name}").st_blocks * 512
                except FileNotFoundError:
                    pass
        return own

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            self.client = max(self.client, psutil.Process().memory_info().rss - self._before[0])
            self.node = max(self.node, self._node_bytes() - self._before[1])

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()


def memory_of(pid: int) -> Path:
    """A node's directory for large data, by which its processes are marked."""
    marks = (child.environ().get(MARK) for child in psutil.Process(pid).children())
    return next(Path(mark) for mark in marks if mark)


@contextmanager
def slow_link(port: int, rate: float) -> Iterator[int]:
    """A slow line to a port; yields its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.programs.slow_link", str(port), str(rate)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        harness.end(process)
