"""Wrong uses of clusters and jobs, which checkers must refuse. Never run.

Each is ignored here. An ignore without an error is an error itself, to mypy as to pyright, which read these comments;
``tests/unit/test_typed.py`` looks at each without them.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import dispy
from dispy import DispyJob, JobCluster


def area(width: float, height: float, unit: str = "m") -> str:
    """Returns an area, in words."""
    return f"{width * height} {unit}2"


def tell(job: DispyJob[int]) -> None:
    """Take a job of another function."""


def main() -> None:
    """Use all of it wrongly."""
    cluster = JobCluster(area)
    cluster.submit("one", 2.0)  # type: ignore[call-overload]  # refused: argument
    cluster.submit(1.0)  # type: ignore[call-overload]  # refused: argument
    cluster.submit(1.0, 2.0, units="cm")  # type: ignore[call-overload]  # refused: argument
    cluster.submit_node("host", 1.0)  # type: ignore[call-overload]  # refused: argument
    cluster.submit_job_id("mine", 1.0)  # type: ignore[call-overload]  # refused: argument
    number: int = cluster.submit(1.0, 2.0)()  # type: ignore[assignment]  # refused: result
    job: DispyJob[int] = cluster.submit(1.0, 2.0)  # type: ignore[assignment]  # refused: result
    for result in cluster.map([1.0], [2.0]):
        number = result  # type: ignore[assignment]  # refused: result
    for kept in cluster.map([1.0], [2.0], return_exceptions=True):
        kept.upper()  # type: ignore[union-attr]  # refused: an exception
    for ended in dispy.as_completed([cluster.submit(1.0, 2.0)]):
        job = ended  # type: ignore[assignment]  # refused: result
    cluster.submit(1.0, 2.0).add_done_callback(tell)  # type: ignore[arg-type]  # refused: callback
    JobCluster(area, job_status=tell)  # type: ignore[misc]  # refused: callback
    JobCluster(5)  # type: ignore[arg-type]  # refused: computation
    dispy.wait(cluster)  # type: ignore[arg-type]  # refused: jobs
    print(number, job)


async def in_a_loop() -> None:
    """Use what awaits wrongly."""
    cluster = JobCluster(area)
    number: int = 0
    await cluster.asubmit("one", 2.0)  # type: ignore[call-overload]  # refused: argument
    number = await (await cluster.asubmit(1.0, 2.0))  # type: ignore[assignment]  # refused: result
    number = await (await cluster.asubmit(1.0, 2.0)).aget()  # type: ignore[assignment]  # refused: result
    async for result in cluster.amap([1.0], [2.0]):
        number = result  # type: ignore[assignment]  # refused: result
    for _ in cluster.amap([1.0]):  # type: ignore[attr-defined]  # refused: an async iterator
        pass
    async for _ in dispy.aas_completed([number]):  # type: ignore[list-item]  # refused: jobs
        pass
    await cluster.submit(1.0, 2.0).as_future()  # type: ignore[attr-defined]  # refused: no awaitable
    with dispy.Executor(cluster=cluster) as pool:
        number = pool.submit(area, 1.0, 2.0).result()  # type: ignore[assignment]  # refused: result
