"""Where a secret may be used: which addresses a node may listen at with it, and which ones a program may dial.

One rule for each end, and loopback is free for both:

    secret                           listen beyond loopback   dial beyond loopback
    of this user alone               refused                  refused
    made by ``dispy secret new``     yes                      yes
    typed, weak                      if it is forced          with certificates
    typed, strong                    yes                      with certificates

The dialer proves first, so the proof goes to whoever answers: a wrong address, a server of names that lies, somebody
in between. TLS by the secret alone does not help, since it is this very proof that would tell. Random secrets stand
that; with a typed one the stranger has something to try words on, as long as he likes. Its strength makes no
difference, since a wrong estimate could not be taken back: a listener's certificate has to be believed first.

A derived key may be used where its role has business (``security.identities.may``), and until it expires.

A listener proves nothing before its peer has. Strangers can only try word after word over the network there, which a
typed secret may stand, by an estimate (``security.strength``).
"""

from __future__ import annotations

import logging
import os

from dispy.errors import UsageError
from dispy.security.identities import another_key, may
from dispy.security.keys import fault_of
from dispy.security.secrets import Secret
from dispy.system.addresses import is_loopback

logger = logging.getLogger("dispy.net")

_MAKE = (
    "make one with 'dispy secret new dispy.secret', copy that file to every machine, and give it: "
    "'dispynode --host ADDRESS --secret_file dispy.secret', JobCluster(..., secret_file='dispy.secret')"
)

BEACONS = "DISPY_BEACONS"
"""Name of the environment variable that is "off" where programs and nodes must send nothing to find each other."""

FORCE = "--force_weak_secret"
"""Option of ``dispynode`` that lets a weak secret pass."""


_FOR = {
    "user": "it is for SharedJobCluster, and with 'dispy secret derive user NAME --direct' for JobCluster, too",
    "node": "it is for 'dispynode --secret_file FILE', which then has that name",
    "scheduler": "it is for 'dispyscheduler --node_secret_file FILE', '--cluster_secret_file FILE', and JobCluster",
    "admin": "nothing takes it yet",
    "relay": "nothing takes it yet",
}
"""Advice for keys that are used where they open nothing, by role."""


def use_fault(secret: Secret, role: str, peer_role: str, now: float) -> UsageError | None:
    """Returns why a derived key is of no use here; None if it is of use, or if the secret is a master.

    Args:
        secret: The secret.
        role: Role in which it is to be used: "client", "node" or "scheduler".
        peer_role: Role of the peers.
        now: The present (seconds since the epoch).
    """
    identity = secret.keys.in_use(now).identity
    fault = "" if identity is None else fault_of(identity, now, secret.keys, role, peer_role)
    if identity is None or not fault:
        return None
    hint = another_key(identity) if may(identity, role, peer_role) else _FOR[identity.role]
    return UsageError(fault, hint=hint)


def listen_fault(secret: Secret, address: str, *, is_forced: bool) -> UsageError | None:
    """Returns why a node must not listen at an address with a secret; None if it may.

    Beyond loopback the user's own secret is of no use, and strangers may guess a weak one. The error's hint has the
    commands that make another secret and use it and, for a weak one, the option that forces it.

    Args:
        secret: Secret that clients have to prove.
        address: IP address to listen at.
        is_forced: True if the user wants a weak secret all the same.
    """
    if is_loopback(address):
        return None
    if secret.is_own:
        return _own_fault(address)
    if secret.weakness and not is_forced:
        return UsageError(
            f"the secret can be guessed by whoever reaches {address}, and who has it runs code here; "
            f"{secret.weakness}",
            hint=f"{_MAKE}; or take the risk: {FORCE}",
        )
    return None


def dial_fault(secret: Secret, address: str, *, checks_listener: bool) -> UsageError | None:
    """Returns why a program must not dial an address with a secret; None if it may.

    Beyond loopback the user's own secret is of no use, and whoever answers would get something to guess a typed one
    on, unless a certificate is checked. The error's hint has the commands that change it.

    Args:
        secret: Secret that is to be proved there.
        address: IP address to connect to; a name counts as beyond loopback.
        checks_listener: True if the listener's certificate is checked first (``Tls.checks_listener``).
    """
    if is_loopback(address):
        return None
    if secret.is_own:
        return _own_fault(address)
    if secret.is_typed and not checks_listener:
        return UsageError(
            f"{address} is beyond loopback, and the secret was typed: whoever answers there could try words until "
            "one fits",
            hint=f"use a random secret: {_MAKE}; or certificates, by which the node shows first that it is one of "
            "yours: 'dispy cert new ca', 'dispy cert new node NAME', 'dispy cert new client NAME'",
        )
    return None


def may_announce(secret: Secret) -> bool:
    """True if beacons may be made with a secret: it is a random master, and other machines can have it.

    A beacon goes to everybody on the network. One made with a typed secret would be something to try words on, and
    holders of derived keys have none in common to make beacons with. With DISPY_BEACONS=off in the environment none
    are made.
    """
    is_fit = not secret.is_own and not secret.is_typed and secret.keys.identity is None
    return is_fit and os.environ.get(BEACONS) != "off"


def warn_if_avoided(secret: Secret, address: str, *, has_certificate: bool) -> None:
    """Log a warning if programs on other machines will not dial a listener: its secret was typed, and no more.

    Args:
        secret: Secret that clients have to prove.
        address: IP address to listen at.
        has_certificate: True if the user has given a certificate for the listener.
    """
    if secret.is_typed and not has_certificate and not is_loopback(address):
        logger.warning(
            "programs on other machines do not dial %s, as the secret was typed and there is no certificate "
            "(--certfile); use one of 'dispy secret new' instead, or certificates of 'dispy cert new'",
            address,
        )


def _own_fault(address: str) -> UsageError:
    """Returns the error for the user's own secret: no peer on another machine has it, so each link would fail."""
    return UsageError(
        f"{address} is beyond this machine, where the secret of this user alone is of no use", hint=_MAKE
    )
