"""The search for nodes of other machines by beacons, for the clusters of a program. On the engine's loop.

A secret is sought while a cluster that has it may use nodes of any address beyond loopback (``nodes=None``, or a
pattern). What answers is dialed, no more: the handshake decides. Only random secrets are sought: of a typed one a
beacon would give everybody something to try words on, and this user's own is of no use on other machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy import config
from dispy.client.nodes import NodeAllocate, covers_beyond
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.net.beacons.seekers import Seekers
from dispy.net.dialing import Target
from dispy.protocol.beacon import Beacon
from dispy.security.reach import may_announce
from dispy.system.clock import Clock

if TYPE_CHECKING:
    from dispy.client.backend.backend import Access, Wishes
    from dispy.client.backend.open_clusters import OpenCluster
    from dispy.security.keys import Keys


def is_sought(access: Access, allocations: list[NodeAllocate]) -> bool:
    """True if nodes of other machines are sought for a cluster with this secret and these elements of ``nodes``."""
    return may_announce(access.secret) and any(map(covers_beyond, allocations))


class NetworkSearch:
    """The search for all open clusters.

    Args:
        opened: Open clusters by number; shared with the backend, which changes it.
        identity: 16 bytes that name the program's run.
        reach: Dials a node for a cluster.
        clock: Source of the time.
        new_network: Makes the sockets.
    """

    def __init__(
        self,
        opened: dict[int, OpenCluster],
        identity: bytes,
        reach: Callable[[OpenCluster, Target], None],
        clock: Clock,
        new_network: NewNetwork = Sockets,
    ) -> None:
        self._opened = opened
        self._identity = identity
        self._reach = reach
        self._clock = clock
        self._new_network = new_network
        self._seekers: Seekers | None = None
        """Sockets of the search; None while nothing is sought."""
        self._uses_multicast = False

    def seek(self, cluster: OpenCluster) -> None:
        """Seek nodes for a cluster, if it may use them: at once, and from then on."""
        spec = cluster.spec
        if not is_sought(spec.access, spec.wishes.allocations):
            return
        if self._seekers is None or (spec.wishes.uses_multicast and not self._uses_multicast):
            self.close()
            self._uses_multicast = spec.wishes.uses_multicast
            self._seekers = Seekers(
                self._identity, (config.client_port(), config.node_port()), self._on_found, self._clock,
                uses_multicast=self._uses_multicast, new_network=self._new_network,
            )  # fmt: skip
            for other in self._opened.values():
                if is_sought(other.spec.access, other.spec.wishes.allocations):
                    self._seekers.seek(other.keys.masters())
        else:
            self._seekers.seek(cluster.keys.masters())

    def seek_again(self, keys: Keys) -> None:
        """Seek at once, by the keys of a secret: a node with it was lost."""
        for cluster in self._opened.values():
            if cluster.keys == keys and is_sought(cluster.spec.access, cluster.spec.wishes.allocations):
                self.seek(cluster)
                return

    def end_unwanted(self) -> None:
        """End the search for what no open cluster wants any more."""
        if self._seekers is None:
            return
        wanted = {
            key
            for cluster in self._opened.values()
            if is_sought(cluster.spec.access, cluster.spec.wishes.allocations)
            for key in cluster.keys.masters()
        }
        self._seekers.keep_only(wanted)
        if not wanted:
            self.close()

    def close(self) -> None:
        """End the search."""
        if self._seekers is not None:
            self._seekers.close()
            self._seekers = None

    def _on_found(self, key: bytes, found: Beacon, zone: int) -> None:
        """Dial a node that has said where it is, for the clusters that may use it there."""
        host = f"{found.address}%{zone}" if zone else found.address
        for cluster in list(self._opened.values()):
            if key in cluster.keys.masters() and _is_wanted(cluster.spec.wishes, found):
                self._reach(cluster, cluster.target(host, found.port, host))


def _is_wanted(wishes: Wishes, found: Beacon) -> bool:
    """True if an element of ``nodes`` is a pattern that covers a node at its address and port."""
    return any(
        item.ip_addr is None and item.port in (None, 0, found.port) and item.matches(found.address)
        for item in wishes.allocations
    )
