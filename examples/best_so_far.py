"""Endless jobs that return the best they have found when they are cancelled: one per CPU, at most two on a node."""

import threading

import dispy
from dispy.job import provisional_result


class TwoCpus(dispy.NodeAllocate):
    """Use at most two CPUs of each node."""

    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform=""):  # type: ignore[no-untyped-def]
        return min(2, cpus)


def search(seed: int) -> tuple[float, float]:
    """Look for the highest point of a curve, until somebody interrupts."""
    import math
    import random
    import time

    chance = random.Random(seed)
    best = (0.0, 0.0)
    told = time.monotonic()
    try:
        while True:
            x = chance.uniform(0, 10)
            best = max(best, (math.sin(x) * math.sqrt(x), x))
            if time.monotonic() - told > 0.05:
                told = time.monotonic()
                provisional_result(best)
    except KeyboardInterrupt:
        return best


def on_cluster(status: int, node: dispy.DispyNode | None, job: dispy.DispyJob | None) -> None:
    """A node is there, or a job has something; called by a thread of dispy's."""
    if status == dispy.DispyNode.Initialized and node is not None:
        for _ in range(min(2, node.avail_cpus)):
            if (mine := cluster.submit_node(node, len(jobs))) is not None:
                jobs.append(mine)
    elif status == dispy.DispyJob.ProvisionalResult and job is not None:
        print(f"job {job.id}: {job.result[0]:.6f} at {job.result[1]:.4f}")
        found[job.id] = job.result[0]
        # One that has not begun to search has nothing to return.
        if len(found) == len(jobs) and max(found.values()) > 2.79:
            is_good.set()


if __name__ == "__main__":
    jobs: list[dispy.DispyJob] = []
    found: dict[int, float] = {}
    is_good = threading.Event()
    cluster = dispy.JobCluster(search, nodes=[TwoCpus("*")], cluster_status=on_cluster)
    assert is_good.wait(60), "nothing good was found in a minute"
    for job in jobs:
        cluster.cancel(job)
    for job in jobs:
        best = job()
        print(f"job {job.id} returned {best}")
        assert job.status == dispy.DispyJob.Finished, "a job that catches the interrupt ends as any other"
    height, place = max(job.result for job in jobs)
    print(f"best of all: {height:.6f} at {place:.4f}")
    assert height > 2.79
    cluster.close()
