"""Which nodes a cluster uses, and how many CPUs of each: ``allocate`` is asked; nodes are given up or set up anew.

Two attributes of a cluster decide. ``_allocations`` lists the elements of ``nodes``, most specific first: the first
that wants a node gets it. ``_set_aside`` has the nodes that the program has given up by ``deallocate_node`` or
``close_node``: they are not used, whatever elements want, until ``allocate_node`` names them or ``resetup_node`` is
called for them.

The functions take the cluster as first argument. Unless a function says otherwise it is called on the engine's loop.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, cast

from dispy import config
from dispy.client.allocation import node_views, placements
from dispy.client.allocation.node_use import allocate
from dispy.client.engine import node_discovery
from dispy.client.nodes import NodeAllocate, NodeNames, sort_nodes
from dispy.client.session.state import ClusterState
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import NodeId
from dispy.protocol.views import NodeInfo
from dispy.security.tls import warn_if_open
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering

logger = logging.getLogger("dispy.client")

CPUS_MAX = 1 << 31
"""Largest limit that ``set_node_cpus`` sets (CPUs), as messages hold no larger one: more CPUs than any node has."""


# Finding more nodes.


def check_reach(cluster: ClusterState, wanted: list[NodeAllocate]) -> None:
    """Check that nodes may be reached with the cluster's secret, and log a warning if a link will not be encrypted.

    On any thread.

    Args:
        cluster: The cluster.
        wanted: Elements of ``nodes``. Patterns are skipped: they match nodes of this machine only.

    Raises:
        UsageError: A node is on another machine, and the secret is only this user's own; or it was typed, and there
            are no certificates.
    """
    for allocation in wanted:
        if allocation.ip_addr is not None:
            target = cluster._target(allocation.ip_addr, allocation.port or 0, allocation.host)
            if fault := node_discovery.dial_fault(cluster, target):
                raise fault
            warn_if_open(cluster._tls, allocation.ip_addr)


def discover(cluster: Steering, wanted: list[NodeAllocate]) -> None:
    """Dial the nodes that ``discover_nodes`` names, then all others that the cluster may use and that are not linked.

    Of those named only nodes that the cluster's ``nodes`` cover are dialed. Does not wait for answers.

    Args:
        cluster: The cluster.
        wanted: What ``discover_nodes`` was given, parsed; patterns are skipped here.
    """
    for sought in wanted:
        address = sought.ip_addr
        if address is not None and any(known.matches(address) for known in cluster._allocations):
            port = sought.port or config.node_port()
            node_discovery.reach_now(cluster._engine, cluster, cluster._target(address, port, sought.host))
    node_discovery.discover(cluster._engine, cluster)


def allocate_more(cluster: Steering, found: list[NodeAllocate]) -> None:
    """Add elements to ``nodes``, and decide anew for all linked nodes whether and with how many CPUs they are used.

    The work of ``allocate_node``. A mere name that another element covers is not added. A node that was set aside is
    used again only if one of the new elements wants it. A node that the cluster is leaving is left first, and used
    again after that.

    Args:
        cluster: The cluster.
        found: The new elements, most specific first.
    """
    kept = [known for known in cluster._allocations if known not in found]
    new = [item for item in found if not (item.is_plain and any(known.covers(item) for known in kept))]
    cluster._allocations = sort_nodes(new + kept)
    for info in cluster._engine.service.nodes():
        if cluster._engine.service.target_of(info.node).key != cluster._secret.key:
            continue
        if info.node in cluster._set_aside:
            if ask(cluster, found, info)[1] is None:
                continue
            del cluster._set_aside[info.node]
        placement = placements.placement(cluster, info.node)
        if placement is not None and placement.status is core.Status.LEAVING:
            cluster._engine.service.handle(
                core.Vacate(core.EMBEDDED, cluster._number, info.node, returns=True)
            )
        else:
            allocate(cluster._engine, cluster, info)
    node_discovery.discover(cluster._engine, cluster)


# Asking how many CPUs of a node to use.


def allocated(cluster: ClusterState, info: NodeInfo) -> tuple[int, NodeAllocate | None]:
    """Returns how many CPUs of a node the cluster uses, and the first element of ``nodes`` that wants it.

    (0, None) if no element wants the node. The number of CPUs that the node offers is noted in ``_offers``, so that
    ``allocate`` is asked again when that number changes.
    """
    cluster._offers[info.node] = info.cpus
    return ask(cluster, cluster._allocations, info)


def ask(
    cluster: ClusterState, allocations: list[NodeAllocate], info: NodeInfo
) -> tuple[int, NodeAllocate | None]:
    """Call ``allocate`` of elements of ``nodes``, in order, until one wants CPUs of a node.

    Args:
        cluster: The cluster, which ``allocate`` gets as argument.
        allocations: The elements.
        info: The node.

    Returns:
        CPUs, at most those that the node offers, and the element; (0, None) if none wants the node, or ``allocate``
        has raised an error. ``_failures`` says then why the node is not used.
    """
    for allocation in allocations:
        if allocation.port is not None and allocation.port != info.port:
            continue
        address = next(filter(allocation.matches, info.addresses()), info.ip_addr)
        try:
            cpus = allocation.allocate(
                cast(Any, cluster),
                address,
                info.name,
                info.cpus,
                node_views.avail_info(info),
                info.platform,
            )
            if not isinstance(cpus, (int, float)):
                raise TypeError(f"allocate must return a number of CPUs, not {cpus!r}")
            cpus = math.ceil(cpus)  # half of three is two, as it was in dispy 4
        except Exception as error:
            logger.exception("allocate for node %s failed; the node is not used", info.name)
            cluster._failures[info.name] = f"allocate failed: {of_error(error)}"
            return 0, None
        if cpus > 0:
            cluster._failures.pop(info.name, None)
            return min(cpus, info.cpus), allocation
        if allocation.matches(address):
            cluster._failures[info.name] = f"allocate returned {cpus}, so it is not to be used"
    return 0, None


def set_cpus(cluster: ClusterState, names: NodeNames, cpus: int) -> int:
    """Limit the CPUs of a node that all clusters of this program use together, until the node's process ends.

    Args:
        cluster: The cluster that is asked; it must use the node.
        names: The node.
        cpus: The limit; a negative number leaves that many of the offered CPUs alone. If the node offers fewer CPUs
            than are to be left alone, nothing changes.

    Returns:
        CPUs that are used now; -1 if the node is not in use by the cluster.
    """
    found = placements.find(cluster, names)
    info = placements.info(cluster, found) if found is not None else None
    if info is None or found is None:
        return -1
    known = cluster._engine.service.state.nodes[found]
    wanted = cpus if cpus >= 0 else info.cpus + cpus
    if wanted >= 0:
        cluster._engine.service.handle(core.LimitNode(found, min(wanted, CPUS_MAX)))
        for other in cluster._engine.clusters.values():
            node_views.on_changed(other, info)
    return min(info.cpus, info.cpus if known.cpus_max is None else known.cpus_max)


# Giving nodes up, and setting them up anew.


def deallocate(cluster: ClusterState, node: NodeId) -> None:
    """Send a node no more jobs of the cluster. Jobs that run there go on, and the computation stays loaded.

    Jobs that wait there go to other nodes; those of ``submit_node`` are cancelled. ``allocate_node`` undoes it.
    """
    cluster._set_aside[node] = "deallocate_node"
    cluster._engine.service.handle(core.Allocate(core.EMBEDDED, cluster._number, node, 0, is_draining=True))
    info = placements.info(cluster, node)
    if info is not None:
        node_views.on_changed(cluster, info)


def leave(cluster: ClusterState, node: NodeId, terminate: bool) -> None:
    """Have the cluster leave a node once its running jobs there have ended; ``terminate`` cancels these jobs.

    Jobs that have not started go to other nodes; those of ``submit_node`` are cancelled. The node is set aside until
    ``allocate_node`` names it.
    """
    cluster._set_aside[node] = "close_node"
    cluster._engine.service.handle(core.Vacate(core.EMBEDDED, cluster._number, node, terminate))


def set_up_again(
    cluster: ClusterState, node: NodeId, terminate: bool, setup_args: tuple[Any, ...] | None
) -> None:
    """Have the cluster leave a node and come back to it, which runs ``cleanup`` and then ``setup``.

    Args:
        cluster: The cluster.
        node: The node; it is not set aside any more.
        terminate: True to cancel the jobs that run there; False: they end first.
        setup_args: Arguments of ``setup`` from then on; None: those of the element of ``nodes``.
    """
    cluster._set_aside.pop(node, None)
    if setup_args is None:
        cluster._setup_args.pop(node, None)
    else:
        cluster._setup_args[node] = setup_args
    cluster._engine.service.handle(
        core.Vacate(core.EMBEDDED, cluster._number, node, terminate, returns=True)
    )


def has_other_node(cluster: ClusterState, private: NodeId) -> bool:
    """True if the cluster uses another node than ``private``, the one that this program has started for itself.

    Then the private node gets no new jobs while another node of this machine is listed (``node_use.drain``).
    """
    return any(node != private for node in cluster._dispy_nodes)
