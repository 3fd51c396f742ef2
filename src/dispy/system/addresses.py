"""Host names and addresses: resolved, checked, shown."""

from __future__ import annotations

import ipaddress
import socket

from dispy.errors import UsageError

LOOPBACK = "127.0.0.1"


def resolve(host: str) -> str:
    """The address of a host, IPv4 preferred.

    Raises:
        UsageError: There is none.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"host {host!r} cannot be resolved: {error}", hint="check its spelling") from error
    addresses = sorted({str(entry[4][0]) for entry in found}, key=lambda address: (":" in address, address))
    return addresses[0]


def is_loopback(address: str) -> bool:
    """Whether an address cannot be reached from other machines."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def local(address: str) -> str:
    """Where programs of this machine reach a listener at ``address``."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(address, address)


def own(family: int = 0) -> list[str]:
    """Addresses of this machine, as its interfaces come; those that only this machine or this wire can use last.

    Args:
        family: Of ``socket``; 0: all.
    """
    import psutil

    found = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in ((family,) if family else (socket.AF_INET, socket.AF_INET6))
    ]
    return sorted(found, key=lambda text: (is_loopback(text), ipaddress.ip_address(text).is_link_local))


def alike(address: str) -> list[str]:
    """Addresses of this machine of the same family as another one."""
    return own(socket.AF_INET6 if ":" in address else socket.AF_INET)


def outward(address: str) -> str:
    """The address by which others know a listener: one of this machine's own if it listens on all of them."""
    if address not in ("0.0.0.0", "::"):
        return address
    found = alike(address)
    return found[0] if found else local(address)
