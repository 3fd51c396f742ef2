"""Host names and addresses: resolved, checked, shown."""

from __future__ import annotations

import ipaddress
import socket

from dispy.errors import NotYetError, UsageError

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


def require_loopback(address: str, what: str) -> None:
    """Refuse what this version does not do yet.

    Raises:
        NotYetError: ``address`` is not on loopback.
    """
    if not is_loopback(address):
        raise NotYetError(
            f"{what} {address} is not on this machine's loopback; other networks are not supported yet",
            hint=f"use {LOOPBACK}",
        )
