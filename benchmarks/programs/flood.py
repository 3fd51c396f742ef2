"""A stranger who connects at a steady rate and proves nothing.

Arguments: port, connections per second, what each of them does (a name in ``SAID``), and source addresses,
which take turns. The destination is the loopback address of the family of the sources. Prints "floods", goes on until
standard input is closed, then prints how many connections it has made per second. A connection is held until
the other side closes it, at most ``HELD_MAX`` of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import socket
import sys
import time

import msgspec

from dispy.protocol import frames, limits
from dispy.protocol.handshake import MAGIC, Hello
from dispy.security.tls import Tls, dialer_tls

HELD_MAX = 4_000
"""Connections held at most; then the oldest is closed."""

SLEEP_S = 0.0005
"""Time between bursts, short against the time that a handshake takes."""

BURST_MAX = 64
"""Connections made in a row at most, before what the other side has closed is closed here."""

IP_BIND_ADDRESS_NO_PORT = 24
"""Socket option of Linux: the port is chosen at connect, where one may be used for several destinations."""


def client_hello() -> bytes:
    """How a client of TLS begins. The other side answers with a key exchange and a signature."""
    cipher = dialer_tls(Tls(wanted=True)).cipher("node")
    cipher.feed(b"")
    return cipher.pending()


def framed(body: bytes) -> bytes:
    """Bytes as a control frame."""
    return frames.header(frames.CONTROL, len(body)) + body


SAID = {
    "silent": lambda: b"",
    "close": lambda: b"",
    "garbage": lambda: b"\0" * 100,
    "hello": lambda: framed(msgspec.msgpack.encode(Hello(MAGIC, [limits.VERSION], "client", bytes(32)))),
    "tls": client_hello,
}
"""Makes what a connection says, by the name of its kind. All but "close" then wait for the other side to close."""


class Flood:
    """Connections of one stranger.

    Args:
        port: Port to connect to.
        said: Bytes that each connection says.
        sources: IP addresses to connect from, in turn.
        holds: False: each connection is closed at once.
    """

    def __init__(self, port: int, said: bytes, sources: list[str], holds: bool) -> None:
        self._family = socket.AF_INET6 if ":" in sources[0] else socket.AF_INET
        self._target = ("::1" if ":" in sources[0] else "127.0.0.1", port)
        self._said = said
        self._sources = itertools.cycle(sources)
        self._holds = holds
        self._poll = select.epoll()
        self._held: dict[int, socket.socket] = {}
        self.made = 0
        """Connections that could be made."""

    def connect(self) -> None:
        """Make one connection, and say what is to be said."""
        link = socket.socket(self._family)
        link.setblocking(False)
        try:
            link.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            link.bind((next(self._sources), 0))
            # On loopback the connection stands when this returns, unless the other side's queue is full.
            with contextlib.suppress(BlockingIOError):
                link.connect(self._target)
            if self._said:
                link.send(self._said)
        except OSError:
            link.close()
            return
        self.made += 1
        if not self._holds:
            link.close()
            return
        self._held[link.fileno()] = link
        self._poll.register(link, select.EPOLLIN)
        if len(self._held) > HELD_MAX:
            self._close(next(iter(self._held)))

    def tidy(self) -> None:
        """Close what the other side has closed; read what it says."""
        for descriptor, _ in self._poll.poll(0):
            try:
                is_open = bool(self._held[descriptor].recv(65536))
            except OSError:
                is_open = False
            if not is_open:
                self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._held.pop(descriptor).close()


def main(port: int, rate: float, kind: str, sources: list[str]) -> None:
    """Connect so many times a second until standard input is closed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flood = Flood(port, SAID[kind](), sources, kind != "close")
    end = select.poll()
    end.register(sys.stdin, select.POLLIN | select.POLLHUP)
    print("floods", flush=True)
    start = time.monotonic()
    tried = 0
    while not end.poll(0):
        due = int(rate * (time.monotonic() - start)) - tried
        for _ in range(min(due, BURST_MAX)):
            flood.connect()
            tried += 1
        flood.tidy()
        time.sleep(SLEEP_S)
    print(flood.made / (time.monotonic() - start), flush=True)
    os._exit(0)  # its sockets need no order


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
