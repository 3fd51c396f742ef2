"""How many CPUs this process may use: affinity and control groups respected."""

from __future__ import annotations

import math
import os
from pathlib import Path

from dispy.system.control_groups import cpu_quota


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that jobs here can really have, at least one; half a CPU counts as one.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cpu_quota(root)
    return max(1, min(count, math.ceil(quota)) if quota else count)
