"""Simulated nodes: each listens with TLS on a port of its own and welcomes whoever proves the secret.

Reads the secret from standard input, prints the ports in one line, and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop

from dispy.net.connection import Connection
from dispy.net.listener import Listener
from dispy.protocol import node
from dispy.security.key_text import stretch
from dispy.security.keys import Keys, alone
from dispy.security.tls import ListenerTls, Tls, listener_tls


class Peer:
    """One node, as far as a client sees it before it sends jobs."""

    def __init__(self, number: int) -> None:
        self._identity = os.urandom(16)
        self._name = f"peer{number}"

    def on_ready(self, connection: Connection) -> None:
        """The client introduces itself."""

    def on_message(self, connection: Connection, message: Any) -> None:
        """Answer as a node that loads everything at once."""
        if isinstance(message, node.Attach):
            connection.send(node.Welcome(self._identity, self._name, 2, "simulated"))
        elif isinstance(message, node.Compute):
            connection.send(node.ComputationReady(message.computation))
            connection.send(node.Credit(message.computation, 2, 0))

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The client has left."""


def connection(
    peer: Peer, key: Keys, tls: ListenerTls, on_settled: Callable[[Connection], None]
) -> Connection:
    """What a listener makes of somebody who comes."""
    return Connection(
        peer, node.to_node_decoder, key, "node", "client", is_dialer=False, tls=tls, on_settled=on_settled
    )


async def serve(key: Keys, count: int) -> None:
    """Listen on so many ports, until the end."""
    tls = listener_tls(Tls(wanted=True))
    ports = []
    listeners = []
    for number in range(count):
        listener = Listener(partial(connection, Peer(number), key, tls), tls=True)
        ports.append(listener.listen("127.0.0.1", 0)[1])
        listeners.append(listener)
    print(*ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    secret = alone(stretch(sys.stdin.readline().strip()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(secret, int(sys.argv[1])))
