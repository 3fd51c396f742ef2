"""Small public functions of dispy 4 that programs use and that have nothing to do with clusters."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, NamedTuple

import psutil

from dispy.errors import UsageError
from dispy.system.addresses import is_loopback, resolve


class AddrInfo(NamedTuple):
    """An address of this machine, or of another one.

    Attributes:
        family: ``socket.AF_INET`` or ``AF_INET6``.
        ip: The address as text, such as "192.168.1.20"; for IPv6 without a "%" and the interface.
        ifn: Number of the network interface of an IPv6 address of this machine, else 0.
        broadcast: Address as text that reaches all machines of its network; empty if that is not known.
        netmask: Mask of its network as text; empty if that is not known.
    """

    family: int
    ip: str
    ifn: int
    broadcast: str
    netmask: str


def host_addrinfo(
    host: str | None = None, socket_family: int | None = None, ipv4_multicast: bool = False
) -> AddrInfo:
    """Returns an address of a host; without a host, the address at which others can reach this machine.

    Args:
        host: Name or address; None for this machine.
        socket_family: ``socket.AF_INET`` or ``AF_INET6``; None prefers IPv4.
        ipv4_multicast: True to get ``config.IPv4MulticastGroup`` as ``broadcast`` of an IPv4 address. That of an IPv6
            address is always ``config.IPv6MulticastGroup``.

    Raises:
        UsageError: An argument cannot be used, the host cannot be resolved, or it has no address of that family.
    """
    if socket_family not in (None, socket.AF_INET, socket.AF_INET6):
        raise UsageError(
            f"socket_family must be socket.AF_INET or AF_INET6, not {socket_family!r}",
            hint="or leave it out",
        )
    if host is not None and (not isinstance(host, str) or not host):
        raise UsageError(f"host must be a name or an address, not {host!r:.100}", hint="or leave it out")
    here = _own_addresses()
    if host is None:
        found = [entry for entry in here if socket_family in (None, entry.family)]
        if not found:
            raise UsageError("this machine has no address of that family", hint="leave socket_family out")
        chosen = found[0]
    else:
        address = resolve(host) if socket_family is None else _resolve_as(host, socket_family)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        chosen = next((e for e in here if e.ip == address), AddrInfo(family, address, 0, "", ""))
    if chosen.family == socket.AF_INET6:
        from dispy import config

        return chosen._replace(broadcast=config.IPv6MulticastGroup)
    if ipv4_multicast:
        from dispy import config

        return chosen._replace(broadcast=config.IPv4MulticastGroup)
    return chosen


def _resolve_as(host: str, family: int) -> str:
    """Returns the first address of a host (text) in one family, ``AF_INET`` or ``AF_INET6``.

    Raises:
        UsageError: The host has none, or cannot be resolved.
    """
    try:
        return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        which = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise UsageError(
            f"host {host!r} has no {which} address: {error}",
            hint="leave socket_family out, or check the name",
        ) from error


def _own_addresses() -> list[AddrInfo]:
    """Returns the IPv4 and IPv6 addresses of this machine, sorted: first the one by which others best reach it.

    Loopback addresses come last and link-local ones before them; among equals IPv4 comes before IPv6.
    """
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            number = socket.if_nametoindex(name) if entry.family == socket.AF_INET6 else 0
            address = entry.address.partition("%")[0]
            found.append(
                AddrInfo(entry.family, address, number, entry.broadcast or "", entry.netmask or "")
            )
    found.sort(
        key=lambda e: (
            is_loopback(e.ip),
            ipaddress.ip_address(e.ip).is_link_local,
            e.family != socket.AF_INET,
        )
    )
    return found


def num_min(*values: Any) -> Any:
    """Returns the smallest number. None is left out; None if no number is left. Others raise ``UsageError``."""
    numbers = _numbers(values)
    return min(numbers) if numbers else None


def num_max(*values: Any) -> Any:
    """Returns the largest number. None is left out; None if no number is left. Others raise ``UsageError``."""
    numbers = _numbers(values)
    return max(numbers) if numbers else None


def _numbers(values: tuple[Any, ...]) -> list[int | float]:
    """Returns all values that are not None, in the order given, for ``num_min`` and ``num_max``.

    Raises:
        UsageError: A value is neither a number nor None.
    """
    for value in values:
        if value is not None and not isinstance(value, (int, float)):
            raise UsageError(f"{value!r:.100} is not a number", hint="None stands for no number")
    return [value for value in values if value is not None]
