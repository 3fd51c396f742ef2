"""A graph of Dask on all CPUs that are found: only the scheduler is named."""

import os
import sys

import dispy

try:
    import dask
except ImportError:
    print("dask is not installed: pip install dask")
    sys.exit()


def squares(begin, end):
    """Sum of the squares from ``begin`` to before ``end``, and the process that has made it."""
    return sum(x * x for x in range(begin, end)), os.getpid()


def total(parts):
    """Sum of the parts, and the processes that have made them."""
    return sum(part for part, _ in parts), {pid for _, pid in parts}


if __name__ == "__main__":
    step, end = 10_000, 200_000
    parts = [dask.delayed(squares)(begin, begin + step) for begin in range(0, end, step)]
    graph = dask.delayed(total)(parts)
    with dispy.Executor() as pool:
        found, processes = graph.compute(scheduler=pool)
    print(f"{found} by {len(processes)} processes")
    assert found == (end - 1) * end * (2 * end - 1) // 6, found
    assert os.getpid() not in processes, "it ran in the program"
