"""A program that waits for its start, then prints the seconds from there to the result of its first job.

Arguments: port of the node, and "tls" or "plain". Prints "here" when it has imported what it needs.
"""

from __future__ import annotations

import sys
import time

from dispy import JobCluster


def compute(value: int) -> int:
    """The job."""
    return value + 1


if __name__ == "__main__":
    print("here", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    cluster = JobCluster(compute, nodes=[("127.0.0.1", int(sys.argv[1]))], tls=sys.argv[2] == "tls")
    job = cluster.submit(1)
    assert job() == 2
    print(time.monotonic() - start, flush=True)
