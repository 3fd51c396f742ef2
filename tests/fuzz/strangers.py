"""A fuzzer over everything that a stranger's bytes reach.

    python -m tests.fuzz.strangers --inputs 10000000 --seed 1
    python -m tests.fuzz.strangers --seed 1 --block 123        the same block again, after a fault

Inputs come in blocks, each with a random source of its own, so that what a block consists of depends on the seed
and its number alone. An input is one conversation with one fresh object: see ``targets``. The exit
code is 1 if there were faults: a crash, something said or accepted that must not be, an input that takes
long, memory that grows.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .talks import warm_up
from .targets import Suspects, Targets

BLOCK = 1000
"""Inputs in a block."""

WARM_BLOCKS = 100
"""Blocks after which memory is taken for settled: buffers of every size were made by then."""

SLOW_MS = 2000.0
"""A single input that takes longer is a fault: the largest frames take 20 ms, and the machine may be busy."""

HANG_S = 120
"""A block that takes longer hangs: where is printed, and the process ends."""

GROWTH_MAX_KB = 16 * 1024
"""Memory that may come and go; what each of some million inputs left would be more."""

FAULTS_MAX = 1000
"""A fuzzer that finds more has enough."""


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        inputs: How many were run.
        seconds: How long that took.
        rss_start_kb: Resident memory of the process once it was warm.
        rss_end_kb: The same at the end.
        slowest_ms: The longest single input.
        slowest: Its target, and where it is.
        by_target: Inputs by target.
        faults: How often what must not have happened did.
        examples: The first input for each kind of fault, and how to have it again.
    """

    inputs: int = 0
    seconds: float = 0.0
    rss_start_kb: int = 0
    rss_end_kb: int = 0
    slowest_ms: float = 0.0
    slowest: str = ""
    by_target: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0
        targets = ", ".join(f"{name} {count:,}" for name, count in self.by_target.most_common())
        return (
            f"{self.inputs:,} inputs in {self.seconds:.1f} s ({rate:,.0f}/s), "
            f"RSS {self.rss_start_kb:,} kB once warm and {self.rss_end_kb:,} kB at the end, "
            f"longest input {self.slowest_ms:.1f} ms ({self.slowest}), {self.faults.total():,} faults\n  {targets}"
        )

    def note(self, kind: str, example: str) -> None:
        """Something happened that must not."""
        self.faults[kind] += 1
        self.examples.setdefault(kind, example)


def run_block(seed: int, block: int, count: int, suspects: Suspects, report: Report) -> None:
    """Run so many inputs of a block, and add to the report."""
    targets = Targets(random.Random(f"{seed}/{block}"), suspects)
    clock = time.perf_counter
    for number in range(count):
        start = clock()
        name = ""
        try:
            name = targets.run()
            report.by_target[name] += 1
        except Exception as error:
            report.note(_kind(error), _describe(seed, block, number, targets.said) + traceback.format_exc())
            if report.faults.total() >= FAULTS_MAX:
                return
        took_ms = (clock() - start) * 1e3
        if took_ms > report.slowest_ms:
            report.slowest_ms = took_ms
            report.slowest = f"{name}, block {block}"
            if took_ms > SLOW_MS:
                report.note("slow", f"{took_ms:.0f} ms: {_describe(seed, block, number, targets.said)}")
        report.inputs += 1


def _kind(error: Exception) -> str:
    """Faults of one kind have one cause, most likely: what was raised, and where."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {os.path.basename(where.filename)}:{where.lineno}"


def _describe(seed: int, block: int, number: int, said: list[bytes]) -> str:
    parts = " ".join(part.hex() if len(part) < 5000 else f"({len(part)} bytes)" for part in said)
    return f"seed {seed}, block {block}, input {number}: {parts}\n"


def run(
    seed: int,
    inputs: int,
    *,
    seconds: float = float("inf"),
    first: int = 0,
    step: int = 1,
    suspects: Suspects | None = None,
    is_watched: bool = False,
) -> Report:
    """Run blocks ``first``, ``first + step``, … until there were so many inputs, or the time is up.

    Args:
        seed: Of everything.
        inputs: How many to run.
        seconds: How long to run at most (wall clock).
        first: Number of the first block.
        step: Distance of the blocks that this process runs.
        suspects: The code under test.
        is_watched: End this process, with a traceback, if a block hangs.
    """
    report = Report()
    warm_up()
    start = time.monotonic()
    block = first
    warm_at = min(WARM_BLOCKS * BLOCK, inputs // 2)
    while (
        report.inputs < inputs and time.monotonic() - start < seconds and report.faults.total() < FAULTS_MAX
    ):
        if is_watched:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
        run_block(seed, block, min(BLOCK, inputs - report.inputs), suspects or Suspects(), report)
        block += step
        if not report.rss_start_kb and report.inputs >= warm_at:
            report.rss_start_kb = _rss_kb()
    if is_watched:
        faulthandler.cancel_dump_traceback_later()
    report.seconds = time.monotonic() - start
    report.rss_end_kb = _rss_kb()
    growth_kb = report.rss_end_kb - report.rss_start_kb
    if growth_kb > GROWTH_MAX_KB:
        report.note("growth", f"memory grew by {growth_kb:,} kB")
    return report


def _rss_kb() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Entry of ``python -m tests.fuzz.strangers``."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.strangers", description="Fuzz what strangers reach.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long at most")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--block", type=int, help="run this block alone, in this process")
    options = parser.parse_args()
    if options.block is not None:
        reports = [run(options.seed, BLOCK, first=options.block, is_watched=True)]
    else:
        reports = run_processes(options.seed, options.inputs, options.seconds, options.processes)
    for report in reports:
        print(report)
        for kind, count in report.faults.items():
            print(f"{kind}: {count}\n{report.examples[kind]}")
    if len(reports) > 1:
        total = sum(report.inputs for report in reports)
        rate = sum(report.inputs / report.seconds for report in reports if report.seconds)
        print(f"{total:,} inputs in all, {rate:,.0f}/s, {rate / len(reports):,.0f}/s per process")
    sys.exit(1 if any(report.faults for report in reports) else 0)


def run_processes(seed: int, inputs: int, seconds: float, processes: int) -> list[Report]:
    """Share the inputs out, block by block."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        shares = [inputs // processes + (number < inputs % processes) for number in range(processes)]
        futures = [
            pool.submit(run, seed, share, seconds=seconds, first=number, step=processes, is_watched=True)
            for number, share in enumerate(shares)
        ]
        return [future.result() for future in futures]


if __name__ == "__main__":
    main()
