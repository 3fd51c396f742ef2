"""The public methods of a cluster about its nodes: found, used, given up, set up anew, limited, and asked.

Each checks its arguments on the program's thread; the work is done by ``client.allocation`` on the engine's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from dispy.client.allocation import node_orders
from dispy.client.job import DispyJob
from dispy.client.jobs.type_parameters import R

if TYPE_CHECKING:
    from dispy.client.session.state import Session


class ClusterNodes(Generic[R]):
    """The methods of ``JobCluster`` about nodes."""

    _session: Session
    """The record of the cluster."""

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
        return node_orders.discover(self._session, nodes)

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
        return node_orders.allocate(self._session, node)

    def deallocate_node(self, node: Any) -> int:
        """Send a node no more jobs of this cluster. Jobs that run there go on, and what ``setup`` has loaded stays.

        Jobs that wait there run elsewhere; those of ``submit_node`` are ``Cancelled``. ``allocate_node`` undoes it.

        Args:
            node: ``DispyNode``, address or host name.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).
        """
        return node_orders.deallocate(self._session, node)

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
        return node_orders.close(self._session, node, terminate_pending)

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
        return node_orders.set_up_again(self._session, node, terminate_pending, setup_args)

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
        return node_orders.set_cpus(self._session, node, cpus)

    # Their jobs.

    def node_jobs(self, node: Any, from_node: bool = False) -> list[DispyJob[R]] | int:
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
        return node_orders.jobs(self._session, node, from_node)
