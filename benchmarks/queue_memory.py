"""Memory that a queued job costs in the client: growth of the resident set over a million of them.

No node is there, so nothing leaves the client. The program keeps every ``DispyJob``, as users do;
the list that holds them (8 bytes a job) is counted.
"""

from __future__ import annotations

import gc
import socket

import psutil

import dispy
from benchmarks import harness
from benchmarks.harness import Row, at_most, noop


def run(quick: bool) -> list[Row]:
    """Measure bytes per job, and what submitting one takes."""
    count = 10_000 if quick else 1_000_000
    dispy.config.LocalNode = False
    with harness.sandbox():
        cluster = dispy.JobCluster(noop, nodes=[("127.0.0.1", unused_port())])
        kept = [cluster.submit(number) for number in range(1_000)]
        cluster.status()
        gc.collect()
        process = psutil.Process()
        before = process.memory_info().rss
        submit = cluster.submit
        seconds = harness.timed(lambda: kept.extend([submit(number) for number in range(count)]))
        # Answered by the background thread after it has taken what was submitted.
        pending = cluster.status().jobs_pending
        grown = process.memory_info().rss - before
        if pending != len(kept):
            raise RuntimeError(f"{pending} of {len(kept)} jobs are queued")
        close_s = harness.timed(lambda: cluster.close(terminate=True))
        cluster.shutdown()
    return [
        Row("memory of a queued job in the client", grown / count, "bytes", at_most(1000), at_most(500)),
        Row("  submit, with nobody to take the job", seconds / count * 1e6, "us"),
        Row(f"  cancel {count:,} of them", close_s, "s"),
    ]


def unused_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
