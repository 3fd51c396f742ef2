"""One small function as computation; what is really wanted comes with each job, and is gone after it."""

import dispy


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def spread(values: list[float]) -> float:
    return max(values) - min(values)


def call(name: str, values: list[float]) -> float:
    return globals()[name](values)  # type: ignore[no-any-return]


if __name__ == "__main__":
    with dispy.JobCluster(call) as cluster:
        values = [1.0, 2.0, 6.0]
        jobs = []
        for number in range(4):
            function = mean if number % 2 else spread
            jobs.append(cluster.submit(function.__name__, values, dispy_job_depends=[function]))
        for job in jobs:
            print(f"job {job.id}: {job.get()}")
        assert [job.result for job in jobs] == [5.0, 3.0, 5.0, 3.0]

        job = cluster.submit("mean", values)  # which nobody sent for this one
        assert job() is None
        print(f"job {job.id}: {job.exception.splitlines()[-1]}")
        assert "KeyError" in job.exception
