"""A program as a user has it: two clusters, jobs all the time, some cancelled; it writes down what it is told.

    python -m tests.chaos.program SETTINGS

Settings are JSON: ``nodes`` (address and port each), ``scheduler`` (port of a shared one; 0: none), ``secret``,
``log`` and ``marks`` (paths), ``first`` (its first job), ``seed``. It ends when its standard input does, after all
its jobs. A line of the log is
``submit NUMBER REENTRANT``, ``cancel NUMBER``, or ``end NUMBER STATUS RIGHT SECONDS MOMENT FORGOTTEN``.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from functools import partial
from typing import Any

import dispy
from dispy import DispyJob, DispyNode
from dispy.errors import NoSchedulerError

from .checker import FINAL
from .work import is_right, work

OPEN_MAX = 60
"""Jobs of a cluster that have not ended: two are running, the rest waits on nodes and in the program."""

END_S = 60.0
"""Jobs that take longer than this, with no faults any more, hang."""


def _make_shared(*arguments: Any, **named: Any) -> dispy.JobCluster:
    """A cluster of a shared scheduler, which may just have been killed."""
    until = time.monotonic() + END_S
    while True:
        try:
            return dispy.SharedJobCluster(*arguments, **named)
        except NoSchedulerError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def main() -> None:
    """Entry of the program."""
    settings = json.loads(sys.argv[1])
    chance = random.Random(settings["seed"])
    log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data: dict[int, bytes] = {}
    begun: dict[int, float] = {}

    def note(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    def on_event(status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if job is None or status not in FINAL:
            return
        number = int(job.id)
        right = status != DispyJob.Finished or is_right(number, data.pop(number, b""), job.result)
        if status != DispyJob.Finished:
            print(f"job {number} has status {status}: {str(job.exception)[-300:]!r}", file=sys.stderr)
        forgotten = status == DispyJob.Abandoned and "was started anew" in str(job.exception)
        note(
            f"end {number} {status} {int(right)} {time.monotonic() - begun[number]:.3f} {time.monotonic():.3f} "
            f"{int(forgotten)}"
        )

    nodes = [(address, port) for address, port in settings["nodes"]]
    make = partial(
        dispy.JobCluster,
        work,
        nodes=nodes,
        secret=settings["secret"],
        cluster_status=on_event,
        max_queued=OPEN_MAX,
    )
    if settings["scheduler"]:
        make = partial(
            _make_shared,
            work,
            scheduler_host="127.0.0.1",
            scheduler_port=settings["scheduler"],
            cluster_status=on_event,
            max_queued=OPEN_MAX,
        )
    clusters = [make(reentrant=True), make(reentrant=False)]
    number = settings["first"]
    while not select.select([sys.stdin], [], [], 0)[0]:
        kind = chance.randrange(2)
        data[number] = (
            chance.randbytes(chance.choice([70_000, 400_000, 3_000_000])) if chance.random() < 0.03 else b""
        )
        seconds = chance.choice([0, 0, 0.001, 0.01, 0.01, 0.05, 0.2])
        begun[number] = time.monotonic()
        note(f"submit {number} {int(kind == 0)}")
        job = clusters[kind].submit_job_id(number, number, seconds, settings["marks"], data[number])
        if chance.random() < 0.03:
            note(f"cancel {number}")
            clusters[kind].cancel(job)
        number += 1
    ended = [cluster.wait(END_S) for cluster in clusters]
    for cluster in clusters:
        cluster.close(terminate=True)
        cluster.shutdown()
    print("all ended" if all(ended) else "jobs are left", flush=True)


if __name__ == "__main__":
    main()
