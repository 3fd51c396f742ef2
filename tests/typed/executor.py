"""A program with ``dispy.Executor``, as a checker reads it: parameters and result are those of the function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import dispy
from dispy.integrations.futures import JobFuture


def area(width: float, height: float, unit: str = "m") -> str:
    """Returns an area, in words."""
    return f"{width * height} {unit}2"


def main() -> None:
    """Use all of it."""
    with dispy.Executor(4, initializer=print, initargs=("begun",)) as pool:
        future = pool.submit(area, 2.0, height=3.0)
        assert_type(future, JobFuture[str])
        assert_type(future.result(), str)
        assert_type(future.kill(), bool)
        assert_type(pool.map(area, [1.0, 2.0], [3.0, 4.0], chunksize=2), Iterator[str])
        pool.submit(area, 2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pool.shutdown(wait=False, cancel_futures=True)
    dispy.register_joblib()
