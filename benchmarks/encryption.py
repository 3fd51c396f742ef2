"""The price of TLS: jobs per second and round trips against plain links, and what a handshake costs.

Two nodes of two CPUs in turns, one with TLS and one without, on loopback, with a generated secret and nothing else
configured. A handshake is everything from connect to proof on both ends, which share a process here. In
the last part five hundred simulated nodes, in one process, are dialed by one client at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from functools import partial
from typing import Any

import uvloop

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, at_most, median_row, noop, quantile
from benchmarks.latency import round_trips
from dispy.net.connection import Connection
from dispy.net.listener import Listener
from dispy.protocol import node
from dispy.security.secrets import generate, stretch
from dispy.security.tls import DialerTls, Tls, dialer_tls, listener_tls


def run(quick: bool) -> list[Row]:
    """Measure the ratios, the CPU time of a handshake, and how long a crowd takes."""
    jobs, trips, repeats, handshakes, peers = (
        (200, 20, 1, 20, 10) if quick else (20_000, 1_000, 5, 300, 500)
    )
    with (
        harness.sandbox(),
        harness.listening_node(2, "--tls") as (_, tls_port),
        harness.listening_node(2) as (_, port),
    ):
        rates = harness.interleave(
            repeats, lambda: jobs_per_s(tls_port, True, jobs), lambda: jobs_per_s(port, False, jobs)
        )
        medians = harness.interleave(
            repeats, lambda: median_trip(tls_port, True, trips), lambda: median_trip(port, False, trips)
        )
    ways = [(True, Tls(wanted=True)), (False, Tls())]
    costs = {is_tls: [handshake_cpu_ms(tls, handshakes) for _ in range(repeats)] for is_tls, tls in ways}
    crowd = [crowd_s(peers) for _ in range(1 if quick else 3)]
    return [
        median_row("TLS: no-op jobs/s against plain links", harness.ratios(rates), "x", at_least(0.85)),
        median_row(
            "TLS: submit to result, p50 against plain links", harness.ratios(medians), "x", at_most(1.2)
        ),
        median_row("TLS handshake and proof, CPU of both ends", costs[True], "ms", at_most(3)),
        median_row("  the proof alone, on a plain link", costs[False], "ms"),
        median_row(f"{peers} nodes dialed at once with TLS: all ready after", crowd, "s", at_most(5)),
    ]


def jobs_per_s(port: int, is_tls: bool, count: int) -> float:
    """No-op jobs per second on one node."""
    with harness.cluster(noop, warm=count // 10, nodes=[("127.0.0.1", port)], tls=is_tls) as cluster:
        return count / harness.run_jobs(cluster, count)


def median_trip(port: int, is_tls: bool, count: int) -> float:
    """Median of the seconds from ``submit`` to the result, one job at a time."""
    with harness.cluster(noop, warm=1, nodes=[("127.0.0.1", port)], tls=is_tls) as cluster:
        return quantile(round_trips(lambda number: cluster.submit(number)(), count), 0.5)


class Side:
    """Whom a connection tells; remembers whether it was ready."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()

    def on_ready(self, connection: Connection) -> None:
        """It has proved itself."""
        self.ready.set()

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing is said here."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """It is gone."""


def handshake_cpu_ms(tls: Tls, count: int) -> float:
    """CPU time of one connection, both ends, from connect to proof (milliseconds)."""

    async def measure() -> float:
        loop = asyncio.get_running_loop()
        key = stretch(generate())
        is_tls = tls.is_used("127.0.0.1")
        encrypts = listener_tls(tls) if is_tls else None
        listens = Listener(
            lambda on_settled: Connection(
                Side(),
                node.to_node_decoder,
                key,
                "node",
                "client",
                is_dialer=False,
                tls=encrypts,
                on_settled=on_settled,
            ),
            tls=is_tls,
        )
        host, port = listens.listen("127.0.0.1", 0)
        dials: DialerTls | None = dialer_tls(tls) if is_tls else None
        start = 0.0
        for number in range(count + 5):
            if number == 5:
                start = time.process_time()
            side = Side()
            make = partial(
                Connection, side, node.from_node_decoder, key, "client", "node",
                is_dialer=True, tls=dials, peer_name=host,
            )  # fmt: skip
            transport, _ = await loop.create_connection(make, host, port)
            await side.ready.wait()
            transport.close()
        cost = time.process_time() - start
        listens.close()
        return cost / count * 1000

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())


def crowd_s(count: int) -> float:
    """Seconds from the creation of a cluster until so many nodes can be used."""
    with harness.sandbox():
        secret = generate()
        peers = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.programs.crowd", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            assert peers.stdin is not None
            assert peers.stdout is not None
            peers.stdin.write(secret + "\n")
            peers.stdin.flush()
            nodes = [("127.0.0.1", int(port)) for port in peers.stdout.readline().split()]
            program = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.programs.crowd_client",
                    secret,
                    *[str(port) for _, port in nodes],
                ],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                timeout=60,
                check=True,
            )
            return float(program.stdout)
        finally:
            harness.end(peers)
