"""Programs as computations: ``/bin/true`` many times, against ``subprocess.run`` from two threads.

Both have two at a time. What is measured is mostly the kernel: to make a process and end it.
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row


def run(quick: bool) -> list[Row]:
    """Measure programs per second of both."""
    count, repeats = (20, 1) if quick else (2_000, 7)
    program = shutil.which("true") or "/bin/true"

    def ours() -> float:
        with harness.cluster(program, warm=10) as cluster:
            return count / harness.timed(
                lambda: harness.gather([cluster.submit(number) for number in range(count)])
            )

    def theirs() -> float:
        with ThreadPoolExecutor(2) as pool:
            return count / harness.timed(
                lambda: list(pool.map(lambda number: subprocess.run([program, str(number)]), range(count)))
            )

    with harness.node():
        pairs = harness.interleave(repeats, ours, theirs)
    return [
        median_row(
            "programs: ratio to subprocess.run from two threads", harness.ratios(pairs), "x", at_least(0.9)
        ),
        median_row("  dispy", [pair[0] for pair in pairs], "programs/s"),
        median_row("  subprocess.run", [pair[1] for pair in pairs], "programs/s"),
    ]
