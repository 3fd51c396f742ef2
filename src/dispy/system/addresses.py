"""Host names and addresses: resolving, loopback, and the addresses of this machine."""

from __future__ import annotations

import ipaddress
import socket

from dispy.errors import UsageError

LOOPBACK = "127.0.0.1"
"""IPv4 address by which programs reach listeners of their own machine; other machines cannot connect to it."""


def resolve(host: str) -> str:
    """Returns the IP address of a host as text, IPv4 preferred. May block for seconds, to ask a name server.

    Of several addresses of one family the alphabetically first is returned. An address is returned as it is.

    Args:
        host: A name or an address.

    Raises:
        UsageError: The host has no address.
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
    """True if an address is a loopback address, which other machines cannot reach. False for names."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def can_be_dialed(address: str, name: str) -> bool:
    """True if a text is an IP address, and another one can be the name in its certificate; empty: there is no name.

    For texts of others. Sockets and OpenSSL have exceptions of their own for what is neither, and a text that is no
    address would be looked up by name.
    """
    try:
        ipaddress.ip_address(address)
        encoded = address.encode("idna") + name.encode("idna")  # as sockets and OpenSSL do
    except ValueError:
        return False
    return b"\0" not in encoded and not name.startswith(".")


def local(address: str) -> str:
    """Returns the address by which programs of this machine reach a listener at ``address``.

    That is the loopback address if it listens on all addresses ("0.0.0.0" or "::"), else ``address``.
    """
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(address, address)


def own(family: int = 0) -> list[str]:
    """Returns the IP addresses of this machine as texts, in the order of its interfaces.

    Link-local addresses come after others, and loopback addresses last.

    Args:
        family: ``socket.AF_INET`` or ``socket.AF_INET6``; 0: both.
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
    """Returns the addresses of this machine of the family (IPv4 or IPv6) of ``address``, in the order of ``own``.

    A listener on all addresses ("0.0.0.0" or "::") is reached by these.
    """
    return own(socket.AF_INET6 if ":" in address else socket.AF_INET)


def outward(address: str) -> str:
    """Returns the address by which other machines reach a listener at ``address``.

    If it listens on all addresses, that is the first one of this machine; the loopback address if there is none.
    """
    if address not in ("0.0.0.0", "::"):
        return address
    found = alike(address)
    return found[0] if found else local(address)
