"""Limits of CPUs and memory that the control groups of this process set, as for containers and services.

Version 2 has one tree, version 1 has one for each controller. A limit of any group above ours counts, too. In a
container the path of our group may be that of the host, while the container sees only its own group: as the top of
the tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_UNLIMITED = 1 << 60
"""Bytes from which a memory limit of version 1 means that there is none: the kernel shows the largest number of
pages."""


def cpu_quota(root: str | os.PathLike[str] = "/") -> float | None:
    """Returns the smallest quota of CPU time of our groups (a number of CPUs, such as 0.5); None if there is none.

    Args:
        root: Directory that ``proc`` and ``sys`` are in; another than ``/`` in tests.
    """
    quotas = [_quota(directory, version) for directory, version in _groups(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: str | os.PathLike[str] = "/") -> int | None:
    """Returns the smallest memory limit of our groups (bytes); None if there is none.

    Files on memory file systems count as memory, too. A group beyond its limit has processes killed.

    Args:
        root: Directory that ``proc`` and ``sys`` are in; another than ``/`` in tests.
    """
    limits = []
    for directory, version in _groups(root, "memory"):
        text = _read(f"{directory}/memory.{'max' if version == 2 else 'limit_in_bytes'}").strip()
        if text.isdecimal() and int(text) < _UNLIMITED:
            limits.append(int(text))
    return min(limits, default=None)


def _groups(root: str | os.PathLike[str], controller: str) -> Iterator[tuple[str, int]]:
    """Yields the directories of the groups that we are in, the innermost first, with their version (1 or 2).

    Directories that are not visible in a container are among them: their files cannot be read.

    Args:
        root: Directory that ``proc`` and ``sys`` are in.
        controller: Resource that is limited: "cpu" or "memory".
    """
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        fields = line.split(":", 2)
        if len(fields) < 3:
            continue
        version = 1 if fields[1] else 2
        if version == 1 and controller not in fields[1].split(","):
            continue
        base = os.path.join(root, "sys/fs/cgroup", controller if version == 1 else "").rstrip("/")
        directory = os.path.join(base, fields[2].strip("/")).rstrip("/")
        while directory != base:
            yield directory, version
            directory = os.path.dirname(directory)
        yield base, version


def _quota(directory: str, version: int) -> float | None:
    """Returns the quota of CPU time of the group with this directory (a number of CPUs).

    None if the group has no quota, or its files cannot be read. ``version`` (1 or 2) decides which files are read.
    """
    if version == 2:
        fields = _read(f"{directory}/cpu.max").split()
    else:
        fields = [_read(f"{directory}/{name}") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = float(fields[0]), float(fields[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: str) -> str:
    """Returns the text of a file of the kernel; empty if it cannot be read, as when a container does not show it."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""
