"""From the start of a program to its first result, in a fresh process, and to its exit.

Once with a node running, once with nothing, where the program starts a node of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import harness
from benchmarks.harness import PROGRAMS, Bound, Row, at_most, median_row


def run(quick: bool) -> list[Row]:
    """Measure both."""
    repeats = 2 if quick else 15
    with harness.node():
        running = [first_result_s() for _ in range(repeats)]
    with harness.sandbox():
        first_result_s()  # makes the user's secret
        alone = [first_result_s() for _ in range(repeats)]
    return [
        *_rows("a node runs", running, at_most(0.3), at_most(0.18)),
        *_rows("nothing runs", alone, at_most(0.6), at_most(0.35)),
    ]


def _rows(case: str, samples: list[tuple[float, float]], bar: Bound, aim: Bound) -> list[Row]:
    return [
        median_row(
            f"process start to first result, {case}", [first for first, _ in samples], "s", bar, aim
        ),
        median_row(f"process start to exit, {case}", [whole for _, whole in samples], "s"),
    ]


def first_result_s() -> tuple[float, float]:
    """Seconds until the result is there, and until the process has ended."""
    start = time.monotonic()
    ran = subprocess.run(
        [sys.executable, str(PROGRAMS / "first_result.py")], check=True, stdout=subprocess.PIPE, timeout=30
    )
    return float(ran.stdout) - start, time.monotonic() - start
