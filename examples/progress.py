"""Progress of jobs and maps: bars on a terminal if rich is installed, lines elsewhere, and a bar of tqdm."""

import time

import dispy


def halved(number: int) -> float:
    time.sleep(0.02)
    if number == 13:
        raise ValueError("not this one")
    return number / 2


if __name__ == "__main__":
    with dispy.JobCluster(halved) as cluster:
        jobs = [cluster.submit(number) for number in range(40)]
        ended = [job.id for job in dispy.progress(jobs)]
        assert sorted(ended) == sorted(job.id for job in jobs), "each job comes once"

        with dispy.progress(cluster) as shown:
            total = sum(cluster.map(range(100, 200)))
            print(shown)
        assert total == sum(range(100, 200)) / 2

        try:
            from tqdm import tqdm
        except ImportError:
            print("without tqdm")
        else:
            bar = tqdm(cluster.map(range(100, 150)), total=50)
            assert sum(bar) == sum(range(100, 150)) / 2
            assert bar.n == 50, "the bar has counted all results"

        (failed,) = [job for job in jobs if job.exception]
        assert "status=Terminated: ValueError: not this one" in repr(failed), failed
        print(failed)
        print(cluster)
        assert "189 done, 1 failed" in repr(cluster) or "139 done, 1 failed" in repr(cluster), cluster
