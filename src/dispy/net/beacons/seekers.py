"""The search of a program, or of a scheduler, for nodes on the networks of this machine. On the loop."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from functools import partial

from dispy.core.discovery.seeking import Seeker
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.protocol.beacon import Beacon
from dispy.system.clock import Clock


class Seekers:
    """The search of a program for nodes on the networks of this machine.

    Args:
        identity: 16 bytes that name the program's run.
        ports: Port at which nodes say unasked that they are there, and port of nodes.
        on_found: Called with the key of a secret, what a node has said, and the zone of its address (0: none).
        clock: Source of the time.
        uses_multicast: True: IPv4 beacons go to the multicast group; False: to broadcast addresses.
        new_network: Makes the sockets.
    """

    def __init__(
        self,
        identity: bytes,
        ports: tuple[int, int],
        on_found: Callable[[bytes, Beacon, int], None],
        clock: Clock,
        *,
        uses_multicast: bool = False,
        new_network: NewNetwork = Sockets,
    ) -> None:
        self._seeker = Seeker(identity, os.urandom, partial(random.uniform, -1, 1))
        self._node_port = ports[1]
        self._on_found = on_found
        self._clock = clock
        self._keys: set[bytes] = set()
        """Keys of the secrets that are sought."""
        self._timer: asyncio.TimerHandle | None = None
        self._network = new_network(
            ports[0],
            self._take,
            clock,
            reads_senders=True,
            on_change=self._again,
            uses_multicast=uses_multicast,
        )

    def seek(self, keys: list[bytes]) -> None:
        """Seek nodes with a secret from now on, by its masters; if it is sought already, at once and again soon."""
        for key in keys:
            self._keys.add(key)
            self._seeker.seek(key, self._clock.monotonic())
        self._send_due()

    def keep_only(self, keys: set[bytes]) -> None:
        """Seek nodes with other secrets than these no more, by the keys of the secrets."""
        for key in self._keys - keys:
            self._seeker.drop(key)
        self._keys &= keys

    def _again(self) -> None:
        """Seek at once, as there is another interface."""
        for key in self._keys:
            self._seeker.seek(key, self._clock.monotonic())
        self._send_due()

    def _send_due(self) -> None:
        """Send what is due, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in self._seeker.due(self._clock.monotonic()):
            for each, port in self._network.places():
                data = self._seeker.seek_beacon(key, each.address, port, self._clock.time())
                self._network.send(each, data, self._node_port)
        at = self._seeker.next_s()
        if at is not None:
            wait = max(0.0, at - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._send_due)

    def _take(self, data: bytes, source: tuple[str, int], zone: int) -> None:
        found = self._seeker.take(data, source[0], self._clock.time())
        if found is not None:
            self._on_found(*found, zone)

    def close(self) -> None:
        """End the search."""
        if self._timer is not None:
            self._timer.cancel()
        self._network.close()
