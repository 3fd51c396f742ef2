"""Many jobs without holding all of their arguments: at most 100 at a time, more when half of them have ended.

``JobCluster(..., max_queued=100)`` does the same by itself; this is how a program does it in its own way.
"""

import threading

import dispy

JOBS = 1000
UPPER = 100
LOWER = 50


def compute(n: int) -> int:
    return n * n


def on_job(job: dispy.DispyJob) -> None:
    """A job has changed; called by a thread of dispy's."""
    if job.status in (dispy.DispyJob.Finished, dispy.DispyJob.Terminated, dispy.DispyJob.Cancelled):
        with changed:
            # A job may end before ``submit`` has returned: then it is not in ``pending`` yet.
            if pending.pop(job.id, None) is None:
                early.add(job.id)
            results[job.id] = job.result
            if len(pending) <= LOWER:
                changed.notify()


if __name__ == "__main__":
    changed = threading.Condition()
    pending: dict[int, dispy.DispyJob] = {}
    early: set[int] = set()
    results: dict[int, int] = {}
    most = 0
    cluster = dispy.JobCluster(compute, job_status=on_job)
    for number in range(JOBS):
        job = cluster.submit_job_id(number, number)
        with changed:
            if number in early:
                early.remove(number)
            else:
                pending[number] = job
            most = max(most, len(pending))
            if len(pending) >= UPPER:
                changed.wait_for(lambda: len(pending) <= LOWER)
    cluster.wait()
    cluster.close()  # after this all callbacks have been called
    cluster.print_status()
    print(f"{len(results)} results; at most {most} jobs at a time")
    assert results == {number: number * number for number in range(JOBS)}
    assert not pending
    assert not early
    assert most <= UPPER
