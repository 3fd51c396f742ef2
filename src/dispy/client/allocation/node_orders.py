"""Orders of programs about nodes: arguments are checked, nodes looked up, and the work done on the engine's loop.

The functions take the session as first argument, and are called on threads of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispy.client.allocation import node_choice, placements
from dispy.client.arguments import check_flag, describe
from dispy.client.nodes import NodeNames, find_nodes, parse_nodes
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.job import DispyJob
    from dispy.client.session.state import Session

logger = logging.getLogger("dispy.client")


def discover(session: Session, nodes: Any) -> int:
    """Look for nodes now: the work of ``JobCluster.discover_nodes``."""
    session.check_open()
    found = parse_nodes(nodes)
    node_choice.check_reach(session.options.access, found)
    session.backend.warn_blind(session.options.access, found)
    session.engine.call(session.backend.discover, session.number, found)
    return 0


def allocate(session: Session, node: Any) -> int:
    """Use more nodes: the work of ``JobCluster.allocate_node``."""
    session.check_open()
    found = find_nodes(node)
    if not found:
        return -1
    node_choice.check_reach(session.options.access, found)
    session.backend.warn_blind(session.options.access, found)
    for one in found:
        session.code_for(
            tuple(one.setup_args or ())
        )  # arguments of setup that cannot be sent are refused here
    session.engine.call(node_choice.allocate_more, session, found)
    return 0


def deallocate(session: Session, node: Any) -> int:
    """Send a node no more jobs: the work of ``JobCluster.deallocate_node``."""
    return _order(session, node, "deallocate_node", node_choice.deallocate)


def close(session: Session, node: Any, terminate_pending: Any) -> int:
    """Leave a node: the work of ``JobCluster.close_node``."""
    terminate = check_flag("terminate_pending", terminate_pending)
    return _order(session, node, "close_node", node_choice.leave, terminate)


def set_up_again(
    session: Session, node: Any, terminate_pending: Any, setup_args: tuple[Any, ...] | None
) -> int:
    """Set a node up anew: the work of ``JobCluster.resetup_node``."""
    terminate = check_flag("terminate_pending", terminate_pending)
    if setup_args is not None:
        if not isinstance(setup_args, tuple):
            raise UsageError(
                f"setup_args must be a tuple, not {describe(setup_args)}",
                hint="setup_args=(value,) for one argument",
            )
        session.code_for(setup_args)
    return _order(session, node, "resetup_node", node_choice.set_up_again, terminate, setup_args)


def _order(session: Session, node: Any, what: str, act: Callable[..., None], *arguments: Any) -> int:
    """Call a function about a node on the engine's loop, and wait for it.

    Args:
        session: The cluster.
        node: The node as the program names it: ``DispyNode``, address or host name.
        what: Name of the public method, for the warning.
        act: Called with the session, the node's identity and ``arguments``.
        arguments: Further arguments of ``act``.

    Returns:
        0; -1, with a warning, if the cluster does not use the node: then ``act`` is not called.
    """
    session.check_open()
    names = NodeNames(node, session.known_nodes)

    def order() -> int:
        found = placements.find(session, names)
        if found is None:
            return -1
        act(session, found, *arguments)
        return 0

    result = session.engine.call(order)
    if result:
        _warn(session, what, names)
    return result


def _warn(session: Session, what: str, names: NodeNames) -> None:
    """Log that a cluster does not use a node that a program has named in a call of ``what``."""
    logger.warning("%s: node %s is not in use by cluster %s", what, names.text, session.name)


def set_cpus(session: Session, node: Any, cpus: Any) -> int:
    """Limit the CPUs of a node: the work of ``JobCluster.set_node_cpus``."""
    session.check_open()
    names = NodeNames(node, session.known_nodes)
    if isinstance(cpus, bool) or not isinstance(cpus, int):
        raise UsageError(
            f"cpus must be a number of CPUs, not {describe(cpus)}", hint="negative: all but so many"
        )
    used = session.engine.call(node_choice.set_cpus, session, names, cpus)
    if used < 0:
        _warn(session, "set_node_cpus", names)
    return used


def jobs(session: Session, node: Any, from_node: Any) -> list[DispyJob] | int:
    """Returns the jobs that run on a node; -1 with a warning: the work of ``JobCluster.node_jobs``."""
    session.check_open()
    names = NodeNames(node, session.known_nodes)
    if not check_flag("from_node", from_node):
        found = session.engine.call(placements.running_jobs, session, names)
    else:
        found = placements.ask_running_jobs(session, names)
    if found is None:
        _warn(session, "node_jobs", names)
        return -1
    return found
