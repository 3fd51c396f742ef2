"""What capturing output costs: a job that prints 100 lines against a no-op job and the bare prints.

And what it costs to see it while the job runs, and after what time it is seen.

All is time per job with both CPUs at work: jobs through a cluster, submitted and gathered; the bare
prints in two plain processes at once, each to a file of its own, flushed after every 100 lines.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from benchmarks import harness
from benchmarks.harness import PROGRAMS, Row, at_most, median_row, noop
from benchmarks.programs.print_lines import print_lines
from dispy import DispyJob


def run(quick: bool) -> list[Row]:
    """Measure the ratio, and its three parts."""
    count, repeats = (200, 1) if quick else (10_000, 5)
    parts: list[tuple[float, float, float]] = []
    live, delays = [], []
    with harness.node():
        for _ in range(repeats):
            with harness.cluster(noop, warm=count // 4) as cluster:
                bare_us = harness.run_jobs(cluster, count) / count * 1e6
            with harness.cluster(print_lines, warm=count // 4) as cluster:
                printing_us = harness.run_jobs(cluster, count) / count * 1e6
                check_output(cluster.submit(1))
            with harness.cluster(print_lines, warm=count // 4, job_output=ignore) as cluster:
                live.append(harness.run_jobs(cluster, count // 4) / (count // 4) * 1e6)
            with harness.cluster(print_times) as cluster:
                delays += delays_ms(cluster.submit(5 if quick else 20))
            parts.append((printing_us, bare_us, plain_prints_s(count) / count * 1e6))
    shares = [printing / (bare + plain) for printing, bare, plain in parts]
    printing, bare, plain = zip(*parts, strict=True)
    return [
        median_row(
            "job that prints 100 lines / (no-op job + prints)", shares, "x", at_most(1.3), at_most(1.1)
        ),
        median_row("  job that prints 100 lines", printing, "us"),
        median_row("  no-op job", bare, "us"),
        median_row("  100 lines to a file", plain, "us"),
        median_row("  job that prints 100 lines, with job_output", live, "us"),
        median_row("line of a running job is seen after", delays, "ms", at_most(1000), at_most(200)),
    ]


def ignore(job: DispyJob, stream: str, text: str) -> None:
    """Take what a job prints."""


def print_times(count: int) -> None:
    """Print the time, now and then."""
    for _ in range(count):
        print(time.time())
        time.sleep(0.07)


def delays_ms(job: DispyJob) -> list[float]:
    """After what time each line of a running ``print_times`` is seen (milliseconds)."""
    found = []
    for _, text in job.output(follow=True):
        now = time.time()
        found += [(now - float(line)) * 1e3 for line in text.split()]
    return found


def check_output(job: DispyJob) -> None:
    """All that was printed has arrived."""
    job()
    if job.stdout.count("\n") != 100:
        raise RuntimeError(f"{job!r} printed {job.stdout!r}")


def plain_prints_s(count: int) -> float:
    """Seconds that two plain processes take to print what so many jobs print."""
    command = [sys.executable, str(PROGRAMS / "print_lines.py"), str(count // 2)]
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        processes = [
            subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE) for file in (first, second)
        ]
        return max(float(process.communicate(timeout=120)[1]) for process in processes)
