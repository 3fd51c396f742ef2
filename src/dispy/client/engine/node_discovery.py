"""Nodes for clusters: looked for, reached, and taken as far as a cluster wants them. On the engine's loop."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from dispy import config
from dispy.client.arguments import warn
from dispy.client.engine.allocation import drain
from dispy.client.engine.local_nodes import covers_loopback
from dispy.client.engine.private_node import PrivateNode
from dispy.client.nodes import NodeAllocate, say_blind
from dispy.client.session import explain
from dispy.errors import DispyError
from dispy.scheduler.link import Target
from dispy.system.addresses import alike, is_loopback, own

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.engine.engine import Engine
    from dispy.net.discovery import Listing
    from dispy.security.secrets import Secret

logger = logging.getLogger("dispy.client")

RETRY_S = 2.0
"""A target that refused or did not answer is tried again so often."""


def prepare(engine: Engine, cluster: Steering) -> None:
    """See which nodes of this machine there are before a cluster begins, and start one if it needs that.

    On the thread that makes the cluster.
    """
    engine.listed.read()
    if cluster._wants_private and config.LocalNode:
        start_private_node(engine, cluster._secret)
    warn_blind(engine, cluster, cluster._allocations)


def warn_blind(engine: Engine, cluster: Steering, allocations: list[NodeAllocate]) -> None:
    """Warn of patterns that no node matches which is known: nobody is looked for on other machines.

    On the thread that gives them. Not of one that covers loopback, where any node of this machine may come to be.
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
    """Whether an object of the program's own class is asked about nodes that others name."""
    is_own = type(item).allocate is not NodeAllocate.allocate
    return is_own and any(other.ip_addr is not None for other in allocations)


def look(engine: Engine, cluster: Steering) -> None:
    """Reach out for the nodes that a cluster may use."""
    secret = cluster._secret
    listed = engine.listed.of(secret.fingerprint())
    if engine.service.is_traced:
        explain.note_listed(cluster, listed)
    for listing in listed:
        address = _address(listing, cluster._allocations)
        if address:
            _reach(engine, cluster._target(address, listing.port, address, listing.tls))
    for allocation in cluster._allocations:
        if allocation.ip_addr is not None:
            port = allocation.port or config.node_port()
            is_listed = is_loopback(allocation.ip_addr) and bool(listed) and not allocation.port
            if not is_listed:
                _reach(engine, cluster._target(allocation.ip_addr, port, allocation.host))
    private = engine._private.get(secret.key)
    if private is not None and private.has_ended():
        # Once in a while, should it end at once again.
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
            _reach(engine, Target(*private.address, secret.key))
        private.set_draining(bool(listed))
        for other in engine.clusters.values():
            drain(engine, other, private)


def _address(listing: Listing, allocations: list[NodeAllocate]) -> str:
    """The address at which some element of ``nodes`` covers a node of this machine; empty if none does."""
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


def _reach(engine: Engine, target: Target) -> None:
    if engine.service.is_linked(target) or time.monotonic() - engine._tried.get(target, -RETRY_S) < RETRY_S:
        return
    engine._tried[target] = time.monotonic()
    engine.service.reach(target)


def reach_now(engine: Engine, target: Target) -> None:
    """Connect to a node, also if that has just failed; on the loop."""
    engine._tried.pop(target, None)
    _reach(engine, target)


def discover(engine: Engine, cluster: Steering) -> None:
    """Look now; on the loop."""
    engine._tried.clear()
    look(engine, cluster)


def start_private_node(engine: Engine, secret: Secret) -> None:
    """Start a node of our own, unless that is done or a node of this user is listed; on any thread."""
    with engine._private_guard:
        if secret.key in engine._private or engine.listed.of(secret.fingerprint()):
            return
        others = engine.listed.count_others(secret.fingerprint())
        private = engine._private[secret.key] = PrivateNode(secret, others)
    engine.post(private.watch, partial(_on_private_ready, engine))


def doubt(engine: Engine, target: Target) -> None:
    """Somebody who does not have the secret is where a node may be listed that cannot be seen; on the loop."""

    def on_doubted() -> None:
        for cluster in list(engine.clusters.values()):
            if cluster._secret.key == target.key and cluster._wants_private and config.LocalNode:
                start_private_node(engine, cluster._secret)

    engine.listed.doubt(target.host, target.port, on_doubted)


def _on_private_ready(engine: Engine, private: PrivateNode) -> None:
    """A node of our own listens."""
    for cluster in engine.clusters.values():
        if cluster._secret.key == private.secret.key:
            look(engine, cluster)
