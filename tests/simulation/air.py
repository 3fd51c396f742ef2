"""Datagrams between machines: lost, copied, late, out of order, and sent again by somebody who has recorded them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dispy.net.beacons.interfaces import Interface
from dispy.net.beacons.network import NewNetwork, Take

if TYPE_CHECKING:
    from dispy.system.clock import Clock

    from .network import Network
    from .world import Party

ATTACKER = "10.0.0.250"
"""Address of somebody on the network, who is no party."""

LATE_S = 1.0
"""A datagram arrives within this time, or not at all."""

RECORDED_MAX = 50
"""Datagrams that the attacker remembers."""


class Air:
    """What all machines of one network send to each other.

    Args:
        network: Its paths, and which machines are up.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.loss = 0.05
        """Share of datagrams that are lost, besides those that a path loses."""
        self.copies = 0.05
        """Share of datagrams that arrive twice."""
        self.lateness = 0.1
        """Share of datagrams that are late, so that later ones overtake them."""
        self.sent = self.arrived = 0
        self.sockets: list[Sockets] = []
        self._recorded: list[tuple[bytes, tuple[str, int]]] = []
        self._ports = 40000

    def of(self, party: Party, host: str) -> NewNetwork:
        """Returns what makes the sockets of a process."""
        return partial(Sockets, self, party, host)

    def new_port(self) -> int:
        """Returns a port that nobody has."""
        self._ports += 1
        return self._ports

    def send(self, data: bytes, source: tuple[str, int], wanted: Callable[[Sockets], bool]) -> None:
        """Carry a datagram to all sockets that it is for."""
        world = self._network.world
        self.sent += 1
        self._recorded.append((data, source))
        del self._recorded[:-RECORDED_MAX]
        for sockets in list(self.sockets):
            if wanted(sockets):
                self._carry(data, source, source[0], sockets)
                if world.chance() < self.copies:
                    self._carry(data, source, source[0], sockets)

    def _carry(self, data: bytes, source: tuple[str, int], host: str, sockets: Sockets) -> None:
        world = self._network.world
        path = self._network.path(host, sockets.host)
        if path.is_cut or world.chance() < self.loss or world.chance() < path.loss:
            return
        delay_s = path.delay_s * (1.0 + path.jitter * world.chance())
        if world.chance() < self.lateness:
            delay_s += LATE_S * world.chance()
        world.arrive(world.now + delay_s, sockets.party, self._arrive, data, source, sockets)

    def _arrive(self, data: bytes, source: tuple[str, int], sockets: Sockets) -> None:
        if sockets in self.sockets and self._network.machine(sockets.host).is_up:
            self.arrived += 1
            sockets.take(data, source, 0)

    def attack(self) -> bool:
        """Have the attacker repeat, change or redirect what he has recorded; False if that is nothing yet."""
        world = self._network.world
        if not self._recorded or not self.sockets:
            return False
        dice = world.random
        for _ in range(20):
            data, source = dice.choice(self._recorded)
            way = dice.random()
            if way < 0.3:  # from his own address
                source = (ATTACKER, source[1])
            elif way < 0.6:
                position = int(dice.random() * len(data))
                data = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            # Else a true copy, with a forged source.
            self._carry(data, source, ATTACKER, dice.choice(self.sockets))
        return True


class Sockets:
    """The sockets of one process, as of ``dispy.net.beacons.network.Sockets``."""

    def __init__(
        self,
        air: Air,
        party: Party,
        host: str,
        port: int,
        take: Take,
        clock: Clock,
        *,
        reads_senders: bool,
        on_change: Callable[[], None],
        uses_multicast: bool,
        only: str = "",
    ) -> None:
        self._air = air
        self.party = party
        self.host = host
        self.port = port
        self.take = take
        self.sending_port = air.new_port()
        self._reads_senders = reads_senders
        self._place = Interface("eth0", 2, host, "10.0.255.255")
        air.sockets.append(self)
        party.world.at_end.append(self.close)

    def places(self) -> list[tuple[Interface, int]]:
        """There is one interface."""
        return [(self._place, self.sending_port)]

    def send(self, each: Interface, data: bytes, port: int) -> None:
        """All hear it who listen at the port."""
        self._air.send(data, (self.host, self.sending_port), lambda other: other.port == port)

    def answer(self, source: tuple[str, int], zone: int, host: str, make: Callable[[str], bytes]) -> None:
        """One hears it, if it is still there."""
        data = make(self.host)

        def is_it(other: Sockets) -> bool:
            return (other.host, other.sending_port) == source and other._reads_senders

        self._air.send(data, (self.host, self.sending_port), is_it)

    def close(self) -> None:
        """Hear no more."""
        if self in self._air.sockets:
            self._air.sockets.remove(self)
