"""CPU time that a node spends on a stranger's connection, from accept to close.

Strangers come one after the other, say something that is no proof, and read until the node closes. The node's user
and system time, from the kernel's accounting, is divided by their number. Those who do TLS in full cost the
node a signature and a key exchange, which nobody can refuse to pay who listens with TLS.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import psutil

from benchmarks import harness
from benchmarks.harness import Row, at_most, median_row
from dispy.protocol.frames import CONTROL, header
from dispy.security.tls import Tls, dialer_tls

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GARBAGE = header(CONTROL, 100) + bytes(range(100, 200))
TLS_GARBAGE = b"\x16\x03\x01\x00\x80" + bytes(range(1, 129))

ANSWER_S = 10.0
"""A node that takes longer to close hangs."""


def run(quick: bool) -> list[Row]:
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
