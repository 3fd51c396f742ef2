"""The status table that ``print_status`` prints."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from dispy.client.allocation import node_views
from dispy.client.nodes import DispyNode
from dispy.client.session.failures import Tally
from dispy.client.shown.overview import size

if TYPE_CHECKING:
    from dispy.client.session.state import Session

_COLUMNS = ("Node", "CPUs", "Jobs", "Sec/Job", "Node Time Sec", "Sent", "Rcvd")
"""Headings of the columns that are always shown, from left to right."""
_FAILED = "Failed"
"""Heading of the column with failed jobs, after "Jobs". Shown only if a job has failed on some node, so that programs
that read the table otherwise find its usual columns."""


def print_session(session: Session, wall_time_s: float | None) -> None:
    """Print the table of a cluster: the work of ``JobCluster.print_status``.

    Args:
        session: The cluster.
        wall_time_s: Seconds to compare the jobs' time with; None: the time since the cluster began.
    """
    if wall_time_s is None:
        wall_time_s = (session.end_time or time.time()) - session.start_time
    nodes = node_views.current(session)
    print_table(session.tally, nodes, len(session.jobs), session.cpu_time, wall_time_s)


def print_table(
    tally: Tally, nodes: list[DispyNode], pending: int, job_time_s: float, wall_time_s: float
) -> None:
    """Print CPUs, jobs, times and bytes of each node, numbers of failed and pending jobs, and the speedup, to stdout.

    Args:
        tally: Counts of how jobs ended. Its failures count as looked at after this.
        nodes: Nodes in the order of the table.
        pending: Number of unfinished jobs.
        job_time_s: Sum of the run times of all jobs (seconds).
        wall_time_s: Time in which the jobs were run (seconds); the speedup is the ratio of the two times.
    """
    rows = [_COLUMNS, *map(_row, nodes)]
    if any(node.jobs_failed for node in nodes):
        failed = [_FAILED, *[str(node.jobs_failed) for node in nodes]]
        rows = [(*row[:3], cell, *row[3:]) for row, cell in zip(rows, failed, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        lines.append(
            " | ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    lines.insert(1, "-+-".join("-" * width for width in widths))
    print()
    print("\n".join(lines))
    for said in _ends(tally, pending):
        print(f"\n{said}")
    print(
        f"\nTotal job time: {seconds(job_time_s)} sec, wall time: {wall_time_s:.3f} sec, "
        f"speedup: {speedup(job_time_s, wall_time_s)}\n"
    )


def _ends(tally: Tally, pending: int) -> list[str]:
    """Returns lines with the numbers of failed, cancelled and pending jobs; a number of 0 has no line.

    Failures count as looked at then: they are not reported at the end of the program.
    """
    first = tally.first()
    found = []
    if tally.failed:
        lost = f", {tally.abandoned} of them abandoned" if tally.abandoned else ""
        found.append(f"Jobs failed: {tally.failed}{lost}{f'; the first: {first}' if first else ''}")
    if tally.cancelled:
        found.append(f"Jobs cancelled: {tally.cancelled}")
    if pending:
        found.append(f"Jobs pending: {pending}")
    tally.hear_all()
    return found


def _row(node: DispyNode) -> tuple[str, ...]:
    """Returns the cells of a node's row as texts, in the order of ``_COLUMNS``."""
    per_job = node.cpu_time / node.jobs_done if node.jobs_done else 0.0
    label = node.ip_addr if node.name == node.ip_addr or not node.name else f"{node.ip_addr} ({node.name})"
    return (
        label,
        str(node.cpus),
        str(node.jobs_done),
        seconds(per_job),
        seconds(node.cpu_time),
        size(node.tx),
        size(node.rx),
    )


def seconds(value: float) -> str:
    """Returns seconds as text with three decimals, or with three significant digits if below 0.1: 0.0000123."""
    if not 0 < value < 0.1:
        return f"{value:.3f}"
    decimals = 2 - math.floor(math.log10(value))
    return f"{value:.{min(decimals, 9)}f}"


def speedup(job_time_s: float, wall_time_s: float) -> str:
    """Returns, as text with three decimals, how many times longer the jobs would have taken one after the other.

    Below 0.1 words stand for the number; without wall time it is 0.
    """
    ratio = job_time_s / wall_time_s if wall_time_s > 0 else 0.0
    return f"{ratio:.3f}" if ratio >= 0.1 or not ratio else "below 0.1 (most of that time no job ran)"
