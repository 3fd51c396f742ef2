"""What ``import dispy`` adds to a bare interpreter: wall time of fresh processes, in turns.

``JobCluster`` is loaded when first used, so what a program with a cluster pays is measured, too.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row


def run(quick: bool) -> list[Row]:
    """Measure the difference to an interpreter that does nothing."""
    repeats = 2 if quick else 31

    def bare() -> float:
        return interpreter_ms("pass")

    plain = harness.interleave(repeats, lambda: interpreter_ms("import dispy"), bare)
    whole = harness.interleave(repeats, lambda: interpreter_ms("from dispy import JobCluster"), bare)
    return [
        median_row(
            "import dispy",
            [with_it - without for with_it, without in plain],
            "ms",
            at_most(90),
            at_most(50),
        ),
        median_row("from dispy import JobCluster", [with_it - without for with_it, without in whole], "ms"),
        median_row("a bare interpreter", [without for _, without in plain], "ms"),
    ]


def interpreter_ms(code: str) -> float:
    """Milliseconds from start to exit of an interpreter that runs the code."""
    return harness.timed(lambda: subprocess.run([sys.executable, "-c", code], check=True)) * 1e3
