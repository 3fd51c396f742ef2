"""Windows: how much of a program may be waiting at a shared scheduler. Its memory is everybody's.

A program that has more jobs is told to submit no more until half of them are left: its ``submit`` waits. One that
goes on all the same, far beyond what may have been under way, is thrown out; so is one that does not read.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispy.errors import RemoteProtocolError
from dispy.protocol import shared
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import ENTRY_BARE_MAX, MIB
from dispy.protocol.node import Job
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.system.wording import counted

JOBS_MAX = 1_000_000
"""Open jobs of one program: some 300 MB here."""

SIZE_MAX = 1024 * MIB
"""Bytes of arguments of a program's open jobs."""

BEYOND = 4
"""Times these limits at which a program is thrown out: what an honest one has sent before it heard is far less."""

HELD_MAX = 16 * 1024 * MIB
"""Bytes of code, lists of files and objects of a program's open clusters. They are held until the clusters are
closed, so that waiting would not help: a cluster with more is refused."""

CLUSTERS_MAX = 1000
"""Open clusters of one program. A node takes 4,096 of a scheduler after a reconnect (``node.Reconcile``)."""

WISHES_MAX = 8192
"""Nodes that the open clusters of one program name: each is looked at five times a second."""

UNHEARD_MAX = 100_000
"""Commands, those with long lists counting more, that a program sends without having acknowledged any news. An honest
one acknowledges each twentieth of a second."""

WEIGHT = 64
"""Items of a list that count as one command more."""


def files_size(files: list[FileEntry]) -> int:
    """Returns the bytes of a list of files, at most."""
    return sum([len(entry.path) for entry in files]) + ENTRY_BARE_MAX * len(files)


def check_heard(program: Program, count: int) -> None:
    """Count a command with ``count`` items, each of which may cause news.

    Raises:
        RemoteProtocolError: The program does not take its news, which are kept here until it does.
    """
    channel = program.channel
    if not channel.kept or channel.acknowledged != program.heard:
        program.heard, program.unheard = channel.acknowledged, 0
    program.unheard += 1 + count // WEIGHT
    if program.unheard > UNHEARD_MAX:
        raise RemoteProtocolError("it does not take what it is told")


def check_waiting(program: Program) -> None:
    """Close the window if too much of a program waits for payloads that are on their way; open it if that is over.

    Raises:
        RemoteProtocolError: The program has not stopped long after it was told to.
    """
    count, size = program.channel.count_waiting, program.channel.size_waiting
    if program.is_stuffed and count <= JOBS_MAX // 2 and size <= SIZE_MAX // 2:
        program.is_stuffed = False
        _let_go(program, 0, 0)
    if count > JOBS_MAX or program.size + size > SIZE_MAX:
        program.is_stuffed = True
        if count > BEYOND * JOBS_MAX or program.size + size > BEYOND * SIZE_MAX:
            raise RemoteProtocolError("it sends without end what waits for its payloads")
        _say_full(program)


def hold(program: Program, cluster: SharedCluster, size: int) -> bool:
    """Count bytes that are held until a cluster is closed, or returned if ``size`` is negative.

    Returns:
        False, and nothing is counted, if the program has too many.
    """
    if size > 0 and program.held + size > HELD_MAX:
        return False
    program.held += size
    cluster.held += size
    return True


def take(
    program: Program,
    cluster: SharedCluster,
    jobs: list[Job],
    room: int | None,
    files: dict[int, list[FileEntry]] | None = None,
) -> None:
    """Count jobs that are submitted; close the window if they are too many.

    ``room``: how many its user may have open beside those that are; None: any number. ``files``: those that jobs
    bring, by number.

    Raises:
        RemoteProtocolError: The program has not stopped long after it was told to.
    """
    sizes = [len(job.payload) for job in jobs]
    if files:
        sizes = [
            size + files_size(files.get(job.number, [])) for job, size in zip(jobs, sizes, strict=True)
        ]
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
    _say_full(program)


def _say_full(program: Program) -> None:
    """Tell a program to submit no more, unless it was told."""
    if not program.is_full:
        program.is_full = True
        size = program.size + program.channel.size_waiting
        waits = f"{counted(program.jobs, 'job')} with {size // MIB} MiB of arguments wait there"
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
    program.held -= cluster.held
    cluster.held = 0
    _let_go(program, len(cluster.open), sum(cluster.open.values()))
    cluster.open.clear()


def _let_go(program: Program, count: int, size: int) -> None:
    program.jobs -= count
    program.size -= size
    if program.is_full and program.jobs <= JOBS_MAX // 2 and program.size <= SIZE_MAX // 2:
        program.is_full = False
        program.channel.send(shared.Window(0, 0, True, ""))
