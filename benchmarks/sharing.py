"""Two programs on one node: how the CPUs are divided, and how soon the second has its first result.

Both programs compute for 10 ms in each job, so that what a job costs beside its run does not count. The first
has a million jobs queued when the second comes. Shares are counted from the jobs' own times, of which those
that overlap a window belong to it with the part that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_most, median_row

JOB_S = 0.01

WINDOW_S = 1.0


def run(quick: bool) -> list[Row]:
    """Measure shares, first results, and what a program that was killed still takes."""
    depth, windows, comers = (2_000, 1, 1) if quick else (1_000_000, 5, 5)
    with harness.sandbox(), harness.running_node(2), program(depth) as first:
        first_results = [comer(first) for _ in range(comers)]
        shares = divide(first, depth, windows)
    worst = max(abs(share - 0.5) for share in shares)
    return [
        Row("two programs: a second's share of CPU time, off one half at most", worst, "", at_most(0.05),
            at_most(0.02), shares),
        median_row(f"second program beside {depth:,} queued jobs: cluster to first result", first_results, "s",
                   at_most(0.5), at_most(0.2)),
    ]  # fmt: skip


class Program:
    """Another program, at the other end of a pipe.

    Args:
        depth: Jobs that it queues.
        port: Where its shared scheduler listens; 0: it has its own.
        user: Login name that it claims; empty: its own.
    """

    def __init__(self, depth: int, port: int = 0, user: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.programs.rival", str(depth), str(JOB_S), str(port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **({"LOGNAME": user} if user else {})},
        )  # fmt: skip

    def ask(self, line: str = "") -> str:
        """Write a line, if one is given, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if line:
            self.process.stdin.write(line + "\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a program ended with exit code {self.process.wait(harness.STOP_S)}")
        return answer

    def spans(self) -> list[tuple[float, float]]:
        """When the jobs ran that have ended since the last time."""
        found: list[tuple[float, float]] = json.loads(self.ask("spans"))
        return found


@contextlib.contextmanager
def program(depth: int, port: int = 0, user: str = "") -> Iterator[Program]:
    """A program with so many jobs queued, the first of which have ended."""
    made = Program(depth, port, user)
    try:
        made.ask()
        yield made
    finally:
        assert made.process.stdin is not None
        with contextlib.suppress(OSError):
            made.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            made.process.wait(harness.STOP_S)
        harness.end(made.process)


def comer(first: Program) -> float:
    """A program comes, has one result, and goes; seconds from its cluster to the result."""
    with program(1) as other:
        seconds = float(other.ask("first"))
    first.spans()
    return seconds


def divide(first: Program, depth: int, windows: int) -> list[float]:
    """Share of the first of two programs in each second from the first result of the other on."""
    with program(min(depth, 100_000)) as other:
        mine, theirs = [], []
        for _ in range(windows):
            time.sleep(WINDOW_S)
            mine += first.spans()
            theirs += other.spans()
    begin = min(start for start, _ in theirs)
    until = min(max(end for _, end in spans) for spans in (mine, theirs))
    shares = []
    for number in range(int((until - begin) / WINDOW_S) or 1):
        window = (begin + number * WINDOW_S, min(until, begin + (number + 1) * WINDOW_S))
        had, others = within(mine, *window), within(theirs, *window)
        shares.append(had / (had + others))
    return shares


def within(spans: list[tuple[float, float]], begin: float, until: float) -> float:
    """How much of some runs lies between two times (seconds)."""
    return sum(max(0.0, min(end, until) - max(start, begin)) for start, end in spans)
