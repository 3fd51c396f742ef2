"""Nodes and jobs as pandas frames. pandas is imported when the first frame is made: dispy does not require it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dispy.client.job import DispyJob
from dispy.client.jobs.state import STATUS_NAMES
from dispy.client.session.failures import summary
from dispy.client.waiting import several_jobs
from dispy.errors import UsageError

if TYPE_CHECKING:
    from pandas import DataFrame

    from dispy.client.nodes import DispyNode


def frame(jobs: Iterable[DispyJob]) -> DataFrame:
    """Returns jobs as a pandas ``DataFrame``: a row for each, in their order; a job that is given twice comes once.

    Columns: ``id``; ``status``, as "Finished"; ``node``, the address of the node; ``submitted``, ``started`` and
    ``ended`` (UTC; missing: not yet, or never); ``waited`` and ``ran`` (seconds); ``error``, why the job failed, in
    one line (missing: it did not). Does not wait for jobs. Results are not in it: ``[job.result for job in jobs]``.

    Failures that the frame shows count as looked at: they are not reported at the end of the program.

    Args:
        jobs: Jobs of one cluster or several.

    Raises:
        UsageError: pandas is not installed, or the argument is not several jobs.
    """
    pandas = _pandas("dispy.frame")
    rows = [
        _row(job)
        for job in several_jobs(jobs, "frame", "give the list of jobs: a cluster keeps none that ended")
    ]
    columns = ["id", "status", "node", "submitted", "started", "ended", "error"]
    made = pandas.DataFrame(rows, columns=columns)
    for name in ("submitted", "started", "ended"):
        made[name] = _times(pandas, made[name])
    waited = (made["started"] - made["submitted"]).dt.total_seconds().clip(lower=0)
    made.insert(6, "waited", waited)  # the node's clock may be behind: no job starts before it is submitted
    made.insert(7, "ran", (made["ended"] - made["started"]).dt.total_seconds())
    return made


def _row(job: DispyJob) -> tuple[Any, ...]:
    """Returns the values of a job's row; a failure counts as looked at."""
    status = job.status
    reason = job.exception
    return (
        job.id,
        STATUS_NAMES.get(status) or str(status),
        job.ip_addr,
        job.submit_time or None,
        job.start_time,
        job.end_time,
        summary(reason) if reason else None,
    )


def nodes_frame(nodes: Sequence[DispyNode]) -> DataFrame:
    """Returns nodes as a pandas ``DataFrame``: the work of ``ClusterStatus.frame``.

    Raises:
        UsageError: pandas is not installed.
    """
    pandas = _pandas("status().frame()")
    names = [
        "cpus",
        "avail_cpus",
        "busy",
        "jobs_done",
        "jobs_failed",
        "cpu_time",
        "tx",
        "rx",
        "update_time",
        "reason",
    ]
    rows = [(node.name, node.ip_addr, *[getattr(node, name) for name in names]) for node in nodes]
    made = pandas.DataFrame(rows, columns=["node", "ip_addr", *names])
    made = made.rename(columns={"tx": "sent", "rx": "received"})
    made["update_time"] = _times(pandas, made["update_time"].where(made["update_time"] != 0))
    return made


def _times(pandas: Any, seconds: Any) -> Any:
    """Returns a column of seconds since the epoch as times in UTC; missing ones stay missing."""
    return pandas.to_datetime(seconds.astype("float64"), unit="s", utc=True)


def _pandas(what: str) -> Any:
    """Returns pandas.

    Args:
        what: What asks for it, for the error.

    Raises:
        UsageError: It is not installed, or cannot be imported.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError(
            f"{what} makes a pandas DataFrame, and pandas cannot be imported: {error}",
            hint="python -m pip install pandas",
        ) from error
    return pandas
