"""Runs the storm.

    python -m tests.chaos --seconds 60
    python -m tests.chaos --faults 2000 --seed 7
    python -m tests.chaos --faults 500 --machines
    python -m tests.chaos --seconds 60 --shared

Where root runs it, every second node has jobs that run as another account (``dispynode --user``), unless ``--own`` is
given. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispy import DispyJob
from tests.integration.others import find_python

from .storm import Outcome, run

STATUSES = {
    DispyJob.Finished: "finished",
    DispyJob.Terminated: "terminated",
    DispyJob.Abandoned: "abandoned",
    DispyJob.Cancelled: "cancelled",
}


def main() -> None:
    """Entry of ``python -m tests.chaos``."""
    parser = argparse.ArgumentParser(
        prog="tests.chaos", description="Kill, stop and cut off real processes."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to put faults on")
    parser.add_argument(
        "--faults", type=int, default=sys.maxsize, help="how many, if that is reached before"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--programs", type=int, default=2)
    parser.add_argument(
        "--machines", action="store_true", help="nodes in network namespaces of their own (needs root)"
    )
    parser.add_argument("--own", action="store_true", help="all jobs run as our own account")
    parser.add_argument("--shared", action="store_true", help="programs have a shared scheduler")
    options = parser.parse_args()
    if options.shared and options.machines:
        parser.error("--shared and --machines are two storms")
    seconds = options.seconds if options.faults == sys.maxsize else float("inf")
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root, _python(options.own) as python:
        Path(root).chmod(0o755)
        place = Path(root) / "place"
        place.mkdir()
        outcome = run(
            place,
            options.seed,
            seconds,
            options.faults,
            options.nodes,
            options.programs,
            options.machines,
            python,
            options.shared,
        )
        show(outcome)
    sys.exit(1 if outcome.broken else 0)


@contextmanager
def _python(is_own: bool) -> Iterator[str]:
    """An interpreter that another account can run; empty where no jobs run as one."""
    if is_own or os.geteuid() != 0:
        yield ""
    else:
        yield from find_python()


def show(outcome: Outcome) -> None:
    """Print what came of it."""
    print(
        f"{outcome.faults.total()} faults in {outcome.seconds:.0f} s:", dict(outcome.faults.most_common())
    )
    told = {STATUSES.get(status, str(status)): count for status, count in outcome.statuses.most_common()}
    print(f"{outcome.jobs} jobs, told as:", told)
    times = outcome.recoveries
    if times:
        print(
            f"from a fault to the end of a job submitted after it: p50 {times[len(times) // 2]:.2f} s, "
            f"p99 {times[len(times) * 99 // 100]:.2f} s, longest {times[-1]:.2f} s"
        )
    print("broken promises:", dict(outcome.broken) or "none")
    for note in outcome.notes[:20]:
        print(note)


if __name__ == "__main__":
    main()
