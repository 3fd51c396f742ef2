"""Beacons: datagrams by which programs and nodes with the same secret find each other on a network.

A program that wants nodes sends ``SEEK``; nodes answer ``HERE``, and say it unasked when they start. Layout:

    offset  bytes  field
         0      4  "dspy"
         4      1  version: 1
         5      1  kind: 1 SEEK, 2 HERE
         6      8  tag: the secret and the hour, so that beacons of others are dropped without work
        14     12  nonce: random
        26      1  length of the address: 4 or 16
        27     16  address of the sender, padded with zeros
        43      2  port: UDP port of a program, TCP port of a node
        45     16  incarnation of the sender
        61     12  echo: in an answer the nonce of the SEEK; else zeros
        73      2  flags, zeros
        75     16  HMAC-SHA-256 of all before it, its first bytes

Nothing else is said before both sides have proved the secret: no name, no user, no version. Both kinds have one
length, so nobody makes a node send more than it was sent. Whoever watches cannot follow a secret from one hour to the
next, nor find it, as only random secrets are used for beacons.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
from enum import IntEnum

from msgspec import Struct

SIZE = 91
"""Bytes of every beacon."""

NONCE_SIZE = 12
"""Bytes of a nonce."""

NO_ECHO = bytes(NONCE_SIZE)
"""Echo of a beacon that answers none."""

HOUR_S = 3600
"""Seconds (since the epoch) after which a tag changes."""

_MAGIC = b"dspy"
_VERSION = 1
_LAYOUT = struct.Struct(">4sBB8s12sB16sH16s12sH")
_MAC_SIZE = 16


class Kind(IntEnum):
    """The two things that a beacon can say."""

    SEEK = 1
    """The sender looks for nodes; they answer to its address and UDP port."""
    HERE = 2
    """The sender is a node, which listens for TCP connections at its address and port."""


class Beacon(Struct, frozen=True):
    """A beacon.

    Attributes:
        kind: What it says.
        address: IP address of the sender, as text.
        port: UDP port of a program, TCP port of a node.
        incarnation: 16 bytes that name this run of the sender.
        nonce: 12 random bytes.
        echo: Nonce of the SEEK that this one answers; ``NO_ECHO``: none.
    """

    kind: Kind
    address: str
    port: int
    incarnation: bytes
    nonce: bytes
    echo: bytes = NO_ECHO


def discovery_key(key: bytes) -> bytes:
    """Returns the key (32 bytes) of the beacons of a secret, by the key of the secret, which it does not tell."""
    return hmac.digest(key, b"dispy discovery", "sha256")


def tag(key: bytes, hour: int) -> bytes:
    """Returns the 8 bytes by which the beacons of a secret are known in one hour.

    Args:
        key: Key of the beacons (``discovery_key``).
        hour: Hours since the epoch.
    """
    return hmac.digest(key, b"dispy tag" + struct.pack(">q", hour), "sha256")[:8]


def tags(key: bytes, hour: int) -> list[bytes]:
    """Returns the tags that are taken in an hour: also those of the hours around it, as clocks differ."""
    return [tag(key, each) for each in (hour - 1, hour, hour + 1)]


def seal(key: bytes, hour: int, beacon: Beacon) -> bytes:
    """Returns a beacon as bytes.

    Args:
        key: Key of the beacons.
        hour: Hours since the epoch.
        beacon: What it says.
    """
    packed = ipaddress.ip_address(beacon.address).packed
    body = _LAYOUT.pack(
        _MAGIC,
        _VERSION,
        beacon.kind,
        tag(key, hour),
        beacon.nonce,
        len(packed),
        packed,
        beacon.port,
        beacon.incarnation,
        beacon.echo,
        0,
    )
    return body + hmac.digest(key, body, "sha256")[:_MAC_SIZE]


def tag_of(data: bytes) -> bytes:
    """Returns the tag in a datagram; empty if it cannot be a beacon of this version."""
    if len(data) != SIZE or not data.startswith(_MAGIC) or data[4] != _VERSION:
        return b""
    return data[6:14]


def read(key: bytes, data: bytes) -> Beacon | None:
    """Returns the beacon in a datagram; None if it was not made with this key.

    Whoever knows the key may say what he likes, so the fields are checked after the MAC. The tag was looked up by the
    caller (``tag_of``).

    Args:
        key: Key of the beacons.
        data: The datagram.
    """
    if len(data) != SIZE:
        return None
    body, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
    if not hmac.compare_digest(hmac.digest(key, body, "sha256")[:_MAC_SIZE], mac):
        return None
    _, version, kind, _, nonce, length, packed, port, incarnation, echo, flags = _LAYOUT.unpack(body)
    if (
        version != _VERSION
        or kind not in (Kind.SEEK, Kind.HERE)
        or length not in (4, 16)
        or not port
        or flags
    ):
        return None
    if any(packed[length:]):
        return None
    address = str(ipaddress.ip_address(packed[:length]))
    return Beacon(Kind(kind), address, port, incarnation, nonce, echo)
