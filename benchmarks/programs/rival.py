"""One of the programs of ``sharing.py`` and ``shares.py``: fills a queue, then answers the lines on stdin.

    python -m benchmarks.programs.rival DEPTH SECONDS [PORT]

With a port its scheduler is the shared one there.

Says ``ready`` when the first job has ended. ``first``: seconds from the cluster to the first result. ``spans``:
start and end of the jobs that have ended since the last time, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import dispy
from dispy import JobCluster, SharedJobCluster


def spin(seconds: float) -> None:
    """The job: computes for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def main(depth: int, seconds: float, port: int) -> None:
    """Serve until stdin ends.

    Args:
        depth: Jobs to submit.
        seconds: How long each computes.
        port: Where a shared scheduler listens; 0: it has its own.
    """
    dispy.config.LocalNode = False
    start = time.perf_counter()
    if port:
        cluster: JobCluster = SharedJobCluster(spin, scheduler_host="127.0.0.1", scheduler_port=port)
    else:
        cluster = JobCluster(spin)
    first = cluster.submit(seconds)
    jobs = [cluster.submit(seconds) for _ in range(depth - 1)]
    first()
    first_s = time.perf_counter() - start
    print("ready", flush=True)
    at = 0
    for line in sys.stdin:
        if line.strip() == "first":
            print(first_s, flush=True)
            continue
        spans = []
        # Those that run at once end in nearly the order in which they were submitted.
        while at < len(jobs) and jobs[at].wait(seconds):
            spans.append((jobs[at].start_time, jobs[at].end_time))
            at += 1
        print(json.dumps(spans), flush=True)
    cluster.close(terminate=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
