"""The files that jobs print to, and how a node reads there what a running job has printed."""

from __future__ import annotations

import fcntl
import os

from dispy.core.execution.actions import Place
from dispy.core.execution.events import Glimpse
from dispy.protocol import limits
from dispy.protocol.output import next_span
from dispy.protocol.worker import SLOT_CLAIM

_SIZE_MAX = 1 << 62
"""Bytes that any output is reckoned to have at most: a job can make its file pretend to have more."""


def output_file(name: str) -> int:
    """A memory file that becomes the stdout or stderr of a worker; whoever writes to it writes at its end.

    Made by the node, who would otherwise have to open whatever a job has made of its descriptors.
    """
    descriptor = os.memfd_create(f"dispy-{name}", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    return descriptor


def read_printed(workers: list[tuple[Place, memoryview, tuple[int, int]]], size_max: int) -> list[Glimpse]:
    """Read what running jobs have printed since they were last looked at.

    A worker empties its files after each job and says before each job which one it is at. Those positions only
    grow: if it is still at the same job after the reading, all that was read is of that job.

    Args:
        workers: Which job, the words of its worker's slot, its worker's stdout and stderr.
        size_max: Bytes to read in all; each stream with news gets an equal share.
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
    return min(os.fstat(file).st_size, _SIZE_MAX)


def read_next(file: int, told: int, size: int, share: int) -> tuple[int, bytes]:
    """Where what can be told next of a file begins, and what it is.

    Args:
        file: Perhaps larger by now than ``size``.
        told: Position up to which it was told.
        size: What it had when its share was computed (bytes).
        share: Bytes that may be read.
    """
    at, count = next_span(told, size, share)
    if not count:
        return told, b""
    data = os.pread(file, count, at)
    # Beyond what is kept of a job's output its host gives memory back, perhaps while we read: there are only zeros
    # then. What is newer will be told the next time.
    if at + count > limits.OUTPUT_MAX and at < _size(file) - limits.OUTPUT_MAX:
        return told, b""
    return at, data
