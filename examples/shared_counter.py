"""Data that all jobs of a node update: ``setup`` makes a number in shared memory, with its lock."""

import dispy


def setup() -> int:
    """Once per node, before any job there."""
    import multiprocessing

    global counter
    counter = multiprocessing.Value("i", 1)
    return 0


def cleanup() -> None:
    """Once per node, after all jobs there."""
    global counter
    del counter


def add(n: int) -> tuple[str, int, int]:
    with counter.get_lock():  # without it two jobs may read the same value
        counter.value += n
        return dispy_node_name, n, counter.value  # noqa: F821 - every job finds this name


if __name__ == "__main__":
    cluster = dispy.JobCluster(add, setup=setup, cleanup=cleanup)
    jobs = [cluster.submit(n) for n in range(1, 21)]
    after: dict[str, list[tuple[int, int]]] = {}
    for job in jobs:
        node, n, value = job.get()
        print(f"{node}: {n} was added, which makes {value}")
        after.setdefault(node, []).append((value, n))
    for steps in after.values():
        total = 1
        for value, n in sorted(steps):
            total += n
            assert value == total, "two jobs have changed it at the same time"
    cluster.close()
