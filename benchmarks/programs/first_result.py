"""A whole program: a cluster, one job, its result. Prints when that was there (monotonic seconds)."""

from __future__ import annotations

import time

from dispy import JobCluster


def compute(value: int) -> int:
    """The job."""
    return value + 1


if __name__ == "__main__":
    cluster = JobCluster(compute)
    job = cluster.submit(1)
    assert job() == 2
    print(time.monotonic(), flush=True)
