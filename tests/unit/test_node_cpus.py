"""CPUs that a node may use: those it is really given."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dispy.node.machine.cpus import usable_cpus

has_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")


def test_there_is_at_least_one_and_never_more_than_the_machine_has() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


@has_affinity
def test_cpus_taken_from_the_process_are_not_counted() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from dispy.node.machine.cpus import usable_cpus; print(usable_cpus())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"1\n"
