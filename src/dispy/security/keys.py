"""Keys of a secret, and which of them two peers have in common. Pure: text and bytes in, bytes out.

A *master* key opens everything. A *derived* key opens one role for one name (``security.identities``):

    derived key = HMAC-SHA-256(master key, "dispy 5 derived key" | identity)

Whoever has a master makes each derived key when a peer says its identity: nothing is stored, nothing is signed.
Whoever has a derived key finds neither the master nor another one. So two peers have a key in common in these cases:

    one side has       the other side has                   key in common
    a master           the same master                      the master
    a master           a key derived from it                the derived key
    a derived key      the very same one                    that one: a program and the node that it started
    a derived key      another derived key                  none

A secret may have several lines, to change it without a break (key ring): the first one is used by who dials, all are
accepted by who listens.
"""

from __future__ import annotations

import hmac

from msgspec import Struct

from dispy.security import identities
from dispy.security.identities import Identity, Revoked

SIZE = 32
"""Bytes of a key."""

_DERIVED = b"dispy 5 derived key\0"
_FINGERPRINT = b"dispy fingerprint"


class Key(Struct, frozen=True):
    """One key.

    Attributes:
        key: 32 bytes.
        fingerprint: 16 hexadecimal digits by which two masters are compared without showing anything else of them; of
            a derived key that of its master.
        identity: What a derived key opens; None: this is a master.
        is_typed: True if people made the master up: nothing is derived from it, as whoever has a derived key could
            try words until one gives that key.
    """

    key: bytes
    fingerprint: str
    identity: Identity | None = None
    is_typed: bool = False

    def __repr__(self) -> str:
        """Returns what may stand in a log: not the key."""
        return f"Key({self.identity or 'master'}, {self.fingerprint})"


class Keys(Struct, frozen=True):
    """The keys of one secret: all masters, or all derived for the same role and name.

    Attributes:
        lines: The keys, at least one; the first one is used, all are accepted.
        revoked: Derived keys that are not taken, although their master is here.
    """

    lines: tuple[Key, ...]
    revoked: tuple[Revoked, ...] = ()

    @property
    def first(self) -> Key:
        """The key that is used."""
        return self.lines[0]

    @property
    def identity(self) -> Identity | None:
        """Identity of the first key; None if it is a master."""
        return self.lines[0].identity

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the master that is used, or from which the key that is used was derived."""
        return self.lines[0].fingerprint

    def masters(self) -> list[bytes]:
        """Returns the masters (32 bytes each), the one that is used first; none of derived keys."""
        return [line.key for line in self.lines if line.identity is None]

    def in_use(self, now: float) -> Key:
        """Returns the first key that has not expired at ``now`` (seconds since the epoch); the first of all if all
        have: the caller must look."""
        valid = (
            line for line in self.lines if line.identity is None or not has_expired(line.identity, now)
        )
        return next(valid, self.first)

    def said(self) -> list[str]:
        """Returns the identities of derived keys, as a listener says them to all who dial; none of masters."""
        return [line.identity.text() for line in self.lines if line.identity is not None]

    def is_revoked(self, identity: Identity) -> bool:
        """True if a derived key is not taken any more."""
        return any(each.covers(identity) for each in self.revoked)

    def overlap(self, other: Keys) -> bool:
        """True if two secrets have a key in common: what lets the one in lets the other in, too."""
        return any(line in other.lines for line in self.lines)

    def shared_with(self, identity: Identity) -> bytes | None:
        """Returns the key in common with the holder of a derived key; None: there is none."""
        for line in self.lines:
            if line.identity == identity:
                return line.key
            if line.identity is None and not line.is_typed and line.fingerprint == identity.master:
                return derive(line.key, identity.text())
        return None


def master(key: bytes, *, is_typed: bool = False) -> Key:
    """Returns a master key (32 bytes) with its fingerprint."""
    return Key(key, hmac.digest(key, _FINGERPRINT, "sha256")[:8].hex(), is_typed=is_typed)


def alone(key: bytes) -> Keys:
    """Returns the keys of a secret that is one random master (32 bytes)."""
    return Keys((master(key),))


def derive(key: bytes, identity: str) -> bytes:
    """Returns the key (32 bytes) derived from a master for an identity, as text."""
    return hmac.digest(key, _DERIVED + identity.encode(), "sha256")


def derived(origin: Key, identity: Identity) -> Key:
    """Returns the key derived from a master for an identity, whose ``master`` must be the master's fingerprint."""
    return Key(derive(origin.key, identity.text()), origin.fingerprint, identity)


def has_expired(identity: Identity, now: float) -> bool:
    """True if a derived key is not valid any more at ``now`` (seconds since the epoch)."""
    return identity.until is not None and now >= identity.until


def fault_of(identity: Identity, now: float, keys: Keys, role: str, peer_role: str) -> str:
    """Returns why the holder of a derived key must be refused although it has the key; empty if it must not.

    Args:
        identity: Identity of the key.
        now: The present (seconds since the epoch).
        keys: Keys of who decides: they say which keys are revoked.
        role: Role of the holder on this connection.
        peer_role: Role of who decides.
    """
    if keys.is_revoked(identity):
        return f"the key of {identity} is revoked"
    if identity.until is not None and has_expired(identity, now):
        return f"the key of {identity} has expired at {identities.when(identity.until)}"
    if not identities.may(identity, role, peer_role):
        return f"the key of {identity} opens no {peer_role} to a {role}"
    return ""
