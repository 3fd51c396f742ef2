"""A client of ``queue_depth.py``: fills a queue, then runs a window of jobs for each line on stdin.

    python -m benchmarks.programs.queue_windows DEPTH HEAP

Says ``ready`` when the queue is filled. A line is the number of jobs; the answer is the rate in jobs
per second. A window submits so many jobs and gathers as many of the oldest, so that the queue stays
as deep as it was. Its rate is that of the jobs that ended in it.
"""

from __future__ import annotations

import gc
import sys
import time

import dispy
from benchmarks.harness import gather, noop
from dispy import DispyJob, JobCluster


def main(depth: int, heap: int) -> None:
    """Serve until stdin ends.

    Args:
        depth: Jobs in the queue.
        heap: Small objects of the program's own that live all the time.
    """
    assert gc.isenabled()
    dispy.config.LocalNode = False
    objects = [[number] for number in range(heap)]
    made = JobCluster(noop)
    jobs = [made.submit(number) for number in range(depth)]
    print("ready", flush=True)
    for line in sys.stdin:
        print(window(made, jobs, int(line)), flush=True)
    made.close(terminate=True)
    del objects


def window(made: JobCluster, jobs: list[DispyJob], count: int) -> float:
    """Submit jobs behind ``jobs`` and gather, and take away, the oldest; jobs ended per second."""
    submit = made.submit
    pending = made.status().jobs_pending
    start = time.perf_counter()
    jobs += [submit(number) for number in range(count)]
    oldest = jobs[:count]
    for job in oldest:
        job()
    seconds = time.perf_counter() - start
    ended = pending + count - made.status().jobs_pending
    gather(oldest)  # raises if one failed
    del jobs[:count]
    return float(ended / seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
