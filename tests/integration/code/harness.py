"""Runs the checks of a program here and in jobs: what a function gives here it has to give there.

A check is a function whose name begins with ``check_``. Each is played as a dependency of one computation, as the
argument of a job, and as a computation of its own if ``--each`` is given. Prints one line for each that differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import dispy


def outcome(check: Callable[[], Any]) -> str:
    """What a check gives, as text."""
    try:
        return repr(check())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(namespace: dict[str, Any], call: Callable[[Callable[[], Any]], Any], by_name: Any) -> None:
    """Play the checks of a program.

    Args:
        namespace: Of the program.
        call: Of the program: calls its argument.
        by_name: Of the program: calls what it finds under a name.
    """
    only = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    checks = {
        name: check
        for name, check in namespace.items()
        if name.startswith("check_") and (not only or name in only)
    }
    here = {name: outcome(check) for name, check in checks.items()}
    count = 0
    with dispy.JobCluster(by_name, depends=list(checks.values())) as cluster:
        jobs = {name: cluster.submit(name) for name in checks}
        count += compare("as a dependency", here, jobs)
    with dispy.JobCluster(call) as cluster:
        for way in ("as an argument", "as an argument again"):
            jobs = {name: cluster.submit(check) for name, check in checks.items()}
            count += compare(way, here, jobs)
    if "--each" in sys.argv:
        for name, check in checks.items():
            with dispy.JobCluster(check) as cluster:
                count += compare("as a computation", {name: here[name]}, {name: cluster.submit()})
    print(f"{count} outcomes compared")


def compare(way: str, here: dict[str, str], jobs: dict[str, Any]) -> int:
    """Print what differs; returns how many were looked at."""
    for name, job in jobs.items():
        there = job()
        try:
            there = repr(there) if not job.exception else job.exception.strip().splitlines()[-1]
        except Exception as error:
            there = f"{type(error).__name__}: {error}"
        if there != here[name]:
            print(f"DIFFERS {way}: {name}: here {here[name]}, there {there}")
    return len(jobs)


def expect(what: str, found: Any, expected: Any) -> None:
    """Print what differs from what is expected."""
    if found != expected:
        print(f"DIFFERS {what}: {found!r}, expected {expected!r}")
