"""A large argument of many jobs: ``put`` sends it to each node once, and all jobs there share its memory."""

import dispy


def total(table: bytes, start: int, end: int) -> int:
    return sum(table[start:end])


if __name__ == "__main__":
    size, parts = 8_000_000, 40
    data = bytes(range(256)) * (size // 256)
    with dispy.JobCluster(total) as cluster:
        table = cluster.put(data)
        step = len(data) // parts
        jobs = [cluster.submit(table, start, start + step) for start in range(0, len(data), step)]
        sums = [job.get() for job in jobs]
        print(
            f"{len(jobs)} jobs have read {len(data):,} bytes that were sent once; their sum is {sum(sums):,}"
        )
        assert sum(sums) == sum(data)
