"""Nodes for clusters: looked for, reached, and taken as far as a cluster wants them. On the engine's loop."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy import config
from dispy.client.arguments import warn
from dispy.client.engine.private_node import PrivateNode
from dispy.client.nodes import NodeAllocate, say_blind
from dispy.client.recovery.journaling import note_node
from dispy.client.session import explain
from dispy.core import scheduling as core
from dispy.errors import DispyError, UsageError
from dispy.scheduler.link import NodeInfo, Target
from dispy.system.addresses import LOOPBACK, alike, is_loopback, own

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


def covers_loopback(item: NodeAllocate) -> bool:
    """Whether any node of this machine may be one that an element of ``nodes`` names."""
    return item.matches(LOOPBACK) or item.matches("::1")


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
            _drain(engine, other, private)


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


def _private_of(engine: Engine, info: NodeInfo) -> PrivateNode | None:
    private = engine._private.get(info.target.key)
    if private is not None and private.address == (info.target.host, info.target.port):
        private.node = info.node
        return private
    return None


# What of them is used.


def allocate(engine: Engine, cluster: Steering, info: NodeInfo) -> None:
    """Have a cluster decide whether it uses a node, and how much of it; on the loop."""
    private = _private_of(engine, info)
    is_barred = info.target.key != cluster._secret.key or info.node in cluster._set_aside
    if private is not None:
        is_barred |= not cluster._wants_private or cluster._number in private.drained
    cpus, allocation = (0, None) if is_barred else cluster._allocated(info)
    if allocation is None:
        logger.debug(
            "cluster %s does not use node %s: %s",
            cluster.name,
            info.name,
            explain.why_unused(cluster, info),
        )
        _give_up(engine, cluster, info)
        return
    placement = cluster._placement(info.node)
    if placement is not None and placement.status is not core.Status.LEFT:
        engine.service.handle(core.Allocate(cluster._number, info.node, cpus))
        cluster._on_node_changed(info)
        return
    try:
        code = cluster._code_for(allocation, cluster._setup_args.get(info.node))
    except UsageError as error:
        # ``allocate`` has chosen other arguments than those that the cluster was made with.
        _refuse(engine, cluster, info, error)
        return
    note_node(engine, cluster, info, private is not None)
    wanted = core.Allocate(cluster._number, info.node, cpus, code=code)
    if allocation.depends:
        engine.files.call(_use_with_files, [(engine, cluster, info, wanted, list(allocation.depends))])
    else:
        _use_noted(engine, cluster, info, wanted)


def _refuse(engine: Engine, cluster: Steering, info: NodeInfo, error: DispyError) -> None:
    """What a cluster wants on a node cannot be sent there."""
    logger.error("node %s is not used: %s", info.name, error)
    cluster._failures[info.name] = str(error)
    _give_up(engine, cluster, info)


def _give_up(engine: Engine, cluster: Steering, info: NodeInfo) -> None:
    """A node that was to be used again is not."""
    placement = cluster._placement(info.node)
    if placement is not None and placement.status is core.Status.LEFT:
        engine.service.handle(core.Allocate(cluster._number, info.node, 0))


def _use_with_files(
    engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate, depends: list[Any]
) -> None:
    """Look at files that are for one node only. On the thread that reads them."""
    try:
        wanted.files = cluster._files_for(depends)
    except DispyError as error:
        engine.post(_refuse, engine, cluster, info, error)
        return
    engine.post(_use_noted, engine, cluster, info, wanted)


def _use_noted(engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate) -> None:
    if cluster._journal is None:
        _use(engine, cluster, info, wanted)
    else:
        # Not before it is written: whoever recovers the jobs has to know all who may have one.
        cluster._journal.after_note(partial(_use, engine, cluster, info, wanted))


def _use(engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate) -> None:
    if info.node in cluster._set_aside:
        wanted.cpus = 0  # meanwhile
    try:
        wanted.files = cluster._with_sent(info.target, wanted.files)
    except UsageError as error:
        _refuse(engine, cluster, info, error)
        return
    engine.service.handle(wanted)
    private = _private_of(engine, info)
    if private is not None:
        _drain(engine, cluster, private)


def _drain(engine: Engine, cluster: Steering, private: PrivateNode) -> None:
    """Our own node takes nothing new while another node of this machine is there."""
    if private.node is None or cluster._secret.key != private.secret.key or not cluster._wants_private:
        return
    is_draining = private.is_draining and cluster._has_other_node(private.node)
    if is_draining == (cluster._number in private.drained):
        return
    if is_draining:
        private.drained.add(cluster._number)
        engine.service.handle(core.Allocate(cluster._number, private.node, 0, is_draining=True))
    else:
        private.drained.discard(cluster._number)
        for info in engine.service.nodes():
            if info.node == private.node:
                allocate(engine, cluster, info)
