"""Jobs tell each improvement while they run; when one is good enough the others are cancelled."""

import dispy
from dispy.job import provisional_result

GOOD = 0.005


def estimate(start: int) -> float:
    """Approach pi from somewhere, for ever."""
    import time

    low, high = 3.0 - start / 10, 4.0
    while True:
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 3.14159265 else (low, middle)
        provisional_result(middle)
        time.sleep(0.02)


def on_job(job: dispy.DispyJob) -> None:
    """A job has sent something, or has ended; called by a thread of dispy's."""
    if job.status == dispy.DispyJob.ProvisionalResult:
        error = abs(job.result - 3.14159265)
        print(f"job {job.id}: {job.result:.5f}")
        values.append(job.result)
        if error < GOOD:
            for other in jobs:
                if other.status not in ENDED:
                    cluster.cancel(other)


ENDED = (
    dispy.DispyJob.Finished, dispy.DispyJob.Terminated, dispy.DispyJob.Cancelled, dispy.DispyJob.Abandoned,
)  # fmt: skip


if __name__ == "__main__":
    values: list[float] = []
    jobs: list[dispy.DispyJob] = []
    cluster = dispy.JobCluster(estimate, job_status=on_job)
    for number in range(8):
        jobs.append(cluster.submit_job_id(number, number))
    cluster.wait()
    cluster.close()
    names = {dispy.DispyJob.Terminated: "terminated", dispy.DispyJob.Cancelled: "cancelled before it ran"}
    for job in jobs:
        print(f"job {job.id} was {names[job.status]}")
    best = min(values, key=lambda value: abs(value - 3.14159265))
    print(f"best: {best:.5f}")
    assert abs(best - 3.14159265) < GOOD
    assert all(job.status in names for job in jobs)
