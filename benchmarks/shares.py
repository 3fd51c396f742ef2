"""Three users of a shared scheduler with weights 1 : 2 : 1, and a newcomer beside their jobs.

Jobs compute for 10 ms each on a node of two CPUs. Shares are counted from the jobs' own times, as in ``sharing``.
The newcomer is a program of a further user, from its cluster to its first result, while one user has a million jobs
queued.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row
from benchmarks.sharing import WINDOW_S, program, within

WEIGHTS = {"ann": 1, "bob": 2, "cem": 1}

_USERS = "\n".join(f"[{user}]\nweight = {weight}" for user, weight in WEIGHTS.items())


def run(quick: bool) -> list[Row]:
    """Measure shares over ten seconds, and first results of newcomers."""
    depth, seconds, comers = (2_000, 1.0, 1) if quick else (1_000_000, 10.0, 5)
    with ExitStack() as stack:
        root = stack.enter_context(harness.sandbox())
        (root / "users.toml").write_text(_USERS)
        stack.enter_context(harness.running_node(2))
        options = ("--users", str(root / "users.toml"))
        _, port = stack.enter_context(harness.listening_node(0, *options, module="dispy.cli.scheduler"))
        # One has a million jobs; the others as many as they need.
        queued = {user: depth if user == "ann" else min(depth, 20_000) for user in WEIGHTS}
        made = {user: stack.enter_context(program(queued[user], port, user)) for user in WEIGHTS}
        for each in made.values():
            each.spans()
        begin = time.time()
        time.sleep(WINDOW_S)
        until = begin + seconds
        spans: dict[str, list[tuple[float, float]]] = {user: [] for user in WEIGHTS}
        while time.time() < until + WINDOW_S:
            time.sleep(WINDOW_S / 4)
            for user, each in made.items():
                spans[user] += each.spans()
        had = {user: within(spans[user], begin, until) for user in WEIGHTS}
        total, weights = sum(had.values()), sum(WEIGHTS.values())
        off = [100 * abs(had[user] / total - weight / weights) for user, weight in WEIGHTS.items()]
        first_results = []
        for _ in range(comers):
            with program(1, port, "dan") as comer:
                first_results.append(float(comer.ask("first")))
    return [
        Row("users of weights 1 : 2 : 1: share of CPU time over ten seconds, off by at most", max(off), "points",
            at_most(5), at_most(3), off),
        median_row(f"a newcomer beside {depth:,} jobs of another user: cluster to first result", first_results,
                   "s", at_most(0.5), at_most(0.2)),
    ]  # fmt: skip
