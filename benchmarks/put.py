"""Jobs that read one large array which was put once, against the same jobs without it.

Both run in turns over the same node: ``noop(n)``, and a function that reads an element of an array of
100 MB. The first use, which maps and unpickles the array in each worker, is not counted; how
long the first job waits for the array is said beside it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row, noop
from dispy import JobCluster, Ref


def element(array: numpy.ndarray[Any, Any], place: int) -> float:
    """Read something."""
    return array[place].item()  # type: ignore[no-any-return]


def run(quick: bool) -> list[Row]:
    """Measure the ratio of the rates, and the time to the first result."""
    count, size, repeats = (300, 1 << 17, 1) if quick else (10_000, 100_000_000 // 8, 9)
    array = numpy.arange(size, dtype="float64")
    with harness.node(), harness.cluster(noop) as plain, harness.cluster(element, warm=0) as reading:
        start = time.perf_counter()
        ref = reading.put(array)
        first = reading.submit(ref, 5)
        if first() != 5.0:
            raise RuntimeError(f"not what was put: {first.exception or first.result}")
        first_ms = (time.perf_counter() - start) * 1e3

        def rate(cluster: JobCluster, *before: Ref) -> float:
            def work() -> None:
                jobs = [cluster.submit(*before, n) for n in range(count)]
                if [job() for job in jobs] != list(range(count)):
                    raise RuntimeError("a job returned something else than it should")

            return count / harness.timed(work)

        pairs = harness.interleave(repeats, lambda: rate(reading, ref), lambda: rate(plain))
    name = f"jobs that read an array of {array.nbytes / 1e6:.0f} MB that was put once"
    return [
        median_row(
            f"{name}: ratio to no-op jobs", harness.ratios(pairs), "x", at_least(0.7), at_least(0.9)
        ),
        median_row(f"{name}", [pair[0] for pair in pairs], "jobs/s"),
        median_row("  no-op jobs", [pair[1] for pair in pairs], "jobs/s"),
        Row("  put and the first result", first_ms, "ms"),
    ]
