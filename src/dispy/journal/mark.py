"""The mark of a journal: a small file, mapped into memory, that is written before each batch of jobs is sent.

Theory of operation. A journal is written some milliseconds after the fact, so it cannot say which jobs had left
for a node when the program died. The mark can: the highest number of a job that was ever sent is stored in it
before the job is sent, at the price of one store to memory. Pages of a mapped file belong to the kernel, so the mark
survives the program. It does not survive the machine: a mark counts only in the boot of the machine in which its
program began. The journal stores the identity of that boot (column ``boot``).

A successor takes a job with a higher number as one that no node ever had: it can be run without running it twice.

The file has 16 bytes, two little-endian 64-bit numbers: the highest number of a job that was sent, and 1 if the
journal could not be written to any more (else 0).
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from dispy.protocol.limits import CHUNK_NUMBERS_FROM
from dispy.protocol.node import Job, RunJobs

_MARK = struct.Struct("<QQ")
"""Format of the file: the highest number of a job that was sent, and 1 if the journal is broken (else 0)."""


class Mark:
    """The mark of a living program, for its session in one full journal.

    Args:
        path: Path of the file, which is made if it does not exist.

    Raises:
        OSError: The file cannot be made or mapped.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _MARK.size)
            self._mapped = mmap.mmap(descriptor, _MARK.size)
        finally:
            os.close(descriptor)
        self._highest = 0
        """Highest number of a job that was noted here; 0: none. Saves a write for a message with lower numbers."""

    def note(self, message: RunJobs) -> None:
        """Store the highest number of the jobs in a message, unless a higher one is stored. Call it before sending.

        A job of a dead program with a higher number was never sent, and can be run. Chunks of maps are not counted:
        no journal has them. Called on any thread.
        """
        self.note_jobs(message.jobs)

    def note_jobs(self, jobs: list[Job]) -> None:
        """Note that jobs (at least one) leave for a shared scheduler: raise the mark to their highest number."""
        highest = max([job.number for job in jobs])
        if highest >= CHUNK_NUMBERS_FROM:
            highest = max([job.number for job in jobs if job.number < CHUNK_NUMBERS_FROM], default=0)
        if highest > self._highest:
            self._highest = highest
            struct.pack_into("<Q", self._mapped, 0, highest)

    def note_broken(self) -> None:
        """Store that the journal is broken: nodes may forget results from now on that it does not have.

        The journal's thread calls this when a transaction fails. A recovery then does not conclude from the answers
        of nodes alone that a job never ran.
        """
        struct.pack_into("<Q", self._mapped, 8, 1)

    def close(self) -> None:
        """Unmap the file, which stays on disk. Note nothing after that: the write would raise ``TypeError``."""
        self._mapped.close()


class Marked(NamedTuple):
    """Contents of the mark of a dead program, by which a recovery judges jobs without a result."""

    sent_max: int
    """Highest number of a job that was ever sent to a node; 0 if none was. Jobs above it were never started."""
    is_broken: bool
    """True if the journal could not be written to at some time: results may be missing in it that nodes forgot."""


def read_mark(data: bytes) -> Marked | None:
    """Return the highest number of a job that was sent, and whether the journal broke, as a mark's 16 bytes say.

    None if there are not 16 bytes: the file is no mark.
    """
    if len(data) != _MARK.size:
        return None
    highest, is_broken = _MARK.unpack(data)
    return Marked(highest, bool(is_broken))
