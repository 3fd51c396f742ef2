"""An honest program whose jobs have to go on whatever others say to the node, or to the scheduler.

    python steady_program.py SETTINGS

SETTINGS is JSON with ``secret_file``, and ``shared``: true if jobs go to the shared scheduler of this machine.
Each line that it prints is ``NUMBER JOBS``: one round of so many jobs is over, and all were right; or ``WRONG`` and
what was. It runs until it is told to end (SIGTERM).
"""

from __future__ import annotations

import itertools
import json
import logging
import signal
import sys
from types import FrameType

from honest_jobs import answer

import dispy
from dispy import config


def on_end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry of the script."""
    signal.signal(signal.SIGTERM, on_end)
    config.LocalNode = False
    logging.getLogger("dispy").setLevel(logging.ERROR)
    settings = json.loads(sys.argv[1])
    make = dispy.SharedJobCluster if settings.get("shared") else dispy.JobCluster
    cluster = make(answer, secret_file=settings["secret_file"], reentrant=True)
    try:
        for number in itertools.count(1):
            large = b"ab" * 50_000 if number % 10 == 0 else b""
            jobs = [cluster.submit(n, large) for n in range(20)]
            for n, job in enumerate(jobs):
                if job() != (n * 3 + 1, large[::-1]):
                    print(f"WRONG job {n}: status {job.status}, {job.exception}", flush=True)
            print(f"{number} {len(jobs)}", flush=True)
    except KeyboardInterrupt:
        pass
    cluster.close(terminate=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
