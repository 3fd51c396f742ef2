"""Strangers at a node's port: CPU time that each costs the node, and what honest programs feel of a flood of them.

The cost: strangers come one after the other, say something that is no proof, and read until the node closes. The
node's user and system time, from the kernel's accounting, is divided by their number. Those who do TLS in full cost
the node a signature and a key exchange, which nobody can refuse to pay who listens with TLS.

The floods: another process connects at a steady rate from addresses of its own, while programs at 127.0.0.1
dial the node, each for its first time, or run jobs over a link that stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple

import psutil
import uvloop

from benchmarks import harness
from benchmarks.harness import PROGRAMS, Row, at_least, at_most, median_row, noop, quantile, ratios
from dispy.net.connection import Connection
from dispy.protocol import node as messages
from dispy.protocol.frames import CONTROL, header
from dispy.security.secrets import choose
from dispy.security.tls import Tls, dialer_tls

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GARBAGE = header(CONTROL, 100) + bytes(range(100, 200))
TLS_GARBAGE = b"\x16\x03\x01\x00\x80" + bytes(range(1, 129))

ANSWER_S = 10.0
"""A node that takes longer to close hangs."""

SPARE_S = 2.5
"""Time between programs: after two seconds a node has started the host for the next computation."""

SETTLE_S = 0.5
"""Time from the start of a flood until it is felt in full."""

ONE = ["127.0.0.2"]
MANY = [f"127.0.{high}.{low}" for high in (1, 2, 3, 4) for low in range(1, 255)]
SAME = ["127.0.0.1"]


class Flood(NamedTuple):
    """A kind of flood: how it is named, what its connections do, from where, on which port."""

    name: str
    kind: str
    sources: list[str]
    is_tls: bool = False
    has_bar: bool = True


FLOODS = [
    Flood("one address, says nothing", "silent", ONE),
    Flood("one address, says garbage", "garbage", ONE),
    Flood("one address, closes at once", "close", ONE),
    Flood("one address, begins the proof", "hello", ONE),
    Flood("one address, begins TLS", "tls", ONE, is_tls=True),
    Flood("1,016 addresses, say nothing", "silent", MANY, has_bar=False),
    Flood("1,016 addresses, begin the proof", "hello", MANY, has_bar=False),
    Flood("the program's own address, says nothing", "silent", SAME, has_bar=False),
]


def run(quick: bool) -> list[Row]:
    """Measure the cost of each kind of stranger, then the floods."""
    return [*costs(quick), *floods(quick)]


def costs(quick: bool) -> list[Row]:
    """Measure each kind of stranger, on a plain port and on one with TLS."""
    count, repeats = (50, 1) if quick else (1_000, 3)
    context = dialer_tls(Tls(wanted=True)).context
    with (
        harness.sandbox(),
        harness.listening_node(1, "--no_tls") as plain,
        harness.listening_node(1, "--tls") as tls,
    ):
        kinds: list[tuple[str, tuple[int, int], Callable[[socket.socket], None]]] = [
            ("plain port: garbage in a frame", plain, says(GARBAGE)),
            ("plain port: HTTP", plain, says(HTTP)),
            ("plain port: connects and closes", plain, says(b"")),
            ("TLS port: no TLS", tls, says(HTTP)),
            ("TLS port: broken TLS", tls, says(TLS_GARBAGE)),
        ]
        samples = {
            name: [cpu_ms(node, count, stranger) for _ in range(repeats)] for name, node, stranger in kinds
        }
        in_full = [cpu_ms(tls, count // 5, lambda link: says_in_tls(link, context)) for _ in range(repeats)]
    rows = [
        median_row(f"a node's CPU time per stranger, {name}", values, "ms", at_most(0.3))
        for name, values in samples.items()
    ]
    return [*rows, median_row("  the same, TLS port: HTTP after TLS in full", in_full, "ms")]


def cpu_ms(node: tuple[int, int], count: int, stranger: Callable[[socket.socket], None]) -> float:
    """CPU time of a node per connection (milliseconds)."""
    pid, port = node
    before = spent_s(pid)
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as link:
            stranger(link)
    return (spent_s(pid) - before) / count * 1e3


def spent_s(pid: int) -> float:
    """CPU time of one process (seconds)."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def says(data: bytes) -> Callable[[socket.socket], None]:
    """A stranger who says this, and reads to the end."""

    def stranger(link: socket.socket) -> None:
        link.sendall(data)
        if not data:
            link.shutdown(socket.SHUT_WR)
        read_all(link)

    return stranger


def says_in_tls(link: socket.socket, context: ssl.SSLContext) -> None:
    """A stranger who speaks TLS as one should, and then something else."""
    with context.wrap_socket(link, server_hostname="node", suppress_ragged_eofs=True) as encrypted:
        encrypted.sendall(HTTP)
        read_all(encrypted)


def read_all(link: socket.socket) -> None:
    """Read until the node has closed, in whatever way."""
    try:
        while link.recv(4096):
            pass
    except ConnectionResetError:
        pass


# Floods.


def floods(quick: bool) -> list[Row]:
    """Measure first jobs, handshakes and jobs per second beside floods."""
    rows = []
    with (
        harness.sandbox(),
        harness.listening_node(1, "--no_tls") as plain,
        harness.listening_node(1, "--tls") as tls,
    ):
        ports = {False: plain, True: tls}
        rates = [1_500] if quick else [400, 1_500]
        rows += first_jobs(plain, rates, 1 if quick else 7)
        for flood in FLOODS[: 1 if quick else None]:
            rows += beside(ports[flood.is_tls], flood, 1_500, 10 if quick else 200)
        rows += jobs_beside(plain, 1_500, 200 if quick else 10_000, 1 if quick else 5)
    return rows


def first_jobs(node: tuple[int, int], rates: list[int], count: int) -> list[Row]:
    """Delay of a program's first job beside a silent address, at each rate; in turns, so that all meet the same."""
    samples: dict[int, list[float]] = {rate: [] for rate in (0, *rates)}
    first_job_s(node[1])
    for _ in range(count):
        for rate in samples:
            with flooding(node[1], FLOODS[0], rate):
                samples[rate].append(first_job_s(node[1]))
    idle = samples.pop(0)
    rows = [median_row("first job of a program, no stranger", idle, "s")]
    for rate, values in samples.items():
        later = statistics.median(values) - statistics.median(idle)
        claim = f"  {rate:,}/s of one silent address: first job later by"
        rows.append(Row(claim, later, "s", at_most(0.1), samples=values))
    return rows


def first_job_s(port: int) -> float:
    """Seconds from the start of a cluster to its first result, in a program of its own that has done its imports."""
    time.sleep(SPARE_S)
    command = [sys.executable, str(PROGRAMS / "first_job.py"), str(port), "plain"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdout.readline()
        program.stdin.write("go\n")
        program.stdin.flush()
        return float(program.stdout.readline())


@contextlib.contextmanager
def flooding(port: int, flood: Flood, rate: int) -> Iterator[Callable[[], float]]:
    """A flood while the block runs; yields what ends it and returns the rate that it has reached (per second)."""
    if not rate:
        yield lambda: 0.0
        return
    command = [sys.executable, "-m", "benchmarks.programs.flood", str(port), str(rate), flood.kind]
    with subprocess.Popen(
        [*command, *flood.sources],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=harness.ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(SETTLE_S)
        reached = 0.0

        def end() -> float:
            nonlocal reached
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
                assert process.stdout is not None
                reached = float(process.stdout.readline())
            return reached

        try:
            yield end
        finally:
            if end() < 0.95 * rate:
                print(f"{flood.name}: {reached:.0f} connections/s instead of {rate}", file=sys.stderr)


def beside(node: tuple[int, int], flood: Flood, rate: int, count: int) -> list[Row]:
    """Handshakes of programs beside a flood, how many fail, and what the flood costs the node."""
    pid, port = node
    idle = asyncio_run(handshakes(port, flood.is_tls, count))
    with flooding(port, flood, rate) as end:
        start, before = time.monotonic(), spent_s(pid)
        time.sleep(1.0)
        share = (spent_s(pid) - before) / (time.monotonic() - start)
        found = asyncio_run(handshakes(port, flood.is_tls, count))
        reached = end()
    done = [seconds for seconds in found if seconds is not None]
    later = quantile(done, 0.99) - quantile([seconds for seconds in idle if seconds is not None], 0.99)
    bar = at_most(0.1) if flood.has_bar else None
    return [
        Row(f"{flood.name}, {rate:,}/s: handshake of others later by, p99", later, "s", bar, samples=done),
        Row(
            "  handshakes that fail", 1 - len(done) / len(found), "", at_most(0) if flood.has_bar else None
        ),
        Row("  connections that the flood has made", reached, "/s", at_least(0.95 * rate)),
        Row("  CPUs of the node", share, ""),
    ]


def asyncio_run(coroutine: Coroutine[Any, Any, list[float | None]]) -> list[float | None]:
    """Run a coroutine on a new loop of the kind that programs use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


class Dialer:
    """Whom a connection tells; sets a future when it is ready (True) or gone (False)."""

    def __init__(self) -> None:
        self.is_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_ready(self, connection: Connection) -> None:
        """It has proved itself."""
        self.is_ready.set_result(True)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing is said here."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """It is gone."""
        if not self.is_ready.done():
            self.is_ready.set_result(False)


async def handshakes(port: int, is_tls: bool, count: int) -> list[float | None]:
    """Seconds from connect to proof, one dialer after the other; None for those that failed."""
    tls = dialer_tls(Tls(wanted=True)) if is_tls else None
    found: list[float | None] = []
    for _ in range(count):
        dialer = Dialer()
        make = partial(
            Connection, dialer, messages.from_node_decoder, choose().keys, "client", "node",
            is_dialer=True, tls=tls, peer_name="127.0.0.1",
        )  # fmt: skip
        start = time.perf_counter()
        transport, _ = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        is_ready = await dialer.is_ready
        found.append(time.perf_counter() - start if is_ready else None)
        transport.close()
        await asyncio.sleep(0.005)
    return found


def jobs_beside(node: tuple[int, int], rate: int, count: int, repeats: int) -> list[Row]:
    """Jobs per second over a link that stands, beside a silent address, against the same without."""
    with harness.cluster(noop, warm=100, nodes=[("127.0.0.1", node[1])], tls=False) as cluster:

        def flooded() -> float:
            with flooding(node[1], FLOODS[0], rate):
                return count / harness.run_jobs(cluster, count)

        pairs = harness.interleave(repeats, flooded, lambda: count / harness.run_jobs(cluster, count))
    return [
        median_row(
            f"{rate:,}/s of one silent address: jobs/s on {os.cpu_count()} CPUs, against none",
            ratios(pairs),
            "x",
        )
    ]
