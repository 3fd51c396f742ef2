"""CPUs that this process may use: fewer than the machine has if CPU affinity or a control group limits it."""

from __future__ import annotations

import math
import os

from dispy.system.control_groups import cpu_quota


def usable_cpus(root: str | os.PathLike[str] = "/") -> int:
    """Returns the number of CPUs that jobs here can have, at least 1. A fraction of a CPU counts as one.

    Args:
        root: Directory with ``proc`` and ``sys``, from which the control group's limit is read; tests give others.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cpu_quota(root)
    return max(1, min(count, math.ceil(quota)) if quota else count)
