"""Nodes for clusters: found in lists, dialed, and started. On the engine's loop, if nothing else is said.

Nodes come from three places: those of this machine that are listed in the user's state directory, those that
``nodes`` of a cluster names by address, and a private node, which the program starts if a cluster may use nodes of
this machine and none is listed. What a cluster uses of a node that was reached is decided in ``client.allocation``.
"""

from __future__ import annotations

import logging
import time
from functools import cache, partial
from typing import TYPE_CHECKING

from dispy import config
from dispy.client.allocation.node_use import drain
from dispy.client.arguments import warn
from dispy.client.engine.local_nodes import covers_loopback
from dispy.client.engine.private_node import PrivateNode
from dispy.client.nodes import NodeAllocate, say_blind
from dispy.client.session import explain
from dispy.errors import DispyError, UsageError
from dispy.scheduler.link import Target
from dispy.security import reach
from dispy.security.tls import DialerTls, Tls, dialer_tls
from dispy.system.addresses import alike, is_loopback, own

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.engine.engine import Engine
    from dispy.client.session.state import ClusterState
    from dispy.net.discovery import Listing
    from dispy.security.secrets import Secret

logger = logging.getLogger("dispy.client")

RETRY_S = 2.0
"""Least seconds between two dials of the same address: a node that refused or did not answer is dialed again then."""


def prepare(engine: Engine, cluster: Steering) -> None:
    """Read the list of this machine's nodes for a new cluster. If none is listed start a private node it may use.

    Patterns that match no node are warned of. On the thread that makes the cluster: may wait for a file server.

    Raises:
        NoNodesError: The private node cannot be started.
    """
    engine.listed.read()
    if cluster._wants_private and config.LocalNode:
        start_private_node(engine, cluster._secret)
    warn_blind(engine, cluster, cluster._allocations)


def warn_blind(engine: Engine, cluster: Steering, allocations: list[NodeAllocate]) -> None:
    """Warn of elements of ``nodes`` that are patterns and match no known node: they may never get a node.

    Patterns find nodes of this machine only; those of other machines have to be named. A pattern that covers loopback
    is left out: any node of this machine may come to match it. On the thread of the program that gives the patterns.
    """
    patterns = [item for item in allocations if item.ip_addr is None and not covers_loopback(item)]
    if not patterns:
        return
    listed = engine.listed.of(cluster._secret.fingerprint())
    known = {address for info in engine.call(engine.service.nodes) for address in info.addresses()}
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


def look(engine: Engine, cluster: Steering) -> None:
    """Dial the nodes that a cluster may use and that are not linked, and look after the cluster's private node.

    A private node that has ended is replaced if the cluster needs one; while another node of this machine is listed,
    the private node gets no new jobs (``drain``). Called on the loop: each ``DISCOVER_S``, when the list of nodes has
    changed, for a new cluster, when a private node listens, and when the program asks for nodes (``discover``).
    """
    secret = cluster._secret
    listed = engine.listed.of(secret.fingerprint())
    if engine.service.is_traced:
        explain.note_listed(cluster, listed)
    for listing in listed:
        address = _address(listing, cluster._allocations)
        if address:
            _reach(engine, cluster, cluster._target(address, listing.port, address, listing))
    for allocation in cluster._allocations:
        if allocation.ip_addr is not None:
            port = allocation.port or config.node_port()
            is_listed = is_loopback(allocation.ip_addr) and bool(listed) and not allocation.port
            if not is_listed:
                _reach(engine, cluster, cluster._target(allocation.ip_addr, port, allocation.host))
    private = engine._private.get(secret.key)
    if private is not None and private.has_ended():
        # ``has_ended`` waits a while after the start: the next one may end at once as well.
        del engine._private[secret.key]
        private.wait()
        if cluster._wants_private and config.LocalNode and not listed:
            logger.warning("the node that was started for this program has ended; starting another")
            try:
                start_private_node(engine, secret)
            except DispyError as error:
                logger.error("%s", error)
        private = None
    if private is not None:
        if private.address is not None:
            host, port = private.address
            _reach(engine, cluster, Target(host, port, secret.key, tls=_private_tls, socket=private.socket))
        private.set_draining(bool(listed))
        for other in engine.clusters.values():
            drain(engine, other, private)


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


def _reach(engine: Engine, cluster: ClusterState, target: Target) -> None:
    """Have the scheduler dial an address, unless it is linked or was dialed less than ``RETRY_S`` ago.

    The engine hears ``on_node_known`` or ``on_unreachable`` then. All dials of clusters begin here: one where the
    cluster's secret would be given away is not made, and the engine hears ``on_unreachable`` at once.
    """
    if fault := dial_fault(cluster, target):
        engine.on_unreachable(target, fault)
        return
    if engine.service.is_linked(target) or time.monotonic() - engine._tried.get(target, -RETRY_S) < RETRY_S:
        return
    engine._tried[target] = time.monotonic()
    engine.service.reach(target)


def dial_fault(cluster: ClusterState, target: Target) -> UsageError | None:
    """Returns why a cluster must not dial an address (``security.reach``); None if it may. On any thread."""
    if target.socket:
        return None  # which only this user can have made
    checks_listener = target.tls is not None and cluster._tls.checks_listener
    return reach.dial_fault(cluster._secret, target.host, checks_listener=checks_listener)


def reach_now(engine: Engine, cluster: ClusterState, target: Target) -> None:
    """Dial an address, unless it is linked, also if that failed less than ``RETRY_S`` ago. On the loop."""
    engine._tried.pop(target, None)
    _reach(engine, cluster, target)


def discover(engine: Engine, cluster: Steering) -> None:
    """Dial all nodes that a cluster may use now, also those where that failed less than ``RETRY_S`` ago. On the loop.

    Does not wait for answers.
    """
    engine._tried.clear()
    look(engine, cluster)


def start_private_node(engine: Engine, secret: Secret) -> None:
    """Start a private node, unless one with this secret was started or a node with it is listed. On any thread.

    Does not wait until the node listens; it is dialed then.

    Raises:
        NoNodesError: The node cannot be started.
    """
    with engine._private_guard:
        if secret.key in engine._private or engine.listed.of(secret.fingerprint()):
            return
        others = engine.listed.count_others(secret.fingerprint())
        private = engine._private[secret.key] = PrivateNode(secret, others)
    engine.post(private.watch, partial(_on_private_ready, engine))


def doubt(engine: Engine, target: Target) -> None:
    """Leave out the listed node at an address where a process without the secret answers. On the loop; does not wait.

    The node may have died, and another program have taken its port. A node whose process can be seen stays listed. If
    the node is left out a private node is started for the clusters with its secret that may use one. Does nothing if
    no node is listed at the address.
    """

    def on_doubted() -> None:
        for cluster in list(engine.clusters.values()):
            if cluster._secret.key == target.key and cluster._wants_private and config.LocalNode:
                start_private_node(engine, cluster._secret)

    engine.listed.doubt(target.host, target.port, on_doubted)


def _on_private_ready(engine: Engine, private: PrivateNode) -> None:
    """Dial a private node, which listens now, for the clusters that have its secret. On the loop."""
    for cluster in engine.clusters.values():
        if cluster._secret.key == private.secret.key:
            look(engine, cluster)


@cache
def _private_tls() -> DialerTls:
    """Returns the TLS of links to private nodes without a Unix socket: whatever certificate, bound to the proof."""
    return dialer_tls(Tls())
