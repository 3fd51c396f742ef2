"""Jobs as futures of the standard library, and functions that are called when a job has ended."""

import concurrent.futures

import dispy


def compute(n: int) -> int:
    if n == 3:
        raise ValueError("three is no good")
    return n * n


def main() -> None:
    told: list[int] = []

    with dispy.JobCluster(compute) as cluster, concurrent.futures.ThreadPoolExecutor() as threads:
        jobs = [cluster.submit(n) for n in range(10)]
        for job in jobs:
            job.add_done_callback(lambda job: told.append(job.number))

        # Futures of jobs and of threads are waited for together.
        here = threads.submit(compute, 100)
        futures = {job.as_future(): n for n, job in enumerate(jobs)}
        done = concurrent.futures.wait([here, *futures], timeout=60).done
        assert done == {here, *futures}

        results = {n: future.result() for future, n in futures.items() if future.exception() is None}
        print(f"{results}, and {here.result()} from a thread")
        assert results == {n: n * n for n in range(10) if n != 3}

        failed = jobs[3].as_future()
        assert isinstance(failed.exception(), ValueError)
        print(f"failed: {failed.exception()}, because of {failed.exception().__cause__}"[:200])

    # The cluster is closed when all of them have been called.
    print(f"called for jobs {sorted(told)}")
    assert sorted(told) == list(range(1, 11))


if __name__ == "__main__":
    main()
