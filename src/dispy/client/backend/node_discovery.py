"""Nodes for clusters: found in lists, dialed, and started. On the engine's loop, if nothing else is said.

Nodes come from four places: those of this machine that are listed in the user's state directory, those that
``nodes`` of a cluster names by address, those of other machines that answer beacons (``network_search``), and a
private node, which the program starts if a cluster may use nodes of this machine and none is listed. What a cluster
uses of a node that was reached is decided in ``client.allocation``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy import config
from dispy.client.arguments import warn
from dispy.client.backend.local_nodes import Listed
from dispy.client.backend.network_search import NetworkSearch, is_sought
from dispy.client.backend.open_clusters import OpenCluster, dial_fault, private_tls
from dispy.client.backend.private_node import PrivateNode
from dispy.client.logger import is_debugging
from dispy.client.nodes import NodeAllocate, covers_loopback, say_blind
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import DispyError
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.net.dialing import Target
from dispy.protocol.views import NodeInfo
from dispy.scheduler.tracing import set_tracing
from dispy.system.addresses import alike, is_loopback, own
from dispy.system.clock import Clock
from dispy.system.escaping import line

if TYPE_CHECKING:
    from dispy.client.backend.backend import Access, Wishes
    from dispy.net.discovery import Listing
    from dispy.scheduler.service import SchedulerService
    from dispy.security.secrets import Secret

logger = logging.getLogger("dispy.client")

DISCOVER_S = 0.2
"""Interval (seconds) of reading this machine's list of nodes, and of dialing: new nodes are in use this soon."""

RETRY_S = 2.0
"""Least seconds between two dials of the same address: a node that refused or did not answer is dialed again then."""


class Discovery:
    """The search for nodes of all open clusters.

    Args:
        service: The scheduler, which dials.
        opened: Open clusters by number; shared with the backend, which changes it.
        post: Has a function called on the loop; on any thread.
        offer: Called with a cluster and a node that it may use now.
        on_unreachable: Called with an address that must not be dialed, and the reason.
        listed: List of this machine's nodes, not read yet.
        clock: Clock by which dials are repeated.
        new_network: Makes the sockets of the search for nodes of other machines.

    Attributes:
        listed: List of this machine's nodes, as the user's state directory had it when it was last read.
    """

    def __init__(
        self,
        service: SchedulerService,
        opened: dict[int, OpenCluster],
        post: Callable[..., None],
        offer: Callable[[OpenCluster, NodeInfo], None],
        on_unreachable: Callable[[Target, Exception], None],
        listed: Listed,
        clock: Clock,
        new_network: NewNetwork = Sockets,
    ) -> None:
        self._service = service
        self._opened = opened
        self._post = post
        self._offer = offer
        self._on_unreachable = on_unreachable
        self.listed = listed
        self._clock = clock
        self._private: dict[bytes, PrivateNode] = {}
        """Nodes that this program has started for itself, at most one for each secret, by the key of the secret."""
        self._guard = threading.Lock()
        """Held to start a private node: threads that make clusters must not start two for the same secret."""
        self._network = NetworkSearch(opened, service.links.identity, self._reach, clock, new_network)
        self._tried: dict[Target, float] = {}
        """Time of the last dial (monotonic seconds), by address: the next follows ``RETRY_S`` later or on demand."""
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next ``_turn``; None before the first cluster."""

    # Beginning and end.

    def prepare(self, access: Access, wishes: Wishes) -> None:
        """Read the list of this machine's nodes for a new cluster. If none is listed start a private node it may use.

        On the thread that makes the cluster: may wait for a file server.

        Raises:
            NoNodesError: The private node cannot be started.
        """
        self.listed.read()
        if wishes.wants_private and config.LocalNode:
            self._start_private(access.secret)

    def begin(self, cluster: OpenCluster) -> None:
        """Look for nodes of a new cluster, and from then on every ``DISCOVER_S`` for those of all clusters."""
        self._network.seek(cluster)
        if self._timer is None:
            self._turn()
        else:
            self._look(cluster)

    def _turn(self) -> None:
        """Look for the nodes of all clusters, and have the list read again; again after ``DISCOVER_S``."""
        set_tracing(self._service, is_debugging())
        self._timer = asyncio.get_running_loop().call_later(DISCOVER_S, self._turn)
        self._look_for_all()
        if self._opened:
            self.listed.read_soon(self._look_for_all)

    def stop(self) -> None:
        """Look no more, and have private nodes end (SIGTERM). Does not wait; ``wait`` must follow."""
        self._network.close()
        if self._timer is not None:
            self._timer.cancel()
        for private in self._private.values():
            private.stop()

    def wait(self) -> None:
        """Wait for the ends of private nodes, and end the thread that reads the list. On a thread of the program."""
        for private in self._private.values():
            private.wait()
        self.listed.stop()

    # Looking.

    def _look_for_all(self) -> None:
        """Dial, for each cluster, the nodes that it may use and that are not linked."""
        for cluster in list(self._opened.values()):
            self._look(cluster)

    def _look(self, cluster: OpenCluster) -> None:
        """Dial the nodes that a cluster may use and that are not linked, and look after its private node.

        A private node that has ended is replaced if the cluster needs one; while another node of this machine is
        listed, the private node gets no new jobs (``drain``). Called each ``DISCOVER_S``, when the list of nodes has
        changed, for a new cluster, when a private node listens, and when the program asks for nodes (``discover``).
        """
        secret, wishes = cluster.spec.access.secret, cluster.spec.wishes
        listed = self.listed.of(secret.fingerprint())
        if self._service.links.is_traced:
            _note_listed(cluster, listed)
        for listing in listed:
            address = _address(listing, wishes.allocations)
            if address:
                self._reach(cluster, cluster.target(address, listing.port, address, listing))
        for allocation in wishes.allocations:
            if allocation.ip_addr is not None:
                port = allocation.port or config.node_port()
                is_listed = is_loopback(allocation.ip_addr) and bool(listed) and not allocation.port
                if not is_listed:
                    self._reach(cluster, cluster.target(allocation.ip_addr, port, allocation.host))
        private = self._private.get(secret.key)
        if private is not None and private.has_ended():
            self._replace_private(private, is_needed=wishes.wants_private and not listed)
            private = None
        if private is not None:
            if private.address is not None:
                host, port = private.address
                target = Target(host, port, secret.keys, tls=private_tls, socket=private.socket)
                self._reach(cluster, target)
            private.set_draining(bool(listed) or self._is_elsewhere(private))
            for other in list(self._opened.values()):
                self._drain(other, private)

    def _is_elsewhere(self, private: PrivateNode) -> bool:
        """True if another node with the secret of a private node is linked: it was found on the network."""
        links = self._service.links
        return any(
            info.node != private.node and links.target_of(info.node).keys == private.secret.keys
            for info in links.nodes()
        )

    def discover(self, cluster: OpenCluster, nodes: list[NodeAllocate]) -> None:
        """Dial all nodes that a cluster may use now, also those where that failed less than ``RETRY_S`` ago.

        Those of ``nodes`` that are named by address, and that the cluster's elements cover, are dialed first. Does
        not wait for answers.
        """
        for sought in nodes:
            address = sought.ip_addr
            if address is not None and any(a.matches(address) for a in cluster.spec.wishes.allocations):
                port = sought.port or config.node_port()
                self.reach_now(cluster, cluster.target(address, port, sought.host))
        self._tried.clear()
        self._network.seek(cluster)
        self._look(cluster)

    def end(self) -> None:
        """End the search for what no open cluster wants any more: one was closed."""
        self._network.end_unwanted()

    def reach_now(self, cluster: OpenCluster, target: Target) -> None:
        """Dial an address, unless it is linked, also if that failed less than ``RETRY_S`` ago."""
        self._tried.pop(target, None)
        self._reach(cluster, target)

    def _reach(self, cluster: OpenCluster, target: Target) -> None:
        """Have the scheduler dial an address, unless it is linked or was dialed less than ``RETRY_S`` ago.

        The answer is ``on_node_known`` or ``on_unreachable``. All dials of clusters begin here: one where the
        cluster's secret would be given away is not made, and ``on_unreachable`` is called at once.
        """
        if fault := dial_fault(cluster.spec.access, target):
            self._on_unreachable(target, fault)
            return
        if (
            target in self._service.links.by_target
            or self._clock.monotonic() - self._tried.get(target, -RETRY_S) < RETRY_S
        ):
            return
        self._tried[target] = self._clock.monotonic()
        self._service.links.reach(target)

    def forget(self, target: Target) -> None:
        """Dial an address again at the next look, as its node is lost, and seek it on the network."""
        self._tried.pop(target, None)
        self._network.seek_again(target.keys)

    def doubt(self, target: Target) -> None:
        """Leave out the listed node at an address where a process without the secret answers. Does not wait.

        The node may have died, and another program have taken its port. A node whose process can be seen stays
        listed. If the node is left out a private node is started for the clusters with its secret that may use one.
        Does nothing if no node is listed at the address.
        """

        def on_doubted() -> None:
            for cluster in list(self._opened.values()):
                if (
                    cluster.keys.overlap(target.keys)
                    and cluster.spec.wishes.wants_private
                    and config.LocalNode
                ):
                    self._start_private(cluster.spec.access.secret)

        self.listed.doubt(target.host, target.port, on_doubted)

    # The private node.

    def _start_private(self, secret: Secret) -> None:
        """Start a private node, unless one with this secret was started or a node with it is listed. On any thread.

        Does not wait until the node listens; it is dialed then.

        Raises:
            NoNodesError: The node cannot be started.
        """
        with self._guard:
            if secret.key in self._private or self.listed.of(secret.fingerprint()):
                return
            others = self.listed.count_others(secret.fingerprint())
            private = self._private[secret.key] = PrivateNode(secret, others)
        self._post(private.watch, self._on_private_ready)

    def _replace_private(self, private: PrivateNode, *, is_needed: bool) -> None:
        """Forget a private node that has ended, and start another one if that is needed."""
        # ``has_ended`` waits a while after the start: the next one may end at once as well.
        del self._private[private.secret.key]
        private.wait()
        if is_needed and config.LocalNode:
            logger.warning("the node that was started for this program has ended; starting another")
            try:
                self._start_private(private.secret)
            except DispyError as error:
                logger.error("%s", error)

    def _on_private_ready(self, private: PrivateNode) -> None:
        """Dial a private node, which listens now, for the clusters that have its secret."""
        for cluster in list(self._opened.values()):
            if cluster.keys.overlap(private.secret.keys):
                self._look(cluster)

    def private_of(self, info: NodeInfo) -> PrivateNode | None:
        """Returns the program's private node, if ``info`` describes that one; else None.

        As a side effect the node's identity is noted in ``PrivateNode.node``, by which ``drain`` finds the node.
        """
        target = self._service.links.target_of(info.node)
        private = self._private.get(target.key)
        if private is not None and private.address == (target.host, target.port):
            private.node = info.node
            return private
        return None

    def may_use(self, cluster: OpenCluster, info: NodeInfo) -> bool:
        """True if a cluster may use a node: it has the secret, and is no private node that is not for the cluster."""
        private = self.private_of(info)
        is_barred = private is not None and (
            not cluster.spec.wishes.wants_private or cluster.number in private.drained
        )
        return self._service.links.is_opened_by(info.node, cluster.keys) and not is_barred

    def on_used(self, cluster: OpenCluster, info: NodeInfo) -> None:
        """Give the private node no new jobs of a cluster that begins to use it and has another node."""
        private = self.private_of(info)
        if private is not None:
            self._drain(cluster, private)

    def _drain(self, cluster: OpenCluster, private: PrivateNode) -> None:
        """Give the private node no new jobs of a cluster that has another node; undo that when it has none any more.

        Condition: another node than the private one is listed on this machine, and the cluster uses any other node.
        Jobs that run on the private node go on.
        """
        is_its = cluster.keys.overlap(private.secret.keys) and cluster.spec.wishes.wants_private
        if private.node is None or not is_its:
            return
        is_draining = private.is_draining and any(node != private.node for node in cluster.usable)
        if is_draining == (cluster.number in private.drained):
            return
        if is_draining:
            private.drained.add(cluster.number)
            self._service.handle(core.Allocate(EMBEDDED, cluster.number, private.node, 0, is_draining=True))
        else:
            private.drained.discard(cluster.number)
            for info in self._service.links.nodes():
                if info.node == private.node:
                    self._offer(cluster, info)

    # Patterns.

    def warn_blind(self, access: Access, allocations: list[NodeAllocate], known: set[str]) -> None:
        """Warn of elements of ``nodes`` that are patterns and match no known node: they may never get a node.

        Without a random secret patterns find nodes of this machine only; those of other machines have to be named. A
        pattern that covers loopback is left out: any node of this machine may come to match it. On the thread of the
        program that gives the patterns.

        Args:
            access: How the cluster's nodes are dialed.
            allocations: The elements.
            known: Addresses of all nodes that are linked.
        """
        patterns = [
            item
            for item in allocations
            if item.ip_addr is None and not covers_loopback(item) and not is_sought(access, [item])
        ]
        listed = self.listed.of(access.secret.fingerprint()) if patterns else ()
        for item in patterns:
            is_known = any(map(item.matches, known)) or any(_address(listing, [item]) for listing in listed)
            if not is_known and not _chooses(item, allocations):
                warn(say_blind(item.host, any(map(item.matches, own()))))


def _chooses(item: NodeAllocate, allocations: list[NodeAllocate]) -> bool:
    """True if a pattern has an ``allocate`` of the user, and other elements name nodes by address.

    Such a pattern is not warned of: its ``allocate`` decides about those nodes, so it need not match one.
    """
    is_own = type(item).allocate is not NodeAllocate.allocate
    return is_own and any(other.ip_addr is not None for other in allocations)


def _note_listed(cluster: OpenCluster, listed: list[Listing]) -> None:
    """Log (``debug``) which nodes of this machine a cluster has found, and which it looks for, if that has changed.

    Args:
        cluster: Cluster that looks for nodes.
        listed: Listed nodes of this machine with the cluster's secret.
    """
    found = ", ".join(sorted(f"{item.name} at {item.host}:{item.port}" for item in listed)) or "none"
    wanted = ", ".join(f"{a.host}:{a.port}" if a.port else a.host for a in cluster.spec.wishes.allocations)
    text = (
        f"cluster {cluster.spec.name} looks for nodes={wanted}; "
        f"nodes of this machine with its secret: {found}"
    )
    if cluster.listed != text:
        cluster.listed = text
        logger.debug("%s", line(text))


def _address(listing: Listing, allocations: list[NodeAllocate]) -> str:
    """Return the address at which to dial a listed node; empty if no element of ``nodes`` covers the node.

    That is the address in the list or, for a node that listens on all addresses, another one of this machine.
    """
    wanted = [
        item
        for item in allocations
        if not item.port or (item.ip_addr is None and item.port == listing.port)
    ]
    if any(item.matches(listing.host) for item in wanted):
        return listing.host
    if listing.is_everywhere:
        for address in alike(listing.host) if wanted else ():
            if any(item.matches(address) for item in wanted):
                return address
    return ""
