"""The open clusters of a program, as the scheduler in its process knows them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dispy.errors import UsageError
from dispy.net.dialing import Target
from dispy.security import reach
from dispy.security.tls import DialerTls, Tls, dialer_tls

if TYPE_CHECKING:
    from dispy.client.backend.backend import Access, ClusterSpec
    from dispy.net.discovery import Listing
    from dispy.protocol.views import NodeId
    from dispy.security.keys import Keys


class OpenCluster:
    """An open cluster: what was said of it, and what its backend notes beside that.

    Attributes:
        spec: The cluster, as it was opened.
        number: Number of the cluster.
        usable: Nodes that the cluster can use now.
        listed: Last logged line (``debug``) about the nodes of this machine that were found, so that only changes are
            logged; empty before the first.
    """

    __slots__ = ("_tls", "listed", "number", "spec", "usable")

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.number = spec.compute.computation
        self.usable: set[NodeId] = set()
        self.listed = ""
        self._tls: DialerTls | None = None
        """TLS context for encrypted links to nodes; None until the first such link is dialed."""

    @property
    def keys(self) -> Keys:
        """Keys of the secret: nodes with another one are not used."""
        return self.spec.access.secret.keys

    def target(self, host: str, port: int, name: str, listing: Listing | None = None) -> Target:
        """Returns how to dial a node: Unix socket or address, key of the secret and, unless it is off, TLS.

        Args:
            host: Address of the node.
            port: Port of the node.
            name: Name that the user gave the node: its certificate must be for this name.
            listing: What the node says of itself, if it is in the list of this machine's nodes: whether it speaks
                TLS, and its Unix socket. None: it is dialed as the user has given it, and ``Access.tls`` decides.
        """
        socket = "" if listing is None else listing.socket_here()
        if self.spec.access.tls.is_used if listing is None else listing.tls:
            return Target(host, port, self.keys, name, self._make_tls, socket)
        return Target(host, port, self.keys, socket=socket)

    def _make_tls(self) -> DialerTls:
        """Returns the TLS of links to nodes, made for the first of them."""
        if self._tls is None:
            self._tls = dialer_tls(self.spec.access.tls)
        return self._tls


@cache
def private_tls() -> DialerTls:
    """Returns the TLS of links to private nodes without a Unix socket: whatever certificate, bound to the proof."""
    return dialer_tls(Tls())


def dial_fault(access: Access, target: Target) -> UsageError | None:
    """Returns why an address must not be dialed with a secret (``security.reach``); None if it may. On any thread."""
    if target.socket:
        return None  # which only this user can have made
    return reach_fault(access, target.host, is_encrypted=target.tls is not None)


def reach_fault(access: Access, host: str, *, is_encrypted: bool) -> UsageError | None:
    """Returns why a host must not be dialed with a secret over TCP (``security.reach``); None if it may."""
    checks_listener = is_encrypted and access.tls.checks_listener
    return reach.dial_fault(access.secret, host, checks_listener=checks_listener)
