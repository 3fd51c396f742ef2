"""A program that shows its clusters and jobs, as a checker reads it."""

from __future__ import annotations

from typing import assert_type

import dispy


def half(number: int) -> float:
    """Returns half of a number."""
    return number / 2


def main() -> None:
    """Use all of it."""
    with dispy.JobCluster(half) as cluster, dispy.Executor() as pool:
        jobs = [cluster.submit(number) for number in range(3)]
        for job in dispy.progress(jobs, quiet=True):
            assert_type(repr(job), str)
        with dispy.progress(cluster) as shown, dispy.progress(pool):
            assert_type(list(shown), list[dispy.DispyJob])
        dispy.progress(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        status = cluster.status()
        assert_type(status, dispy.ClusterStatus)
        print(status.frame(), dispy.frame(jobs))
