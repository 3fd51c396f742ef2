"""The public methods of a cluster about its nodes: found, used, given up, set up anew, limited, and asked.

Each checks its arguments on the program's thread; the work is done by ``client.allocation`` on the engine's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dispy.client.allocation import node_choice, node_views, placements
from dispy.client.arguments import check_flag, describe
from dispy.client.engine import node_discovery
from dispy.client.job import DispyJob
from dispy.client.nodes import DispyNode, NodeAllocate, NodeNames, find_nodes, parse_nodes
from dispy.client.session.state import ClusterState
from dispy.core.scheduling import Placement, TellNode
from dispy.core.scheduling.ids import NodeId
from dispy.errors import UsageError
from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")


class Steering(ClusterState):
    """The part of a cluster that chooses and steers its nodes. ``JobCluster`` is one of these."""

    # Which nodes.

    def discover_nodes(self, nodes: Any) -> int:
        """Look for nodes now, and do not wait until any is found. Those that match the cluster's ``nodes`` are used.

        Args:
            nodes: Nodes in any form that ``nodes`` of the cluster may have.

        Returns:
            Always 0: nodes that are found later show in ``cluster_status`` and ``status()``.

        Raises:
            UsageError: Nothing in ``nodes`` names a node.
        """
        self._check_open()
        found = parse_nodes(nodes)
        node_choice.check_reach(self, found)
        node_discovery.warn_blind(self._engine, self, found)
        self._engine.call(node_choice.discover, self, found)
        return 0

    def allocate_node(self, node: Any) -> int:
        """Use more nodes, as if they had been in ``nodes``; or a node again that was closed or deallocated.

        An element that says more than a name (CPUs, arguments of ``setup``, files) is asked before elements of
        ``nodes`` that are as specific. A mere name changes nothing where ``nodes`` covers it already. For nodes that
        are in use it is decided anew how many of their CPUs are used.

        Args:
            node: An element of ``nodes`` in any form, or a list of them.

        Returns:
            0; -1, with a warning, if the argument names no node, or only hosts whose names cannot be resolved.

        Raises:
            UsageError: The value has a form that ``nodes`` cannot have.
        """
        self._check_open()
        found = find_nodes(node)
        if not found:
            return -1
        node_choice.check_reach(self, found)
        node_discovery.warn_blind(self._engine, self, found)
        for one in found:
            self._code_for(one)  # arguments of setup that cannot be sent are refused here
        self._engine.call(node_choice.allocate_more, self, found)
        return 0

    def deallocate_node(self, node: Any) -> int:
        """Send a node no more jobs of this cluster. Jobs that run there go on, and what ``setup`` has loaded stays.

        Jobs that wait there run elsewhere; those of ``submit_node`` are ``Cancelled``. ``allocate_node`` undoes it.

        Args:
            node: ``DispyNode``, address or host name.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).
        """
        return self._steer(node, "deallocate_node", node_choice.deallocate)

    def close_node(self, node: Any, terminate_pending: bool = False) -> int:
        """Have this cluster leave a node: ``cleanup`` runs there, and its files are removed. Does not wait for that.

        Jobs that run there are waited for or, with ``terminate_pending``, cancelled; ``cluster_status`` is told
        ``DispyNode.Closed`` when they have ended. Jobs that wait there run elsewhere; those of ``submit_node`` are
        ``Cancelled``. ``allocate_node`` uses the node again.

        Args:
            node: ``DispyNode``, address or host name.
            terminate_pending: True to cancel the jobs that run there.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).
        """
        terminate = check_flag("terminate_pending", terminate_pending)
        return self._steer(node, "close_node", node_choice.leave, terminate)

    def resetup_node(
        self, node: Any, terminate_pending: bool = False, *, setup_args: tuple[Any, ...] | None = None
    ) -> int:
        """Run ``cleanup``, then ``setup`` again on a node, with other arguments or files. Does not wait for that.

        First jobs that run there are waited for or, with ``terminate_pending``, cancelled. ``cleanup`` gets the
        arguments that ``setup`` had. Then ``allocate`` is asked again, and ``setup`` gets the ``setup_args`` that are
        given here, else those that ``allocate`` has set. ``cluster_status`` is told ``DispyNode.Initialized`` when
        the node is ready. Jobs that wait there run elsewhere or, those of ``submit_node``, when the node is ready.

        Args:
            node: ``DispyNode``, address or host name. A node where ``setup`` has failed is tried again.
            terminate_pending: True to cancel the jobs that run there.
            setup_args: Arguments for ``setup`` and ``cleanup`` there, until the next ``resetup_node``.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).

        Raises:
            PicklingError: One of ``setup_args`` cannot be sent.
        """
        terminate = check_flag("terminate_pending", terminate_pending)
        if setup_args is not None:
            if not isinstance(setup_args, tuple):
                raise UsageError(
                    f"setup_args must be a tuple, not {describe(setup_args)}",
                    hint="setup_args=(value,) for one argument",
                )
            self._computation.code_with(setup_args)
        return self._steer(node, "resetup_node", node_choice.set_up_again, terminate, setup_args)

    def _steer(self, node: Any, what: str, act: Callable[..., None], *arguments: Any) -> int:
        """Call a function about a node on the engine's loop, and wait for it.

        Args:
            node: The node as the program names it: ``DispyNode``, address or host name.
            what: Name of the public method, for the warning.
            act: Called with this cluster, the node's identity and ``arguments``.
            arguments: Further arguments of ``act``.

        Returns:
            0; -1, with a warning, if the cluster does not use the node: then ``act`` is not called.
        """
        self._check_open()
        names = NodeNames(node, self._engine)

        def steer() -> int:
            found = placements.find(self, names)
            if found is None:
                return -1
            act(self, found, *arguments)
            return 0

        result = self._engine.call(steer)
        if result:
            logger.warning("%s: node %s is not in use by cluster %s", what, names.text, self.name)
        return result

    def set_node_cpus(self, node: Any, cpus: int) -> int:
        """Limit the CPUs of a node that this program uses, all its clusters together; jobs that run go on.

        The node's own offer stays the upper bound, and other programs are not concerned. The limit holds until the
        node's process ends, also for clusters that are made later and when the connection is lost meanwhile.

        Args:
            node: ``DispyNode``, address or host name.
            cpus: CPUs to use; a negative number leaves that many of the offered ones alone, and changes nothing if
                the node offers fewer.

        Returns:
            CPUs that are used now; -1 if the node is not in use by this cluster (with a warning).

        Raises:
            UsageError: ``cpus`` is no whole number.
        """
        self._check_open()
        names = NodeNames(node, self._engine)
        if isinstance(cpus, bool) or not isinstance(cpus, int):
            raise UsageError(
                f"cpus must be a number of CPUs, not {describe(cpus)}", hint="negative: all but so many"
            )
        used = self._engine.call(node_choice.set_cpus, self, names, cpus)
        if used < 0:
            logger.warning("set_node_cpus: node %s is not in use by cluster %s", names.text, self.name)
        return used

    # Their jobs.

    def node_jobs(self, node: Any, from_node: bool = False) -> list[DispyJob] | int:
        """Returns a list of the jobs of this cluster that run on a node now; chunks of a ``map`` are left out.

        Args:
            node: ``DispyNode``, address or host name.
            from_node: Ask the node itself, and wait for its answer. Otherwise the answer is what is known here: some
                hundredths of a second old, and without jobs that are too short to be told of.

        Returns:
            The jobs; -1, with a warning, if this cluster does not use the node.

        Raises:
            SilenceError: The node has not answered within ``config.MsgTimeout`` seconds, or the connection is broken.
        """
        self._check_open()
        names = NodeNames(node, self._engine)
        if not check_flag("from_node", from_node):
            jobs = self._engine.call(placements.running_jobs, self, names)
        else:
            jobs = placements.ask_running_jobs(self, names)
        if jobs is None:
            logger.warning("node_jobs: node %s is not in use by cluster %s", names.text, self.name)
            return -1
        return jobs

    # What the engine asks and tells, on its loop. Methods, so that the engine need not know the modules behind them.

    def _find_open(self, names: NodeNames) -> NodeId | None:
        """Returns the identity of the node that ``names`` means if jobs can be submitted to it now; else None."""
        return placements.find_open(self, names)

    def _info(self, node: NodeId) -> NodeInfo | None:
        """Returns what the engine knows of a node: name, addresses, CPUs, byte counts; None if it is gone."""
        return placements.info(self, node)

    def _placement(self, node: NodeId) -> Placement | None:
        """Returns the scheduler's record of the computation on a node: status, CPUs, jobs; None: not there."""
        return placements.placement(self, node)

    def _allocated(self, info: NodeInfo) -> tuple[int, NodeAllocate | None]:
        """Returns the CPUs of a node to use, and the element of ``nodes`` that wants them; (0, None) for none."""
        return node_choice.allocated(self, info)

    def _has_other_node(self, private: NodeId) -> bool:
        """True if the cluster uses another node than ``private``, the program's own: that may get no new jobs."""
        return node_choice.has_other_node(self, private)

    def _on_usable(self, action: TellNode, info: NodeInfo) -> None:
        """Note that a node became usable for the cluster, or ceased to be (``action``); tell ``cluster_status``."""
        node_views.on_usable(self, action, info)

    def _on_node_changed(self, info: NodeInfo) -> None:
        """Update CPUs and ``reason`` of a node's ``DispyNode``; tell ``cluster_status`` if they have changed."""
        node_views.on_changed(self, info)

    def _on_available(self, info: NodeInfo) -> None:
        """Update ``avail_info`` of a node's ``DispyNode`` (CPU, memory, disk, swap), and tell ``cluster_status``."""
        node_views.on_available(self, info)

    def _refresh_nodes(self) -> list[DispyNode]:
        """Update byte counts and running jobs of the nodes in use; returns all nodes in the order of ``status()``."""
        return node_views.refresh(self)
