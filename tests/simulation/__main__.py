"""Plays many worlds and says what came of them.

    python -m tests.simulation --seeds 1000            the first thousand worlds
    python -m tests.simulation --seconds 120           as many as fit into two minutes
    python -m tests.simulation --seed 17               one world, with its trace if it fails
    python -m tests.simulation --seed 17 --trace       the same, with its trace in any case
    python -m tests.simulation --mutations             break guarantees on purpose and see that this is noticed

What a world is like, and what goes wrong in it, comes from its seed alone. The exit code is 1 if a guarantee was
broken in one of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress

from dispy.protocol.node import ABANDONED, CANCELLED, FINISHED, TERMINATED

from .mutations import MUTATIONS, find, is_named
from .simulation import CLIMATES, SEEKING_CLIMATES, SHARED_CLIMATES, STEPS, Outcome, run_batch, run_seed

LINES = 60
"""The end of the trace of a world that failed that is shown."""

AT_ONCE = 10
"""Worlds that a process plays before it tells what came of them."""

NAMES = {FINISHED: "finished", TERMINATED: "terminated", CANCELLED: "cancelled", ABANDONED: "abandoned"}

ENOUGH = 40
"""Worlds of a climate after which each of its faults must have struck."""


def main() -> None:
    """Entry of ``python -m tests.simulation``."""
    parser = argparse.ArgumentParser(
        prog="tests.simulation", description="Play clusters in which all goes wrong."
    )
    parser.add_argument("--seeds", type=int, help="worlds to play; 100 if no time is given")
    parser.add_argument("--seed", type=int, help="the first of them; alone: play just this one")
    parser.add_argument("--seconds", type=float, help="play for so long")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps until faults cease (%(default)s)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--climate",
        default="",
        choices=sorted({name for name, _ in CLIMATES + SHARED_CLIMATES + SEEKING_CLIMATES}),
        help="the only one there is",
    )
    parser.add_argument("--trace", action="store_true", help="tell everything that happens in one world")
    parser.add_argument(
        "--mutations", action="store_true", help="break guarantees on purpose, one at a time"
    )
    options = parser.parse_args()
    if options.mutations:
        sys.exit(check_checker())
    if options.seed is not None and options.seeds is None and options.seconds is None:
        sys.exit(play_one(options.seed, options.steps, options.trace, options.climate))
    first = options.seed or 0
    count = options.seeds if options.seeds is not None else 100 if options.seconds is None else 1 << 40
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    sys.exit(play(first, count, options.steps, options.processes, deadline, options.climate))


def play_one(seed: int, steps: int, is_traced: bool, climate: str) -> int:
    """Play one world."""
    outcome = run_seed(seed, steps, print if is_traced else None, climate)
    print(describe(outcome))
    if outcome.failure is not None and not is_traced:
        show_trace(seed, steps, climate)
    return 1 if outcome.failure is not None else 0


def play(first: int, count: int, steps: int, processes: int, deadline: float | None, climate: str) -> int:
    """Play many worlds."""
    began = time.monotonic()
    total = Total()
    # Who interrupts it is told what has come of it so far.
    with (
        suppress(KeyboardInterrupt),
        _outcomes(first, count, steps, processes, deadline, climate) as outcomes,
    ):
        for batch in outcomes:
            for outcome in batch:
                total.add(outcome)
                if outcome.failure is not None:
                    print(describe(outcome), flush=True)
            if deadline is not None and time.monotonic() > deadline:
                break
    print(total.describe(time.monotonic() - began))
    if total.idle_faults():
        print(f"faults that never struck: {', '.join(total.idle_faults())}")
        return 1
    if total.failed:
        seed = min(total.failed)
        print(f"\nThe end of the trace of seed {seed}:\n")
        show_trace(seed, steps, climate)
        flag = "" if steps == STEPS else f" --steps {steps}"
        flag += f" --climate {climate}" if climate else ""
        print(f"\nplay it again: python -m tests.simulation --seed {seed}{flag} --trace")
        return 1
    return 0


class _outcomes:
    """What comes of worlds, some at a time, from several processes or from this one."""

    def __init__(
        self, first: int, count: int, steps: int, processes: int, deadline: float | None, climate: str
    ) -> None:
        self._batches = (
            (start, min(AT_ONCE, first + count - start), steps, deadline, climate)
            for start in range(first, first + count, AT_ONCE)
        )
        self._processes = processes
        self._pool: multiprocessing.pool.Pool | None = None

    def __enter__(self) -> Iterator[list[Outcome]]:
        if self._processes <= 1:
            return map(run_batch, self._batches)
        context = multiprocessing.get_context("spawn")
        # Worlds are not forgotten: a process would have 4 GB after some hundred.
        self._pool = context.Pool(self._processes, maxtasksperchild=8)
        # ``imap`` would read an endless row of batches at once.
        return self._windowed(self._pool)

    def _windowed(self, pool: multiprocessing.pool.Pool) -> Iterator[list[Outcome]]:
        under_way: deque[multiprocessing.pool.AsyncResult[list[Outcome]]] = deque()
        for batch in self._batches:
            under_way.append(pool.apply_async(run_batch, (batch,)))
            if len(under_way) > 2 * self._processes:
                yield under_way.popleft().get()
        while under_way:
            yield under_way.popleft().get()

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def check_checker() -> int:
    """Break guarantees, one at a time, and say how soon that is noticed."""
    missed = 0
    for mutation in MUTATIONS:
        count, outcome = find(mutation)
        if outcome is None or not is_named(mutation, outcome):
            missed += 1
        said = "nothing is noticed" if outcome is None else f"seed {outcome.seed}: {outcome.failure}"
        print(f"{mutation.name}: after {count} worlds, {said}", flush=True)
    print(f"{len(MUTATIONS)} broken guarantees, {missed} missed")
    return 1 if missed else 0


class Total:
    """What came of all worlds so far."""

    def __init__(self) -> None:
        self.worlds = 0
        self.steps = 0
        self.virtual_s = 0.0
        self.jobs = 0
        self.runs = 0
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.packets: Counter[str] = Counter()
        self.recovered: Counter[str] = Counter()
        self.failed: list[int] = []
        self.by_climate: dict[str, Counter[str]] = {}
        """Worlds of each climate (empty name), and how often each fault struck in them."""

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.worlds += 1
        self.steps += outcome.steps
        self.virtual_s += outcome.virtual_s
        self.jobs += outcome.jobs
        self.runs += outcome.runs
        self.statuses.update(outcome.statuses)
        self.faults.update(outcome.faults)
        self.by_climate.setdefault(outcome.climate, Counter()).update({"": 1, **outcome.faults})
        self.packets.update(outcome.packets)
        self.recovered.update(outcome.recovered)
        if outcome.failure is not None:
            self.failed.append(outcome.seed)

    def idle_faults(self) -> list[str]:
        """Faults that did not strike in ``ENOUGH`` worlds of a climate that has them: they have ceased to work."""
        return [
            f"{name} in {climate}"
            for climate, counts in self.by_climate.items()
            for name in dict(CLIMATES + SHARED_CLIMATES + SEEKING_CLIMATES)[climate]
            if counts[""] >= ENOUGH and not counts[name]
        ]

    def describe(self, seconds: float) -> str:
        """All of it, in some lines."""
        ends = ", ".join(f"{self.statuses[status]:,} {name}" for status, name in NAMES.items())
        faults = ", ".join(f"{name} {count:,}" for name, count in sorted(self.faults.items()))
        packets = ", ".join(f"{count:,} {name}" for name, count in self.packets.items())
        recovered = ", ".join(f"{count:,} {name}" for name, count in self.recovered.items())
        rate = self.steps / max(seconds, 1e-9)
        return (
            f"{self.worlds:,} worlds, {self.steps:,} events in {seconds:.0f} s ({rate:,.0f}/s), "
            f"{self.virtual_s / 3600:.1f} virtual hours\n"
            f"{self.jobs:,} jobs, begun {self.runs:,} times: {ends}\n"
            f"{sum(self.faults.values()):,} faults: {faults or 'none'}\n"
            f"packets: {packets}\n"
            f"after deaths of programs: {recovered or 'nothing'}\n"
            f"failed: {', '.join(map(str, sorted(self.failed))) or 'none'}"
        )


def describe(outcome: Outcome) -> str:
    """What came of one world."""
    return (
        f"seed {outcome.seed} ({outcome.climate}): {outcome.steps:,} events in {outcome.virtual_s:.1f} s, "
        f"{outcome.jobs} jobs, digest {outcome.digest & (1 << 64) - 1:016x}: {outcome.failure or 'well'}"
    )


def show_trace(seed: int, steps: int, climate: str) -> None:
    """The last that happened in a world."""
    lines: deque[str] = deque(maxlen=LINES)
    run_seed(seed, steps, lines.append, climate)
    for line in lines:
        print(line[:400])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "error")
    main()
