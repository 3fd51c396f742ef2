"""Network interfaces of this machine: their addresses, and where a datagram to all machines there goes."""

from __future__ import annotations

import ipaddress
import socket

from msgspec import Struct

from dispy import config


class Interface(Struct, frozen=True):
    """An address of this machine on a network that is up, beyond loopback.

    Attributes:
        name: Name of the interface ("eth0").
        index: Its number in the kernel.
        address: Our IP address there, without a zone.
        group: Address of all machines there: broadcast or multicast.
    """

    name: str
    index: int
    address: str
    group: str

    @property
    def family(self) -> socket.AddressFamily:
        """``AF_INET`` or ``AF_INET6``."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def zone(self) -> int:
        """Number of the interface where an IPv6 address needs it (``fe80::…``); else 0."""
        return self.index if ":" in self.address and ipaddress.ip_address(self.address).is_link_local else 0


def interfaces(*, uses_multicast: bool = False) -> list[Interface]:
    """Returns the addresses at which beacons are sent, in the order of the interfaces.

    One for each IPv4 address, and one IPv6 address for each interface: a link-local one only if there is no other.
    Interfaces without a cable, and tunnels that have no broadcast, are left out.

    Args:
        uses_multicast: True: IPv4 beacons go to ``config.IPv4MulticastGroup``; False: to the broadcast address.
    """
    import psutil

    found: list[Interface] = []
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, entries in psutil.net_if_addrs().items():
        if name not in up:
            continue
        try:
            index = socket.if_nametoindex(name)
        except OSError:  # it has gone meanwhile
            continue
        wide: list[Interface] = []
        for entry in entries:
            address = entry.address.partition("%")[0]
            if entry.family == socket.AF_INET and not ipaddress.ip_address(address).is_loopback:
                group = config.IPv4MulticastGroup if uses_multicast else _broadcast(address, entry)
                if group:
                    found.append(Interface(name, index, address, group))
            elif entry.family == socket.AF_INET6 and not ipaddress.ip_address(address).is_loopback:
                wide.append(Interface(name, index, address, config.IPv6MulticastGroup))
        found += sorted(wide, key=lambda each: each.zone != 0)[:1]
    return found


def _broadcast(address: str, entry: object) -> str:
    """Returns the broadcast address of an IPv4 address; empty for a network of one or two addresses, as tunnels have.

    Computed from the netmask: interfaces that were set up by hand often have no broadcast address, or a wrong one.
    """
    mask = getattr(entry, "netmask", None)
    if not mask or getattr(entry, "ptp", None):
        return ""
    network = ipaddress.ip_interface(f"{address}/{mask}").network
    return str(network.broadcast_address) if network.prefixlen < 31 else ""
