"""Numbers of the jobs of one cluster: 1, 2, 3, … in the order of submission; chunks of maps count from 2**40.

Each cluster counts for itself, so a number says which job is meant only together with the computation. Jobs and
chunks have ranges of their own, so that the numbers of jobs have no gaps where maps run between them: seeds of jobs
(``payload.Seeding``) depend on a job's place among those of its cluster, whatever else the program does.

A number is taken before the job is pickled, since it decides whether the job's id has to travel. If the job cannot
be sent, the number is given back, and the next job gets it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress

from dispy.protocol.limits import CHUNK_NUMBERS_FROM

FIRST = 1
"""Number of the first job of each cluster."""


class Numbers:
    """Source of the numbers of a cluster's jobs and chunks. Any thread takes them; each is that of one job.

    Attributes:
        jobs: Iterator over the numbers that no job has had. ``submission`` takes from it directly while ``returned``
            is empty: each job does so, and a call costs as much as the rest.
        chunks: Iterator over the numbers of chunks.
        returned: Numbers that were taken for jobs that could not be sent. The next jobs get these first.
    """

    __slots__ = ("chunks", "jobs", "returned")

    def __init__(self) -> None:
        self.jobs = itertools.count(FIRST)
        self.chunks = itertools.count(CHUNK_NUMBERS_FROM)
        self.returned: list[int] = []

    def take(self) -> int:
        """Returns the number of the next job: one that was given back, if there is one."""
        with suppress(IndexError):  # another thread may take the last one meanwhile
            return self.returned.pop()
        return next(self.jobs)


def oldest(jobs: Iterable[int], count: int) -> set[int]:
    """Returns the first numbers of the unfinished jobs of a cluster (``Session.jobs``): the oldest ``count`` of them.

    Jobs begin in the order of submission, and nodes report that some hundredths of a second later. So these are the
    jobs that may have begun, if ``count`` is one more than there are CPUs. The library's process pool does the same:
    it cannot cancel as many calls as it has processes, and one more.
    """
    while True:
        try:
            return set(itertools.islice(jobs, count))
        except RuntimeError:  # a job has ended on the engine's thread meanwhile
            continue
