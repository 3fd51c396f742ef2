"""Live output: the files that jobs print to, and how a node reads what a running job has printed.

Theory of operation. Stdout and stderr of a worker are memory files. The worker empties them after each job. Before
each job it writes its *position*, a number for that job which only grows, into memory that it shares with the node
(``SLOT_CLAIM`` of its slot). The node reads the files without a lock: if the worker is at the same position after the
reading, all that was read is of that job; otherwise the node drops what it has read.
"""

from __future__ import annotations

import fcntl
import os

from dispy.core.execution.actions import Place
from dispy.core.execution.events import Glimpse
from dispy.protocol import limits
from dispy.protocol.output import next_span
from dispy.protocol.worker import SLOT_CLAIM

_SIZE_MAX = 1 << 62
"""Largest size of an output file that is believed (bytes): a job can make its file pretend to have any size, also one
that no message can carry. A larger file counts as one of this size."""


def output_file(name: str) -> int:
    """Make a memory file that becomes the stdout or stderr of a worker. All writes append.

    The node makes it, not the worker: otherwise the node would have to open, by path, what a job may have replaced.

    Args:
        name: "stdout" or "stderr".

    Returns:
        Descriptor of the file; the caller closes it.
    """
    descriptor = os.memfd_create(f"dispy-{name}", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    return descriptor


def read_printed(workers: list[tuple[Place, memoryview, tuple[int, int]]], size_max: int) -> list[Glimpse]:
    """Read what running jobs have printed since they were last looked at.

    Args:
        workers: For each job: its place (worker, position of the worker at this job, and offsets in stdout and stderr
            up to which the client was told), the words of its worker's slot, and descriptors of its worker's stdout
            and stderr files.
        size_max: Largest number of bytes to read in all. Each file with news gets an equal share; the rest is read
            next time, or skipped if the job prints too fast.

    Returns:
        For each job that still runs, in the order of ``workers``: its new stdout and stderr, perhaps empty, each with
        the offset (bytes) in all that the job has printed. Jobs that have ended meanwhile are missing.
    """
    sizes = [[_size(file) for file in files] for _, _, files in workers]
    told = [(place.stdout_at, place.stderr_at) for place, _, _ in workers]
    news = sum(size > at for pair in zip(sizes, told, strict=True) for size, at in zip(*pair, strict=True))
    share = size_max // max(1, news)
    glimpses = []
    for (place, words, files), size, at in zip(workers, sizes, told, strict=True):
        stdout_at, stdout = read_next(files[0], at[0], size[0], share)
        stderr_at, stderr = read_next(files[1], at[1], size[1], share)
        if words[SLOT_CLAIM] == place.position:
            glimpses.append(Glimpse(place.worker, place.position, stdout_at, stdout, stderr_at, stderr))
    return glimpses


def _size(file: int) -> int:
    """Returns the size of an output file, given its descriptor (bytes, at most ``_SIZE_MAX``)."""
    return min(os.fstat(file).st_size, _SIZE_MAX)


def read_next(file: int, told: int, size: int, share: int) -> tuple[int, bytes]:
    """Read the next output that a client is told of a job, from the job's stdout or stderr file.

    Args:
        file: Descriptor of the file. It may be larger than ``size`` by now.
        told: Offset in the file up to which the client was told (bytes).
        size: Size of the file when its share was computed (bytes).
        share: Largest number of bytes that may be read.

    Returns:
        Offset in the file at which the output begins (bytes), and the output. The output is empty if there is nothing
        to tell now. The offset is larger than ``told`` if output was skipped, as the job prints too fast.
    """
    at, count = next_span(told, size, share)
    if not count:
        return told, b""
    data = os.pread(file, count, at)
    # Race: the host frees the memory of output beyond what is kept of a job's output, perhaps during this read, which
    # then finds zeros. The next look tells what is newer.
    if at + count > limits.OUTPUT_MAX and at < _size(file) - limits.OUTPUT_MAX:
        return told, b""
    return at, data
