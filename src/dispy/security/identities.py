"""Identities of derived keys: role, name and limits of a key that opens one role for one name. Pure.

An identity is a line of text that is part of its key, so its holder can change nothing in it:

    user:alice:key=0123456789abcdef
    user:alice:direct:serial=2:until=20270201T000000Z:key=0123456789abcdef

Its parts, in this order: role and name; ``direct``, if a user may also use nodes without a scheduler; the serial
number, if it is not 0; the first moment (UTC) at which the key is not valid any more, if there is one; and the
fingerprint of the master secret that the key was derived from, by which its holder is found.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, cast, get_args

from msgspec import Struct

Role = Literal["user", "node", "admin", "relay", "scheduler"]
"""Kinds of derived keys. A key of one role is none of another, whatever its name."""

ROLES: tuple[Role, ...] = get_args(Role)

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}"
"""Pattern of names: they stand in logs, files and command lines as they are."""

SERIAL_MAX = 9999
"""Largest serial number."""

_TEXT = re.compile(
    rf"(?P<role>{'|'.join(ROLES)}):(?P<name>{NAME})(?P<direct>:direct)?(:serial=(?P<serial>[1-9][0-9]{{0,3}}))?"
    r"(:until=(?P<until>[0-9]{8}T[0-9]{6}Z))?:key=(?P<master>[0-9a-f]{16})",
    re.ASCII,
)
_TIME = "%Y%m%dT%H%M%SZ"

TEXT_MAX = 160
"""Most characters of an identity as text: the longest one that can be made has 150."""


class Identity(Struct, frozen=True):
    """The identity of a derived key.

    Attributes:
        role: What the key opens.
        name: For whom.
        master: Fingerprint of the master secret that it was derived from (16 hexadecimal digits).
        until: First second (since the epoch) at which it is not valid any more; None: it does not expire.
        serial: Serial number: revoking a key revokes those of the same role and name with a lower one, too.
        is_direct: True for a user who may use nodes without a scheduler.
    """

    role: Role
    name: str
    master: str
    until: int | None = None
    serial: int = 0
    is_direct: bool = False

    def text(self) -> str:
        """Returns the identity as the line that is part of the key."""
        direct = ":direct" if self.is_direct else ""
        serial = f":serial={self.serial}" if self.serial else ""
        until = "" if self.until is None else f":until={datetime.fromtimestamp(self.until, UTC):{_TIME}}"
        return f"{self.role}:{self.name}{direct}{serial}{until}:key={self.master}"

    def __str__(self) -> str:
        """Returns role and name, for people: "user alice"."""
        return f"{self.role} {self.name}"


class Revoked(Struct, frozen=True):
    """Derived keys that are not taken any more: those of a role and name up to a serial number.

    Attributes:
        serial: Last serial number that is revoked; None: all are.
    """

    role: Role
    name: str
    serial: int | None = None

    def covers(self, identity: Identity) -> bool:
        """True if a key is one of those."""
        is_named = (self.role, self.name) == (identity.role, identity.name)
        return is_named and (self.serial is None or identity.serial <= self.serial)


def parse(text: str) -> Identity | None:
    """Returns the identity that a text is; None if it is none, or not written as ``Identity.text`` writes it."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    until = None
    if match["until"] is not None:
        try:
            until = int(datetime.fromisoformat(match["until"]).timestamp())
        except ValueError:
            return None
    role = cast("Role", match["role"])
    if match["direct"] and role != "user":
        return None
    serial = int(match["serial"] or 0)
    identity = Identity(role, match["name"], match["master"], until, serial, match["direct"] is not None)
    return identity if identity.text() == text else None


def when(seconds: int) -> str:
    """Returns a moment (seconds since the epoch) as people read it: "2027-02-01 00:00:00 UTC"."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S UTC}"


def may(identity: Identity, role: str, peer_role: str) -> bool:
    """True if the holder of a derived key may be in a role towards a peer in another one.

    The only places where derived keys count: users come to schedulers as clients; those that are ``direct``, and
    schedulers, come to nodes as clients; nodes and schedulers answer clients. Keys of the roles admin and relay open
    nothing yet. Who dials makes no difference.

    Args:
        identity: Identity of the key that the holder has proved, or is about to prove.
        role: Role of the holder on this connection: "client", "node" or "scheduler".
        peer_role: Role of its peer.
    """
    match role, peer_role:
        case "client", "scheduler":
            return identity.role == "user"
        case "client", "node":
            return identity.role == "scheduler" or identity.is_direct
        case ("node", "client") | ("scheduler", "client"):
            return identity.role == role
    return False


def another_key(identity: Identity) -> str:
    """Returns the advice for whoever has a derived key that opens nothing any more."""
    return f"ask for a new one where the secret is: 'dispy secret derive {identity}'"
