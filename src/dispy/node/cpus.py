"""How many CPUs this process may use: affinity and control groups respected."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus() -> int:
    """CPUs that jobs here can really have, at least one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_quota()
    return max(1, min(count, math.ceil(quota)) if quota else count)


def _cgroup_quota() -> float | None:
    """The smallest CPU quota of the control groups we are in; None if there is none."""
    quotas = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = Path("/sys/fs/cgroup"), "cpu.max"
        elif "cpu" in controllers.split(","):
            base, name = Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"
        else:
            continue
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(base):
                break
            quota = _quota_of(directory, name)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_of(directory: Path, name: str) -> float | None:
    fields = _read(directory / name).split()
    if name != "cpu.max":
        fields += _read(directory / "cpu.cfs_period_us").split()
    try:
        quota, period = float(fields[0]), float(fields[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
