"""The ``DispyNode`` objects in which a program sees the nodes of its cluster: made, kept up to date, and told of.

A node has one ``DispyNode`` per cluster: in ``_dispy_nodes`` while the cluster uses the node, in ``_past_nodes``
afterwards, and the same object again if the node comes back. Each change is told to ``cluster_status``.

The functions take the cluster as first argument, and are called on the engine's loop, except ``last``.
"""

from __future__ import annotations

import logging

from dispy.client.allocation import placements
from dispy.client.nodes import DispyNode, DispyNodeAvailInfo
from dispy.client.session.missing_files import explain
from dispy.client.session.state import ClusterState
from dispy.core.scheduling import TellNode
from dispy.core.scheduling.explain import why_full
from dispy.core.scheduling.ids import EMBEDDED
from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")


def on_usable(cluster: ClusterState, action: TellNode, info: NodeInfo) -> None:
    """Take the scheduler's report that a node became usable for the cluster, or ceased to be, and tell the program.

    The program is told ``DispyNode.Initialized`` or, of a node that it knows, ``DispyNode.Closed``. A node that could
    not be used from the beginning is shown among the past ones, with the reason.
    """
    shown = cluster._dispy_nodes.get(action.node)
    if action.is_usable:
        cluster._unreachable.pop(cluster._engine.service.target_of(info.node), None)
        cluster._failures.pop(info.name, None)
        if action.reason and action.reason not in cluster._warned:
            cluster._warned.add(action.reason)
            logger.warning("cluster %s on node %s: %s", cluster.name, info.name, action.reason)
        if shown is None:
            logger.info("cluster %s uses node %s", cluster.name, info.name)
            shown = cluster._dispy_nodes[action.node] = _show(cluster, info)
        _show_cpus(cluster, shown, info)
        cluster._tell_maps()
        cluster._tell(DispyNode.Initialized, shown, None)
        return
    why = explain(action.reason, cluster, info.ip_addr)
    if why:
        cluster._failures[info.name] = why
        reason = why.removeprefix(f"node {info.name}: ")
        if not info.is_gone:  # a lost node is logged once for all clusters
            logger.warning("cluster %s cannot use node %s: %s", cluster.name, info.name, reason)
        if shown is None:
            # It was never used. ``status()`` shows it all the same, with the reason.
            shown = cluster._dispy_nodes[action.node] = _show(cluster, info)
    if shown is not None:
        logger.info("cluster %s does not use node %s any more", cluster.name, info.name)
        refresh(cluster)  # now: the byte counts are those of the link, which may be gone later
        del cluster._dispy_nodes[action.node]
        shown.cpus = 0
        shown.busy = 0
        shown.reason = why
        shown._touch()
        cluster._past_nodes.append(shown)
        cluster._tell_maps()
        cluster._tell(DispyNode.Closed, shown, None)


def on_changed(cluster: ClusterState, info: NodeInfo) -> None:
    """Show how many CPUs of a node the cluster uses now, and why not more; tell ``cluster_status`` of a change.

    Nothing happens if the cluster does not use the node.
    """
    shown = cluster._dispy_nodes.get(info.node)
    if shown is None:
        return
    before = (shown.cpus, shown.avail_cpus, shown.reason)
    _show_cpus(cluster, shown, info)
    if before != (shown.cpus, shown.avail_cpus, shown.reason):
        cluster._tell_maps()
        cluster._tell(DispyNode.AvailInfo, shown, None)


def on_available(cluster: ClusterState, info: NodeInfo) -> None:
    """Show which resources a node has to spare (CPU, memory, disk, swap), and tell ``cluster_status`` of it.

    Nothing happens if the cluster does not use the node.
    """
    shown = cluster._dispy_nodes.get(info.node)
    if shown is not None:
        shown.avail_info = avail_info(info)
        shown._touch()
        cluster._tell(DispyNode.AvailInfo, shown, None)


def _show(cluster: ClusterState, info: NodeInfo) -> DispyNode:
    """Returns the ``DispyNode`` of a node: the object from ``_past_nodes`` if the node comes back, else a new one.

    A node that comes back keeps its counts of jobs; its object is removed from ``_past_nodes``.
    """
    for shown in cluster._past_nodes:
        if shown._node == info.node:
            cluster._past_nodes.remove(shown)
            return shown
    shown = DispyNode(info.ip_addr, info.name, info.cpus)
    shown._node = bytes(info.node)
    shown._port = info.port
    return shown


def _show_cpus(cluster: ClusterState, shown: DispyNode, info: NodeInfo) -> None:
    """Set what a ``DispyNode`` shows: CPUs that this cluster uses, CPUs and spare resources of the node, ``reason``.

    The computation must be on the node (asserted).
    """
    placement = placements.placement(cluster, info.node)
    assert placement is not None
    most = placement.node.cpus_max
    shown.cpus = min(placement.cpus_max, info.cpus, info.cpus if most is None else most)
    shown.avail_cpus = info.cpus
    shown.avail_info = avail_info(info)
    shown.reason = placement.shortage
    shown._touch()


def last(cluster: ClusterState) -> list[DispyNode]:
    """Returns all nodes that the cluster has used, past ones first, as they were last refreshed; on any thread."""
    return [*cluster._past_nodes, *cluster._dispy_nodes.values()]


def refresh(cluster: ClusterState) -> list[DispyNode]:
    """Bring byte counts, offered CPUs, spare resources and numbers of running jobs of the nodes in use up to date.

    Returns:
        All nodes that the cluster has used, past ones first; then those that still wait for files.
    """
    state = cluster._engine.service.state.computations.get((EMBEDDED, cluster._number))
    for info in cluster._engine.service.nodes():
        shown = cluster._dispy_nodes.get(info.node)
        if shown is not None:
            shown.tx, shown.rx = info.bytes_sent, info.bytes_received
            shown.avail_cpus = info.cpus
            shown.avail_info = avail_info(info)
            placement = state.placements.get(info.node) if state is not None else None
            shown.busy = 0
            if placement is not None:
                shown.busy = min(len(placement.assigned), max(shown.cpus, len(placement.started)))
    return [*last(cluster), *_receiving(cluster)]


def _receiving(cluster: ClusterState) -> list[DispyNode]:
    """Returns nodes that are not in use yet because they wait for files, with the progress in words as ``reason``.

    New ``DispyNode`` objects at each call, with 0 ``cpus`` and without identity: ``close_node`` does not find them.
    """
    found = []
    for info in cluster._engine.service.nodes():
        placement = placements.placement(cluster, info.node)
        if placement is None or placement.progress is None or info.node in cluster._dispy_nodes:
            continue
        shown = DispyNode(info.ip_addr, info.name, 0)
        shown.avail_cpus = info.cpus
        shown.tx, shown.rx = info.bytes_sent, info.bytes_received
        shown.reason = why_full(placement)
        found.append(shown)
    return found


def avail_info(info: NodeInfo) -> DispyNodeAvailInfo | None:
    """Returns the resources that a node has to spare, as programs see them; None if the node has not told them."""
    spare = info.available
    return (
        DispyNodeAvailInfo(spare.cpu, spare.memory, spare.disk, spare.swap) if spare is not None else None
    )
