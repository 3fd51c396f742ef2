"""The first program: a function spread over all CPUs of this machine, a line per result, a table."""

import random

import dispy
from dispy.job import node_name


def compute(n: float) -> tuple[str, float]:
    import time

    time.sleep(n)
    return node_name, n


if __name__ == "__main__":
    cluster = dispy.JobCluster(compute)
    jobs = []
    for number in range(12):
        job = cluster.submit(random.uniform(0.05, 0.25))
        job.id = number
        jobs.append(job)
    for job in jobs:
        job.wait()
        if job.exception:
            print(f"job {job.id} failed: {job.exception}")
        else:
            host, value = job.result
            print(f"{host} executed job {job.id} at {job.start_time:.3f} with {value:.3f}")
    cluster.print_status()
