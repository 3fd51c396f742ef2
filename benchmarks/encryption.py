"""Links of three kinds: the Unix socket that programs of the node's user get, plain TCP, and TLS.

Three nodes of two CPUs in turns, with generated secrets and nothing else configured: jobs per second, CPU time per
job, round trips, and what a handshake costs. A handshake is everything from connect to proof on both ends, which
share a process here. In the last part five hundred simulated nodes, in one process, are dialed by one client at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import uvloop

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, at_most, median_row, noop, quantile
from benchmarks.latency import round_trips
from dispy.net.connection import Connection
from dispy.net.dialing import dial
from dispy.net.listener import Listener
from dispy.net.unix_listener import UnixListener
from dispy.protocol import node
from dispy.security.key_text import generate, stretch
from dispy.security.keys import Keys, alone
from dispy.security.tls import DialerTls, Tls, dialer_tls, listener_tls

WAYS = ("socket", "tcp", "tls")
"""How a program reaches its node."""


def run(quick: bool) -> list[Row]:
    """Measure the ratios, the CPU time of a handshake, and how long a crowd takes.

    Even a quick run takes 10,000 jobs, about 0.1 s of CPU: the system counts CPU time in steps of 0.01 s, and a ratio
    needs more than none.
    """
    jobs, trips, repeats, handshakes, peers = (
        (10_000, 20, 1, 20, 10) if quick else (20_000, 1_000, 11, 300, 500)
    )
    with harness.sandbox(), ExitStack() as stack:
        options: dict[str, dict[str, Any]] = {}
        pids = {}
        for way in WAYS:
            secret = generate()
            given = ["--no_tls"] if way == "tcp" else []
            pids[way], port = stack.enter_context(harness.listening_node(2, "--secret", secret, *given))
            options[way] = {"secret": secret}
            if way != "socket":  # which the list has
                options[way] |= {"nodes": [("127.0.0.1", port)], "tls": way == "tls"}
        by_turn = [take_turn(turn, options, pids, jobs, trips) for turn in range(repeats)]
    costs = {way: [handshake_cpu_ms(way, handshakes) for _ in range(1 if quick else 11)] for way in WAYS}
    crowd = [crowd_s(peers) for _ in range(1 if quick else 3)]

    def row(what: str, of: str, way: str, bar: harness.Bound) -> Row:
        ratios = [turn[way][what] / turn["tcp"][what] for turn in by_turn]
        return median_row(f"{way}: {of} against plain TCP", ratios, "x", bar)

    rate, cpu, trip = "no-op jobs/s", "CPU time per no-op job", "submit to result, p50"
    return [
        row("rate", rate, "socket", at_least(0.97)),
        row("cpu", cpu, "socket", at_most(1.02)),
        row("trip", trip, "socket", at_most(1.05)),
        row("rate", rate, "tls", at_least(0.85)),
        row("cpu", cpu, "tls", at_most(1.25)),
        row("trip", trip, "tls", at_most(1.2)),
        median_row("TLS handshake and proof, CPU of both ends", costs["tls"], "ms", at_most(3)),
        median_row("  the proof alone, over plain TCP", costs["tcp"], "ms"),
        median_row("  the proof alone, over a Unix socket", costs["socket"], "ms"),
        median_row(f"{peers} nodes dialed at once with TLS: all ready after", crowd, "s", at_most(5)),
    ]


def take_turn(
    turn: int, options: dict[str, dict[str, Any]], pids: dict[str, int], jobs: int, trips: int
) -> dict[str, dict[str, float]]:
    """Measure each way once; another one is the first in each turn, so that what else the machine does meets all."""
    found = {}
    for number in range(len(WAYS)):
        way = WAYS[(turn + number) % len(WAYS)]
        with harness.cluster(noop, warm=jobs // 10, **options[way]) as cluster:
            before = sum(harness.cpu_s_by_pid().values())
            seconds = harness.run_jobs(cluster, jobs)
            cpu_s = sum(harness.cpu_s_by_pid().values()) - before
            trip = quantile(round_trips(lambda number: cluster.submit(number)(), trips), 0.5)
        found[way] = {"rate": jobs / seconds, "cpu": cpu_s / jobs, "trip": trip}
    return found


class Side:
    """Whom a connection tells; remembers whether it was ready."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.connection: Connection | None = None

    def on_ready(self, connection: Connection) -> None:
        """It has proved itself."""
        self.ready.set()

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing is said here."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """It is gone."""


def handshake_cpu_ms(way: str, count: int) -> float:
    """CPU time of one connection, both ends, from connect to proof (milliseconds)."""

    async def measure() -> float:
        key = alone(stretch(generate()))
        encrypts = listener_tls(Tls()) if way == "tls" else None
        dials = dialer_tls(Tls()) if way == "tls" else None

        def accept(on_settled: Callable[[Connection], None]) -> Connection:
            return Connection(
                Side(), node.to_node_decoder, key, "node", "client",
                is_dialer=False, tls=encrypts, on_settled=on_settled,
            )  # fmt: skip

        listens: UnixListener | Listener
        path = ""
        if way == "socket":
            listens = UnixListener(accept, "127.0.0.1", 1)
            host, port, path = "127.0.0.1", 1, str(listens.path)
        else:
            listens = Listener(accept, tls=way == "tls")
            host, port = listens.listen("127.0.0.1", 0)
        start = 0.0
        for number in range(count + 5):
            if number == 5:
                start = time.process_time()
            side = Side()
            await dial(path, host, port, partial(connection_of, side, key, dials))
            await side.ready.wait()
            assert side.connection is not None
            side.connection.close()
        cost = time.process_time() - start
        listens.close()
        return cost / count * 1000

    with harness.sandbox(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())


def connection_of(side: Side, key: Keys, dials: DialerTls | None, is_unix: bool) -> Connection:
    """The dialer's end."""
    side.connection = Connection(
        side, node.from_node_decoder, key, "client", "node", is_dialer=True, tls=dials, peer_name="node"
    )
    return side.connection


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
