"""Jobs of very different length: how close we come to the shortest time, and whether a CPU ever waits.

Durations are drawn with a fixed seed: 1 ms (80 %), 20 ms (15 %), 200 ms (5 %); the jobs sleep. All
are submitted at once. The ideal is list scheduling in the order of submission on two CPUs, without any
cost; once with the drawn durations, once with those that the jobs really had. The longest wait
is the longest span in which fewer jobs ran than there are CPUs while a submitted one had not started.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Iterable

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row

CPUS = 2


def run(quick: bool) -> list[Row]:
    """Measure makespan and longest wait."""
    count, repeats = (60, 1) if quick else (2_000, 2)
    drawn = random.Random(20).choices([0.001, 0.02, 0.2], [80, 15, 5], k=count)
    to_drawn, to_measured, waits, most = [], [], [], []
    with harness.node():
        for _ in range(repeats):
            with harness.cluster(sleep, warm=4) as cluster:
                start = time.time()
                jobs = [cluster.submit(duration) for duration in drawn]
                harness.gather(jobs)
            spans = [harness.span(job) for job in jobs]
            makespan = max(end for _, end in spans) - start
            to_drawn.append(makespan / list_scheduling_s(drawn))
            to_measured.append(makespan / list_scheduling_s(end - begin for begin, end in spans))
            submitted = [job.submit_time for job in jobs]
            wait_s, most_running = longest_wait_s(submitted, spans)
            waits.append(wait_s * 1e3)
            most.append(most_running)
    return [
        median_row("mixed durations: makespan / ideal", to_drawn, "x", at_most(1.1), at_most(1.03)),
        median_row("mixed durations: makespan / ideal of the durations measured", to_measured, "x"),
        Row("longest wait beside a free CPU", max(waits), "ms", at_most(100), at_most(20), waits),
        Row("most jobs that ran at once", max(most), "", at_most(CPUS)),
    ]


def sleep(duration_s: float) -> None:
    """The job."""
    import time

    # Warming up calls it with whole numbers.
    time.sleep(duration_s if type(duration_s) is float else 0.001)


def list_scheduling_s(durations: Iterable[float]) -> float:
    """When the last job ends if each starts, in order, as soon as a CPU is free."""
    free_at = [0.0] * CPUS
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def longest_wait_s(submitted: Iterable[float], spans: Iterable[tuple[float, float]]) -> tuple[float, int]:
    """The longest span (seconds) in which a CPU was free while a submitted job had not started.

    Also the largest number of jobs that ran at once.

    Args:
        submitted: When each job was submitted.
        spans: When each began and ended.
    """
    # (time, order, change of waiting, change of running): at one instant ends come before starts.
    changes = [(moment, 1, 1, 0) for moment in submitted]
    for begin, end in spans:
        changes += [(end, 0, 0, -1), (begin, 2, -1, 1)]
    longest = 0.0
    waiting = running = most = 0
    since: float | None = None
    for moment, _, more_waiting, more_running in sorted(changes):
        waiting += more_waiting
        running += more_running
        most = max(most, running)
        is_idle = running < CPUS and waiting > 0
        if is_idle and since is None:
            since = moment
        elif not is_idle and since is not None:
            longest = max(longest, moment - since)
            since = None
    return longest, most
