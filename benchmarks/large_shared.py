"""Large arrays on the same machine, against a process pool, and against memory.

Forty jobs take and return a float64 array of 10 MB; program and node pass it by shared memory. To copy the
bytes is to copy them twice, once for each way, into memory that is there.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy

from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row
from benchmarks.large_tcp import back, echo


def run(quick: bool) -> list[Row]:
    """Measure all three in turns."""
    size, count, repeats = (1_000_000, 4, 1) if quick else (10_000_000, 40, 5)
    array = numpy.arange(size // 8, dtype="float64")
    target = numpy.zeros_like(array)

    def copy() -> None:
        for _ in range(2 * count):
            target[:] = array

    with harness.node(), harness.cluster(back) as cluster, harness.pool() as pool:
        echo(cluster, array, count)
        pairs = []
        copies = []
        for _ in range(repeats):
            pairs += harness.interleave(
                1,
                lambda: count / harness.timed(lambda: echo(cluster, array, count)),
                lambda: count / harness.timed(lambda: pool_echo(pool, array, count)),
            )
            copies.append(count / harness.timed(copy))
    name = f"{count} jobs with {size / 1e6:.0f} MB each way on this machine"
    to_copies = [pair[0] / copied for pair, copied in zip(pairs, copies, strict=True)]
    return [
        median_row(f"{name}: ratio to the pool", harness.ratios(pairs), "x", at_least(2), at_least(5)),
        median_row(f"{name}: ratio to copying the bytes", to_copies, "x", None, at_least(0.25)),
        median_row(f"{name}", [pair[0] * size / 1e6 for pair in pairs], "MB/s each way"),
        median_row("  the pool", [pair[1] * size / 1e6 for pair in pairs], "MB/s each way"),
        median_row("  copying", [copied * size / 1e6 for copied in copies], "MB/s each way"),
    ]


def pool_echo(pool: ProcessPoolExecutor, array: numpy.ndarray[Any, Any], count: int) -> None:
    """The same with futures."""
    for future in [pool.submit(back, array) for _ in range(count)]:
        if future.result().shape != array.shape:
            raise RuntimeError("the pool did not give its argument back")
