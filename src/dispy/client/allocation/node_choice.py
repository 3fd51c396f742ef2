"""Which nodes a cluster uses, and how many CPUs of each: ``allocate`` is asked; nodes are given up or set up anew.

Two attributes of a session decide. ``wishes.allocations`` lists the elements of ``nodes``, most specific first: the
first that wants a node gets it. ``set_aside`` has the nodes that the program has given up by ``deallocate_node`` or
``close_node``: they are not used, whatever elements want, until ``allocate_node`` names them or ``resetup_node`` is
called for them.

An ``allocate`` of the user is called on a thread of its own, one call after the other, and its answer is taken on the
loop. Plain elements are asked at once.

The functions take the session as first argument. Unless a function says otherwise it is called on the engine's loop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispy.client.allocation import node_use, node_views, placements
from dispy.client.allocation.node_use import Choice
from dispy.client.backend.open_clusters import reach_fault
from dispy.client.nodes import NodeAllocate, NodeNames, sort_nodes
from dispy.client.session.state import SetAside
from dispy.protocol.views import PlacementStatus
from dispy.security.tls import warn_if_open
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.client.backend.backend import Access
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeId, NodeInfo, PlacementView

logger = logging.getLogger("dispy.client")

CPUS_MAX = 1 << 31
"""Largest limit that ``set_node_cpus`` sets (CPUs), as messages hold no larger one: more CPUs than any node has."""

NOTHING = Choice(0)
"""The choice of a cluster that does not want a node."""


# Finding more nodes.


def check_reach(access: Access, wanted: list[NodeAllocate]) -> None:
    """Check that nodes may be reached with a cluster's secret, and log a warning if a link will not be encrypted.

    On any thread.

    Args:
        access: How the cluster's nodes are dialed; nothing is checked if a shared scheduler dials them.
        wanted: Elements of ``nodes``. Patterns are skipped: nodes that they find are checked when they are dialed.

    Raises:
        UsageError: A node is on another machine, and the secret is only this user's own; or it was typed, and there
            are no certificates.
    """
    for allocation in wanted if not access.is_shared else ():
        if allocation.ip_addr is not None:
            if fault := reach_fault(access, allocation.ip_addr, is_encrypted=access.tls.is_used):
                raise fault
            warn_if_open(access.tls, allocation.ip_addr)


def allocate_more(session: Session, found: list[NodeAllocate]) -> None:
    """Add elements to ``nodes``, and decide anew for all linked nodes whether and with how many CPUs they are used.

    The work of ``allocate_node``. A mere name that another element covers is not added. A node that was set aside is
    used again only if one of the new elements wants it, or names it while it is away or offers no CPUs. A node that
    the cluster is leaving is left first, and used again after that.

    Args:
        session: The cluster.
        found: The new elements, most specific first.
    """
    kept = [known for known in session.wishes.allocations if known not in found]
    new = [item for item in found if not (item.is_plain and any(known.covers(item) for known in kept))]
    session.wishes.allocations = sort_nodes(new + kept)
    there = {info.node: info for info in session.views.nodes(session.number)}
    for node, aside in list(session.set_aside.items()):
        info = there.get(node, aside.info)
        is_asked = node in there and there[node].cpus > 0
        if info is not None and not is_asked and any(_names(item, info) for item in found):
            # The node is away, or offers no CPUs now: how many are wanted is asked once it does (``on_cpus``).
            del session.set_aside[node]
    for info in there.values():
        if info.node in session.set_aside:
            _choose(session, found, info, _take_back)
        else:
            _use_again(session, info)
    session.backend.discover(session.number, [])


def _names(item: NodeAllocate, info: NodeInfo) -> bool:
    """True if an element of ``nodes`` names a node, by one of its addresses and its port."""
    return item.port in (None, info.port) and any(map(item.matches, info.addresses()))


def _take_back(session: Session, info: NodeInfo, choice: Choice) -> None:
    """Use a node again that was set aside, if a new element of ``nodes`` wants it."""
    if choice.cpus:
        session.set_aside.pop(info.node, None)
        _use_again(session, info)


def _use_again(session: Session, info: NodeInfo) -> None:
    """Decide anew about a node; one that the cluster is leaving is left first."""
    view = session.views.view(session.number).get(info.node)
    if view is not None and view.status is PlacementStatus.LEAVING:
        session.backend.vacate(session.number, info.node, returns=True)
    else:
        consider(session, info)


# Asking how many CPUs of a node to use.


def consider(session: Session, info: NodeInfo) -> None:
    """Decide whether a cluster uses a node that it may use, and how many CPUs of it; then use it, or give it up."""
    if info.node in session.set_aside:
        node_use.leave_unused(session, info)
        return
    session.offers[info.node] = info.cpus
    _choose(session, session.wishes.allocations, info, _on_chosen)


def _on_chosen(session: Session, info: NodeInfo, choice: Choice) -> None:
    """Use a node as the elements of ``nodes`` want it, unless it was set aside meanwhile."""
    if not choice.cpus or info.node in session.set_aside:
        node_use.leave_unused(session, info)
    else:
        node_use.use(session, info, choice)


def on_cpus(session: Session, info: NodeInfo) -> None:
    """Decide anew how many CPUs of a node a cluster uses, as the node may offer another number."""
    view = session.views.view(session.number).get(info.node)
    if view is None or (info.node not in session.set_aside and _lacks_cpus(view)):
        consider(session, info)
    elif view.is_open and info.cpus > 0 and session.offers.get(info.node) != info.cpus:
        session.offers[info.node] = info.cpus
        _choose(session, session.wishes.allocations, info, _on_other_cpus)
    node_views.on_changed(session, info)


def _lacks_cpus(view: PlacementView) -> bool:
    """True if a cluster uses no CPUs of a node although it wants to: there were none when it was decided."""
    is_loaded = view.status in (PlacementStatus.LOADING, PlacementStatus.READY)
    return view.status is PlacementStatus.LEFT or (is_loaded and not view.cpus_max)


def _on_other_cpus(session: Session, info: NodeInfo, choice: Choice) -> None:
    """Change the number of CPUs of a node in use; a node that is not wanted any more stays as it is."""
    view = session.views.view(session.number).get(info.node)
    if choice.cpus and view is not None and view.is_open:
        session.backend.allocate(session.number, info.node, choice.cpus)
        node_views.on_changed(session, info)


def _choose(
    session: Session,
    allocations: list[NodeAllocate],
    info: NodeInfo,
    then: Callable[[Session, NodeInfo, Choice], None],
) -> None:
    """Ask elements of ``nodes`` how many CPUs of a node are wanted, and call ``then`` with their choice, on the loop.

    At once if all are plain; otherwise the elements are asked on the thread for that, and the answer comes later. A
    node that is gone by then, or a cluster that is closed, is forgotten.
    """
    if all(type(item).allocate is NodeAllocate.allocate for item in allocations):
        choice, failure = ask(session, allocations, info)
        session.faults.on_failure(info.name, failure)
        then(session, info, choice)
        return

    def answer(choice: Choice, failure: str) -> None:
        if not session.is_closed and not info.is_gone:
            session.faults.on_failure(info.name, failure)
            then(session, info, choice)

    def choose() -> None:
        session.engine.post(answer, *ask(session, allocations, info))

    session.engine.chooser.call(choose, [()])


def ask(session: Session, allocations: list[NodeAllocate], info: NodeInfo) -> tuple[Choice, str]:
    """Call ``allocate`` of elements of ``nodes``, in order, until one wants CPUs of a node. On any thread.

    Args:
        session: The cluster; ``allocate`` gets the object that the program has of it.
        allocations: The elements.
        info: The node.

    Returns:
        The choice: CPUs, at most those that the node offers, with what the element has for this node as it is now,
        as the next call may set it for another one. ``NOTHING`` if no element wants the node, or one has raised an
        error. And why the node is not used, in words; empty if it is, or no element has said.
    """
    failure = ""
    for allocation in allocations:
        if allocation.port is not None and allocation.port != info.port:
            continue
        address = next(filter(allocation.matches, info.addresses()), info.ip_addr)
        try:
            cpus: Any = allocation.allocate(
                session.cluster,
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
            return NOTHING, f"allocate failed: {of_error(error)}"
        if cpus > 0:
            cpus = allocation.limit_cpus(
                info.node, min(cpus, info.cpus), lambda: [known.node for known in session.known_nodes()]
            )
        if cpus > 0:
            depends = list(allocation.depends or ())
            return Choice(min(cpus, info.cpus), allocation.setup_args, depends), ""
        if allocation.matches(address):
            failure = f"allocate returned {cpus}, so it is not to be used"
    return NOTHING, failure


def set_cpus(session: Session, names: NodeNames, cpus: int) -> int:
    """Limit the CPUs of a node that all clusters of this program use together, until the node's process ends.

    Args:
        session: The cluster that is asked; it must use the node.
        names: The node.
        cpus: The limit; a negative number leaves that many of the offered CPUs alone. If the node offers fewer CPUs
            than are to be left alone, nothing changes.

    Returns:
        CPUs that are used now; -1 if the node is not in use by the cluster.
    """
    found = placements.find(session, names)
    info = placements.info(session, found) if found is not None else None
    if info is None or found is None:
        return -1
    wanted = cpus if cpus >= 0 else info.cpus + cpus
    if wanted >= 0:
        session.backend.limit(found, min(wanted, CPUS_MAX))
    limit = session.views.view(session.number)[found].node_cpus_max
    return info.cpus if limit is None else min(info.cpus, limit)


# Giving nodes up, and setting them up anew.


def deallocate(session: Session, node: NodeId) -> None:
    """Send a node no more jobs of the cluster. Jobs that run there go on, and the computation stays loaded.

    Jobs that wait there go to other nodes; those of ``submit_node`` are cancelled. ``allocate_node`` undoes it.
    """
    session.set_aside[node] = SetAside("deallocate_node", placements.info(session, node))
    session.backend.allocate(session.number, node, 0, is_draining=True)
    info = placements.info(session, node)
    if info is not None:
        node_views.on_changed(session, info)


def leave(session: Session, node: NodeId, terminate: bool) -> None:
    """Have the cluster leave a node once its running jobs there have ended; ``terminate`` cancels these jobs.

    Jobs that have not started go to other nodes; those of ``submit_node`` are cancelled. The node is set aside until
    ``allocate_node`` names it.
    """
    session.set_aside[node] = SetAside("close_node", placements.info(session, node))
    session.backend.vacate(session.number, node, terminate=terminate)


def set_up_again(
    session: Session, node: NodeId, terminate: bool, setup_args: tuple[Any, ...] | None
) -> None:
    """Have the cluster leave a node and come back to it, which runs ``cleanup`` and then ``setup``.

    Args:
        session: The cluster.
        node: The node; it is not set aside any more.
        terminate: True to cancel the jobs that run there; False: they end first.
        setup_args: Arguments of ``setup`` from then on; None: those of the element of ``nodes``.
    """
    session.set_aside.pop(node, None)
    if setup_args is None:
        session.setup_args.pop(node, None)
    else:
        session.setup_args[node] = setup_args
    session.backend.vacate(session.number, node, terminate=terminate, returns=True)
