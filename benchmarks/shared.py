"""A shared scheduler beside one in the program: the same jobs, on the same node, in turns.

Both the node and the scheduler run all the time; the scheduler dials the node as any program does.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import psutil

from benchmarks import harness
from benchmarks.harness import Row, at_least, at_most, median_row, noop
from dispy import JobCluster, SharedJobCluster

ARRAY = 10_000_000
"""Bytes of each array."""


def back(data: Any) -> Any:
    return data


@contextmanager
def shared(function: Callable[..., Any], port: int, warm: int = 0) -> Any:
    """A cluster of the scheduler at a port."""
    made = SharedJobCluster(function, scheduler_host="127.0.0.1", scheduler_port=port)
    try:
        harness.gather([made.submit(number) for number in range(warm)])
        yield made
    finally:
        made.close(terminate=True)


def round_trip(made: JobCluster, count: int) -> float:
    """Median time of single jobs, one after another (microseconds)."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        made.submit(0)()
        took.append(time.perf_counter() - start)
    return 1e6 * statistics.median(took)


def map_rate(made: JobCluster, count: int) -> float:
    start = time.perf_counter()
    for _ in made.map(range(count)):
        pass
    return count / (time.perf_counter() - start)


def array_rate(made: JobCluster, count: int) -> float:
    """Megabytes per second, there and back together."""
    data = numpy.zeros(ARRAY // 8)
    start = time.perf_counter()
    for job in [made.submit(data) for _ in range(count)]:
        job()
    return 2 * count * ARRAY / 1e6 / (time.perf_counter() - start)


IDLE_S = 13.0
"""Seconds until workers that nobody needs have ended: a node waits for ten."""


def idle_clusters(count: int, pause_s: float) -> tuple[float, int]:
    """Open clusters on a node of two CPUs, each of which has run a job; returns the node's memory (MB, with its part
    of pages that it shares) and its number of workers, when nothing has run for a while."""
    with (
        harness.sandbox(),
        harness.running_node(2) as node,
        harness.listening_node(0, module="dispy.cli.scheduler") as (_, port),
        ExitStack() as stack,
    ):
        for _ in range(count):
            stack.enter_context(shared(operator.neg, port, warm=1))
        time.sleep(pause_s)
        daemon = psutil.Process(node)
        below = daemon.children(recursive=True)
        memory = sum([each.memory_full_info().pss for each in (daemon, *below)]) / 1e6
        hosts = {each.pid for each in daemon.children()}
        return memory, len([each for each in below if each.pid not in hosts])


def run(quick: bool) -> list[Row]:
    """Measure jobs, round trips, maps and arrays through the scheduler, as ratios to a cluster without one."""
    jobs, trips, items, arrays, repeats = (
        (500, 50, 5_000, 2, 1) if quick else (20_000, 1_000, 200_000, 16, 7)
    )
    with (
        harness.sandbox(),
        harness.running_node(),
        harness.listening_node(0, module="dispy.cli.scheduler") as (pid, port),
    ):
        idle = psutil.Process(pid).memory_info().rss / 1e6

        def own(measure: Callable[[JobCluster, int], float], count: int, function: Any = noop) -> float:
            with harness.cluster(function, warm=jobs // 4) as made:
                return measure(made, count)

        def through(measure: Callable[[JobCluster, int], float], count: int, function: Any = noop) -> float:
            with shared(function, port, warm=jobs // 4) as made:
                return measure(made, count)

        def four(count: int) -> float:
            """Four clusters at once, each with its part."""
            with ThreadPoolExecutor(4) as threads:
                start = time.perf_counter()
                list(threads.map(lambda _: through(harness.run_jobs, count // 4), range(4)))
                return count / (time.perf_counter() - start)

        rates = harness.interleave(
            repeats,
            lambda: jobs / through(harness.run_jobs, jobs),
            lambda: jobs / own(harness.run_jobs, jobs),
        )
        together = [four(jobs) for _ in range(repeats)]
        times = harness.interleave(
            repeats, lambda: through(round_trip, trips), lambda: own(round_trip, trips)
        )
        maps = harness.interleave(repeats, lambda: through(map_rate, items), lambda: own(map_rate, items))
        large = harness.interleave(
            repeats, lambda: through(array_rate, arrays, back), lambda: own(array_rate, arrays, back)
        )
    memory, workers = idle_clusters(10, 0.0) if quick else idle_clusters(200, IDLE_S)
    name = "through a shared scheduler"
    beyond = [first - second for first, second in times]
    return [
        median_row(f"no-op jobs {name}", [rate for rate, _ in rates], "jobs/s", at_least(60_000), at_least(85_000)),
        median_row(
            f"no-op jobs {name}, to one in the program", harness.ratios(rates), "x", at_least(0.55), at_least(0.75)
        ),
        median_row(f"no-op jobs {name}, of four clusters that begin and end", together, "jobs/s"),
        median_row(f"a single job {name}, beyond one in the program", beyond, "µs", at_most(120), at_most(80)),
        median_row(f"map of a no-op {name}, to one in the program", harness.ratios(maps), "x", at_least(0.8)),
        median_row(f"10 MB arrays {name}, to one in the program", harness.ratios(large), "x", at_least(0.9)),
        Row("memory of an idle scheduler", idle, "MB", at_most(40)),
        Row("memory of a node of two CPUs with 200 idle clusters", memory, "MB", at_most(3000)),
        Row("workers of these", workers, "", None if quick else at_most(12)),
    ]  # fmt: skip
