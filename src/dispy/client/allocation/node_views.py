"""The ``DispyNode`` objects in which a program sees the nodes of its cluster: made, kept up to date, and told of.

A node has one ``DispyNode`` per cluster: in ``dispy_nodes`` while the cluster uses the node, in ``past_nodes``
afterwards, and the same object again if the node comes back. Each change is told to ``cluster_status``.

The functions take the cluster as first argument, and are called on the engine's loop, except ``last``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dispy.client.nodes import DispyNode, DispyNodeAvailInfo
from dispy.client.session.missing_files import explain

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")


def on_usable(session: Session, info: NodeInfo, is_usable: bool, reason: str) -> None:
    """Take the backend's report that a node became usable for the cluster, or ceased to be, and tell the program.

    The program is told ``DispyNode.Initialized`` or, of a node that it knows, ``DispyNode.Closed``. A node that could
    not be used from the beginning is shown among the past ones, with the reason.
    """
    shown = session.dispy_nodes.get(info.node)
    if is_usable:
        if session.faults.on_usable(info, reason):
            logger.warning("cluster %s on node %s: %s", session.name, info.name, reason)
        if shown is None:
            logger.info("cluster %s uses node %s", session.name, info.name)
            shown = session.dispy_nodes[info.node] = _show(session, info)
        _show_cpus(session, shown, info)
        session.tell_maps()
        session.tell(DispyNode.Initialized, shown, None)
        return
    why = explain(reason, session.shipped.base, session.options.files, info.ip_addr)
    if why:
        session.faults.on_failure(info.name, why)
        if session.on_unusable is not None:
            session.engine.callbacks.call(session.on_unusable, [(why,)])
        short = why.removeprefix(f"node {info.name}: ")
        if not info.is_gone:  # a lost node is logged once for all clusters
            logger.warning("cluster %s cannot use node %s: %s", session.name, info.name, short)
        if shown is None:
            # It was never used. ``status()`` shows it all the same, with the reason.
            shown = session.dispy_nodes[info.node] = _show(session, info)
    if shown is not None:
        logger.info("cluster %s does not use node %s any more", session.name, info.name)
        refresh(session)  # now: the byte counts are those of the link, which may be gone later
        del session.dispy_nodes[info.node]
        shown.cpus = 0
        shown.busy = 0
        shown.reason = why
        shown.touch()
        session.past_nodes.append(shown)
        session.tell_maps()
        session.tell(DispyNode.Closed, shown, None)


def on_changed(session: Session, info: NodeInfo) -> None:
    """Show how many CPUs of a node the cluster uses now, and why not more; tell ``cluster_status`` of a change.

    Nothing happens if the cluster does not use the node.
    """
    shown = session.dispy_nodes.get(info.node)
    if shown is None:
        return
    before = (shown.cpus, shown.avail_cpus, shown.reason)
    _show_cpus(session, shown, info)
    if before != (shown.cpus, shown.avail_cpus, shown.reason):
        session.tell_maps()
        session.tell(DispyNode.AvailInfo, shown, None)


def on_available(session: Session, info: NodeInfo) -> None:
    """Show which resources a node has to spare (CPU, memory, disk, swap), and tell ``cluster_status`` of it.

    Nothing happens if the cluster does not use the node.
    """
    shown = session.dispy_nodes.get(info.node)
    if shown is not None:
        shown.avail_info = avail_info(info)
        shown.touch()
        session.tell(DispyNode.AvailInfo, shown, None)


def _show(session: Session, info: NodeInfo) -> DispyNode:
    """Returns the ``DispyNode`` of a node: the object from ``past_nodes`` if the node comes back, else a new one.

    A node that comes back keeps its counts of jobs; its object is removed from ``past_nodes``.
    """
    for shown in session.past_nodes:
        if shown.node_id == info.node:
            session.past_nodes.remove(shown)
            return shown
    return DispyNode(info.ip_addr, info.name, info.cpus, bytes(info.node), info.port)


def _show_cpus(session: Session, shown: DispyNode, info: NodeInfo) -> None:
    """Set what a ``DispyNode`` shows: CPUs used by the cluster, CPUs and spare resources of the node, ``reason``."""
    view = session.views.view(session.number).get(info.node)
    if view is None:
        return  # it is gone, and that is told next
    most = info.cpus if view.node_cpus_max is None else view.node_cpus_max
    shown.cpus = min(view.cpus_max, info.cpus, most)
    shown.avail_cpus = info.cpus
    shown.avail_info = avail_info(info)
    shown.reason = view.shortage
    shown.touch()


def last(session: Session) -> list[DispyNode]:
    """Returns all nodes that the cluster has used, past ones first, as they were last refreshed; on any thread."""
    return [*session.past_nodes, *session.dispy_nodes.values()]


def current(session: Session) -> list[DispyNode]:
    """Returns all nodes of a cluster as they are now; of a closed one as they were last. On any thread."""
    return last(session) if session.is_closed else session.engine.call(refresh, session)


def refresh(session: Session) -> list[DispyNode]:
    """Bring byte counts, offered CPUs, spare resources and numbers of running jobs of the nodes in use up to date.

    Returns:
        All nodes that the cluster has used, past ones first; then those that still wait for files.
    """
    views = session.views.view(session.number)
    for info in session.views.nodes(session.number):
        shown = session.dispy_nodes.get(info.node)
        if shown is not None:
            shown.tx, shown.rx = info.bytes_sent, info.bytes_received
            shown.avail_cpus = info.cpus
            shown.avail_info = avail_info(info)
            view = views.get(info.node)
            shown.busy = 0 if view is None else min(view.assigned, max(shown.cpus, view.started))
    return [*last(session), *_receiving(session)]


def _receiving(session: Session) -> list[DispyNode]:
    """Returns nodes that are not in use yet because they wait for files, with the progress in words as ``reason``.

    New ``DispyNode`` objects at each call, with 0 ``cpus`` and without identity: ``close_node`` does not find them.
    """
    found = []
    views = session.views.view(session.number)
    for info in session.views.nodes(session.number):
        view = views.get(info.node)
        if view is None or not view.progress or info.node in session.dispy_nodes:
            continue
        shown = DispyNode(info.ip_addr, info.name, 0)
        shown.avail_cpus = info.cpus
        shown.tx, shown.rx = info.bytes_sent, info.bytes_received
        shown.reason = view.progress
        found.append(shown)
    return found


def avail_info(info: NodeInfo) -> DispyNodeAvailInfo | None:
    """Returns the resources that a node has to spare, as programs see them; None if the node has not told them."""
    spare = info.available
    return (
        DispyNodeAvailInfo(spare.cpu, spare.memory, spare.disk, spare.swap) if spare is not None else None
    )
