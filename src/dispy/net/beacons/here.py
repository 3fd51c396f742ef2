"""A node says on the networks of this machine that it is there, and answers programs that seek it. On the loop."""

from __future__ import annotations

import asyncio
import os

from dispy.core.discovery.announcing import Announcer
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.system.clock import Clock


class Here:
    """A node says that it is there, and answers programs with its secret.

    Args:
        keys: Masters of the secret, at least one.
        incarnation: 16 bytes that name the node's run.
        address: Address and TCP port at which the node listens.
        ports: Port at which programs listen, and port of nodes.
        clock: Source of the time.
        uses_multicast: As of ``Seekers``.
        new_network: Makes the sockets.
    """

    def __init__(
        self,
        keys: list[bytes],
        incarnation: bytes,
        address: tuple[str, int],
        ports: tuple[int, int],
        clock: Clock,
        *,
        uses_multicast: bool = False,
        new_network: NewNetwork = Sockets,
    ) -> None:
        host, port = address
        self._announcer = Announcer(keys, incarnation, port, os.urandom)
        self._host = "" if host in ("0.0.0.0", "::") else host
        self._is_4 = host == "0.0.0.0"
        """True if the node listens at IPv4 addresses only."""
        self._client_port = ports[0]
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._network = new_network(
            ports[1], self._take, clock, reads_senders=False, on_change=self._announce,
            uses_multicast=uses_multicast, only=self._host,
        )  # fmt: skip
        self._announce()

    def _announce(self) -> None:
        self._announcer.announce(self._clock.monotonic())
        self._send_due()

    def _send_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._announcer.due(self._clock.monotonic()):
            for each, _ in self._network.places():
                if self._serves(each.address):
                    for data in self._announcer.here(each.address, self._clock.time()):
                        self._network.send(each, data, self._client_port)
        at = self._announcer.next_s()
        if at is not None:
            wait = max(0.0, at - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._send_due)

    def _take(self, data: bytes, source: tuple[str, int], zone: int) -> None:
        sought = self._announcer.take(data, source, self._clock.monotonic(), self._clock.time())
        if sought is None or not self._serves(source[0]):
            return
        key, seek = sought
        self._network.answer(
            source,
            zone,
            self._host,
            lambda here: self._announcer.answer(key, here, self._clock.time(), seek.nonce),
        )

    def _serves(self, address: str) -> bool:
        """True if the node listens at addresses of this family."""
        return not (self._is_4 and ":" in address)

    def close(self) -> None:
        """Say no more, and answer nobody."""
        if self._timer is not None:
            self._timer.cancel()
        self._network.close()
