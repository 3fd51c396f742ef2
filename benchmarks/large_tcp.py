"""Large arrays over TCP, against an echo of the same bytes through as many processes.

Forty jobs take and return a float64 array of 10 MB; program and node share no memory. The echo goes the same
way: through a node process to one of two workers and back (``programs.echo_chain``), in pieces of
250 KB with 8 MB under way, which is the fastest of what was tried from 100 KB to the whole array. It pickles,
copies, keeps and schedules nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, median_row
from benchmarks.programs.echo_chain import Client
from dispy import JobCluster, config

PIECE = 250_000
AHEAD = 32


def run(quick: bool) -> list[Row]:
    """Measure both in turns."""
    size, count, repeats = (1_000_000, 4, 1) if quick else (10_000_000, 40, 9)
    array = numpy.arange(size // 8, dtype="float64")
    config.SharedMemory = False
    with harness.node(), harness.cluster(back) as cluster, echo_chain() as client:
        echo(cluster, array, count)
        client.echo(count * size // PIECE)
        pairs = harness.interleave(
            repeats,
            lambda: count / harness.timed(lambda: echo(cluster, array, count)),
            lambda: count / harness.timed(lambda: client.echo(count * size // PIECE)),
        )
    name = f"{count} jobs with {size / 1e6:.0f} MB each way over TCP"
    return [
        median_row(
            f"{name}: ratio to an echo of the bytes",
            harness.ratios(pairs),
            "x",
            at_least(0.5),
            at_least(0.8),
        ),
        median_row(f"{name}", [pair[0] * size / 1e6 for pair in pairs], "MB/s each way"),
        median_row("  the echo", [pair[1] * size / 1e6 for pair in pairs], "MB/s each way"),
    ]


def back(array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """The job."""
    return array


def echo(cluster: JobCluster, array: numpy.ndarray[Any, Any], count: int) -> None:
    """Submit so many jobs at once, then gather all results."""
    jobs = [cluster.submit(array) for _ in range(count)]
    for job in jobs:
        result = job()
        if job.status != job.Finished or result.shape != array.shape or result[-1] != array[-1]:
            raise RuntimeError(f"{job!r} did not give its argument back: {job.exception}")


@contextmanager
def echo_chain() -> Iterator[Client]:
    """The processes of the echo, and our end."""
    node = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.programs.echo_chain", str(PIECE)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert node.stdout is not None
    try:
        client = Client(PIECE, int(node.stdout.readline()), AHEAD)
        yield client
        client.close()
    finally:
        harness.end(node)
