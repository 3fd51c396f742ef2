"""What users write, for mypy and pyright: the first program of README, names of jobs, sweeps. Never run."""

from __future__ import annotations

import dispy
from dispy.job import job_id, job_path, node_ip_addr, node_logger, node_name, provisional_result, send_file


def compute(n: float) -> tuple[str, float]:
    import time

    time.sleep(n)
    return node_name, n


def tell(n: int) -> int:
    where: str = job_path + node_ip_addr
    node_logger.info("job %s in %s", job_id(), where)
    sent: int = provisional_result({"n": n}, timeout=5.0) or provisional_result(n, timeout=None)
    return sent + send_file(f"{n}.txt") + len(dispy.job.node_name)


def main() -> None:
    cluster = dispy.JobCluster(compute)
    jobs = [cluster.submit(n / 10) for n in range(10)]
    for job in jobs:
        host, n = job()
        print(host, job.id, job.start_time, n)
    for result in cluster.map(range(10), return_exceptions=True, constants={"a": 1}, chunksize=3):
        print(result)
    for result in cluster.starmap([(1, 2), (3, 4)], timeout=5):
        print(result)
    cluster.map(range(10), seed=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    cluster.print_status()
