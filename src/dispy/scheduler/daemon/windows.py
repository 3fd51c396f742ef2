"""Windows: how much of a program may be waiting at a shared scheduler. Its memory is everybody's.

A program that has more is told to submit no more until half of it is left: its ``submit`` waits. One that goes on all
the same, far beyond what may have been under way, is thrown out.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispy.errors import RemoteProtocolError
from dispy.protocol import shared
from dispy.protocol.limits import MIB
from dispy.protocol.node import Job
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.system.wording import counted

JOBS_MAX = 1_000_000
"""Open jobs of one program: some 300 MB here."""

SIZE_MAX = 1024 * MIB
"""Bytes of arguments of a program's open jobs."""

BEYOND = 4
"""Times these limits at which a program is thrown out: what an honest one has sent before it heard is far less."""


def take(program: Program, cluster: SharedCluster, jobs: list[Job], room: int | None) -> None:
    """Count jobs that are submitted; close the window if they are too many.

    ``room``: how many its user may have open beside those that are; None: any number.

    Raises:
        RemoteProtocolError: The program has not stopped long after it was told to.
    """
    sizes = [len(job.payload) for job in jobs]
    cluster.open.update(zip([job.number for job in jobs], sizes, strict=True))
    program.jobs += len(jobs)
    program.size += sum(sizes)
    program.has_quota = room is not None
    if room is not None and len(jobs) >= room and not program.is_full:
        program.is_full = True
        program.channel.send(shared.Window(0, 0, False, "its user has as many jobs as he may have"))
    if program.jobs <= JOBS_MAX and program.size <= SIZE_MAX:
        return
    if program.jobs > BEYOND * JOBS_MAX or program.size > BEYOND * SIZE_MAX:
        raise RemoteProtocolError("it submits without end, though it was told to wait")
    if not program.is_full:
        program.is_full = True
        waits = f"{counted(program.jobs, 'job')} with {program.size // MIB} MiB of arguments wait there"
        program.channel.send(
            shared.Window(0, 0, False, f"{waits}, of at most {JOBS_MAX} and {SIZE_MAX // MIB}")
        )


def free(program: Program, cluster: SharedCluster, numbers: list[int], programs: Iterable[Program]) -> None:
    """Count jobs that have ended; open the window again if half of what may be is left.

    ``programs``: all; those of a user with a quota have room by the ends of each other's jobs.
    """
    if program.has_quota:
        for other in programs:
            if other is not program and other.user == program.user:
                _let_go(other, 0, 0)
    gone = [size for number in numbers if (size := cluster.open.pop(number, None)) is not None]
    _let_go(program, len(gone), sum(gone))


def close(program: Program, cluster: SharedCluster) -> None:
    """Count the jobs of a cluster that is closed."""
    _let_go(program, len(cluster.open), sum(cluster.open.values()))
    cluster.open.clear()


def _let_go(program: Program, count: int, size: int) -> None:
    program.jobs -= count
    program.size -= size
    if program.is_full and program.jobs <= JOBS_MAX // 2 and program.size <= SIZE_MAX // 2:
        program.is_full = False
        program.channel.send(shared.Window(0, 0, True, ""))
