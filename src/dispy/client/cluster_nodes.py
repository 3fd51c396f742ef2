"""Choosing and steering nodes: the part of a cluster that says which nodes are used, and how much of them."""

from __future__ import annotations

import concurrent.futures
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from dispy import config
from dispy.client.arguments import check_flag, describe
from dispy.client.engine import node_discovery
from dispy.client.job import DispyJob
from dispy.client.map.chunks import Chunk
from dispy.client.nodes import (
    DispyNode,
    DispyNodeAvailInfo,
    NodeAllocate,
    find_nodes,
    parse_nodes,
    sort_nodes,
)
from dispy.client.session.missing_files import explain
from dispy.client.session.state import ClusterState
from dispy.core import scheduling as core
from dispy.core.scheduling.explain import why_full
from dispy.core.scheduling.ids import NodeId
from dispy.errors import SilenceError, UsageError
from dispy.scheduler.link import NodeInfo
from dispy.security import secrets
from dispy.security.tls import warn_if_open
from dispy.system.addresses import resolve
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster
    from dispy.client.engine.engine import Engine

logger = logging.getLogger("dispy.client")

CPUS_MAX = 1 << 31
"""More CPUs than a node has."""


class NodeNames:
    """What a program names a node by: a ``DispyNode``, an address or a host name; resolved on the caller's thread.

    Args:
        node: That.
        engine: Whose nodes are known by name: asking the DNS for those may take seconds, where there is no network.

    Raises:
        UsageError: Something else.
    """

    __slots__ = ("id", "names", "text")

    def __init__(self, node: Any, engine: Engine) -> None:
        self.id = b""
        self.names: set[str] = set()
        self.text = ""
        if isinstance(node, DispyNode):
            self.id = node._node
            self.text = f"{node.name} ({node.ip_addr})"
            return
        if not isinstance(node, str) or not node:
            raise UsageError(
                f"a node is named by DispyNode, address or host name, not by {describe(node)}",
                hint="cluster.status().nodes has those in use",
            )
        self.text = node
        self.names.add(node)
        if any(node in (info.name, *info.addresses()) for info in engine.call(engine.service.nodes)):
            return
        try:
            self.names.add(resolve(node))
        except UsageError:  # a node may have a name that only it knows
            pass


class Steering(ClusterState):
    """The nodes of a cluster. ``JobCluster`` is one of these; the rest of it is there."""

    # Which nodes.

    def discover_nodes(self, nodes: Any) -> int:
        """Look for nodes now, and do not wait for what is found. Those that match the cluster's ``nodes`` are used.

        Args:
            nodes: In all forms that ``nodes`` of the cluster may have.

        Returns:
            0.

        Raises:
            UsageError: Nothing there names a node.
        """
        self._check_open()
        found = parse_nodes(nodes)
        self._check_reach(found)
        node_discovery.warn_blind(self._engine, self, found)
        self._engine.call(self._discover_nodes, found)
        return 0

    def _discover_nodes(self, wanted: list[NodeAllocate]) -> None:
        for sought in wanted:
            address = sought.ip_addr
            if address is not None and any(known.matches(address) for known in self._allocations):
                port = sought.port or config.node_port()
                node_discovery.reach_now(self._engine, self._target(address, port, sought.host))
        node_discovery.discover(self._engine, self)

    def _check_reach(self, wanted: list[NodeAllocate]) -> None:
        for allocation in wanted:
            if allocation.ip_addr is not None:
                secrets.require_given(self._secret, allocation.ip_addr)
                warn_if_open(self._tls, allocation.ip_addr)

    def allocate_node(self, node: Any) -> int:
        """Use more nodes, as if they had been in ``nodes``; or a node again that was closed or deallocated.

        What says more than a name (CPUs, arguments of ``setup``, files) is asked before elements of ``nodes`` that
        are as specific; a mere name that these cover leaves the rest to them. For nodes that are in use already it
        is decided anew how many of their CPUs are used.

        Args:
            node: An element of ``nodes`` in any form, or a list of them.

        Returns:
            0; -1 if there is none, or none whose name can be resolved (with a warning).

        Raises:
            UsageError: It has a form that ``nodes`` cannot have.
        """
        self._check_open()
        found = find_nodes(node)
        if not found:
            return -1
        self._check_reach(found)
        node_discovery.warn_blind(self._engine, self, found)
        for allocation in found:
            self._code_for(allocation)
        self._engine.call(self._allocate_more, found)
        return 0

    def _allocate_more(self, found: list[NodeAllocate]) -> None:
        kept = [known for known in self._allocations if known not in found]
        new = [item for item in found if not (item.is_plain and any(known.covers(item) for known in kept))]
        self._allocations = sort_nodes(new + kept)
        for info in self._engine.service.nodes():
            if info.target.key != self._secret.key:
                continue
            if info.node in self._set_aside:
                if self._ask(found, info)[1] is None:
                    continue
                del self._set_aside[info.node]
            placement = self._placement(info.node)
            if placement is not None and placement.status is core.Status.LEAVING:
                self._engine.service.handle(core.Vacate(self._number, info.node, returns=True))
            else:
                node_discovery.allocate(self._engine, self, info)
        node_discovery.discover(self._engine, self)

    def deallocate_node(self, node: Any) -> int:
        """Send a node no more jobs of this cluster. What runs there goes on, and what ``setup`` has loaded stays.

        Jobs that wait there run elsewhere; those of ``submit_node`` are ``Cancelled``. ``allocate_node`` undoes it.

        Args:
            node: ``DispyNode``, address or host name.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).
        """
        return self._steer(node, "deallocate_node", self._deallocate)

    def _deallocate(self, node: NodeId) -> None:
        self._set_aside[node] = "deallocate_node"
        self._engine.service.handle(core.Allocate(self._number, node, 0, is_draining=True))
        self._show_anew(node)

    def close_node(self, node: Any, terminate_pending: bool = False) -> int:
        """Have this cluster leave a node: ``cleanup`` runs there, and its files are removed. Does not wait for that.

        Jobs that run there are waited for or, with ``terminate_pending``, cancelled; ``cluster_status`` is told
        ``DispyNode.Closed`` when they have ended. Jobs that wait there run elsewhere; those of ``submit_node`` are
        ``Cancelled``. ``allocate_node`` uses the node again.

        Args:
            node: ``DispyNode``, address or host name.
            terminate_pending: Whether to cancel what runs there.

        Returns:
            0; -1 if the node is not in use by this cluster (with a warning).
        """
        terminate = check_flag("terminate_pending", terminate_pending)
        return self._steer(node, "close_node", self._close_one, terminate)

    def _close_one(self, node: NodeId, terminate: bool) -> None:
        self._set_aside[node] = "close_node"
        self._engine.service.handle(core.Vacate(self._number, node, terminate))

    def resetup_node(
        self, node: Any, terminate_pending: bool = False, *, setup_args: tuple[Any, ...] | None = None
    ) -> int:
        """Run ``cleanup``, then ``setup`` again on a node, with other arguments or files. Does not wait for that.

        First jobs that run there are waited for or, with ``terminate_pending``, cancelled. After ``cleanup``,
        which gets the arguments that ``setup`` had, ``allocate`` is asked again; what it sets as ``setup_args`` is
        used now, unless it is given here. ``cluster_status`` is told ``DispyNode.Initialized`` when the node is
        ready. Jobs that wait there run elsewhere or, those of ``submit_node``, when it is ready.

        Args:
            node: ``DispyNode``, address or host name. One where ``setup`` has failed is tried again.
            terminate_pending: Whether to cancel what runs there.
            setup_args: Arguments for ``setup`` and ``cleanup`` there, until the next time.

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
        return self._steer(node, "resetup_node", self._set_up_again, terminate, setup_args)

    def _set_up_again(self, node: NodeId, terminate: bool, setup_args: tuple[Any, ...] | None) -> None:
        self._set_aside.pop(node, None)
        if setup_args is None:
            self._setup_args.pop(node, None)
        else:
            self._setup_args[node] = setup_args
        self._engine.service.handle(core.Vacate(self._number, node, terminate, returns=True))

    def _steer(self, node: Any, what: str, act: Callable[..., None], *arguments: Any) -> int:
        """Do something about a node that is in use; says so if there is no such node."""
        self._check_open()
        names = NodeNames(node, self._engine)

        def steer() -> int:
            found = self._find_node(names)
            if found is None:
                return -1
            act(found, *arguments)
            return 0

        result = self._engine.call(steer)
        if result:
            logger.warning("%s: node %s is not in use by cluster %s", what, names.text, self.name)
        return result

    def set_node_cpus(self, node: Any, cpus: int) -> int:
        """Have this program use so many CPUs of a node, all its clusters together; jobs that run go on.

        The node's own offer is the bound, and other programs are not concerned. Holds until the node is lost.

        Args:
            node: ``DispyNode``, address or host name.
            cpus: So many; negative: all but so many of those offered, where that leaves some.

        Returns:
            The CPUs that are used now; -1 if the node is not in use by this cluster (with a warning).
        """
        self._check_open()
        names = NodeNames(node, self._engine)
        if isinstance(cpus, bool) or not isinstance(cpus, int):
            raise UsageError(
                f"cpus must be a number of CPUs, not {describe(cpus)}", hint="negative: all but so many"
            )
        used = self._engine.call(self._set_node_cpus, names, cpus)
        if used < 0:
            logger.warning("set_node_cpus: node %s is not in use by cluster %s", names.text, self.name)
        return used

    def _set_node_cpus(self, names: NodeNames, cpus: int) -> int:
        found = self._find_node(names)
        info = self._info(found) if found is not None else None
        if info is None or found is None:
            return -1
        known = self._engine.service.state.nodes[found]
        wanted = cpus if cpus >= 0 else info.cpus + cpus
        if wanted >= 0:
            self._engine.service.handle(core.LimitNode(found, min(wanted, CPUS_MAX)))
            for cluster in self._engine.clusters.values():
                cluster._on_node_changed(info)
        return min(info.cpus, info.cpus if known.cpus_max is None else known.cpus_max)

    # What they have.

    def node_jobs(self, node: Any, from_node: bool = False) -> list[DispyJob] | int:
        """Jobs of this cluster that run on a node now; -1 if the node is not in use by it (with a warning).

        Args:
            node: ``DispyNode``, address or host name.
            from_node: Ask the node itself, and wait for its answer. What is known here is some hundredths of a second
                behind, and lacks jobs that are too short to be told of.

        Raises:
            SilenceError: The node has not answered within ``config.MsgTimeout`` seconds.
        """
        self._check_open()
        names = NodeNames(node, self._engine)
        if not check_flag("from_node", from_node):
            jobs = self._engine.call(self._node_jobs, names)
        else:
            jobs = self._ask_node_jobs(names)
        if jobs is None:
            logger.warning("node_jobs: node %s is not in use by cluster %s", names.text, self.name)
            return -1
        return jobs

    def _node_jobs(self, names: NodeNames) -> list[DispyJob] | None:
        found = self._find_node(names)
        if found is None:
            return None
        placement = self._engine.service.state.computations[self._number].placements[found]
        return self._jobs_of([number for number in placement.assigned if number in placement.started])

    def _ask_node_jobs(self, names: NodeNames) -> list[DispyJob] | None:
        if self._engine.is_loop():
            raise UsageError(
                "node_jobs(from_node=True) waits for the node, and allocate must not wait",
                hint="leave from_node out, or call it in cluster_status",
            )
        answer: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
        found = self._engine.call(self._find_node, names)
        if found is None:
            return None
        self._engine.call(self._engine.ask_jobs, found, self._number, answer)
        try:
            numbers = answer.result(config.message_timeout_s())
        except TimeoutError:
            raise SilenceError(
                f"node {names.text} has not said within {config.message_timeout_s():g} s what runs there",
                hint="try again; cluster.why(job) says if the connection is broken",
            ) from None
        return self._engine.call(self._jobs_of, numbers)

    def _jobs_of(self, numbers: list[int]) -> list[DispyJob]:
        jobs = [self._jobs[number] for number in numbers if number in self._jobs]
        return [job for job in jobs if type(job) is not Chunk]

    def _as_cluster(self) -> JobCluster:
        return cast("JobCluster", self)

    def _find_node(self, names: NodeNames) -> NodeId | None:
        """The node of that name that this cluster has its computation on."""
        state = self._engine.service.state.computations.get(self._number)
        if state is None:
            return None
        if names.id:
            return NodeId(names.id) if names.id in state.placements else None
        for info in self._engine.service.nodes():
            if info.node in state.placements and not names.names.isdisjoint([info.name, *info.addresses()]):
                return info.node
        return None

    def _find_open(self, names: NodeNames) -> NodeId | None:
        """The same, if jobs can be submitted to it."""
        found = self._find_node(names)
        placement = self._placement(found) if found is not None else None
        return found if placement is not None and placement.is_open() else None

    def _info(self, node: NodeId) -> NodeInfo | None:
        return next((info for info in self._engine.service.nodes() if info.node == node), None)

    def _placement(self, node: NodeId) -> core.Placement | None:
        computation = self._engine.service.state.computations.get(self._number)
        return computation.placements.get(node) if computation is not None else None

    # What the engine asks and tells; on its loop.

    def _allocated(self, info: NodeInfo) -> tuple[int, NodeAllocate | None]:
        """What of a node this cluster uses, and the first element of ``nodes`` that wants it."""
        self._offers[info.node] = info.cpus
        return self._ask(self._allocations, info)

    def _ask(self, allocations: list[NodeAllocate], info: NodeInfo) -> tuple[int, NodeAllocate | None]:
        for allocation in allocations:
            if allocation.port is not None and allocation.port != info.target.port:
                continue
            address = next(filter(allocation.matches, info.addresses()), info.ip_addr)
            try:
                cpus = allocation.allocate(
                    self._as_cluster(), address, info.name, info.cpus, avail_info(info), info.platform
                )
                if not isinstance(cpus, (int, float)):
                    raise TypeError(f"allocate must return a number of CPUs, not {cpus!r}")
                cpus = math.ceil(cpus)  # half of three is two, as it was in dispy 4
            except Exception as error:
                logger.exception("allocate for node %s failed; the node is not used", info.name)
                self._failures[info.name] = f"allocate failed: {of_error(error)}"
                return 0, None
            if cpus > 0:
                self._failures.pop(info.name, None)
                return min(cpus, info.cpus), allocation
            if allocation.matches(address):
                self._failures[info.name] = f"allocate returned {cpus}, so it is not to be used"
        return 0, None

    def _has_other_node(self, private: NodeId) -> bool:
        return any(node != private for node in self._dispy_nodes)

    def _on_usable(self, action: core.TellNode, info: NodeInfo) -> None:
        shown = self._dispy_nodes.get(action.node)
        if action.is_usable:
            self._unreachable.pop(info.target, None)
            self._failures.pop(info.name, None)
            if action.reason and action.reason not in self._warned:
                self._warned.add(action.reason)
                logger.warning("cluster %s on node %s: %s", self.name, info.name, action.reason)
            if shown is None:
                logger.info("cluster %s uses node %s", self.name, info.name)
                shown = self._dispy_nodes[action.node] = self._show(info)
            self._show_cpus(shown, info)
            self._tell_maps()
            self._tell(DispyNode.Initialized, shown, None)
            return
        why = explain(action.reason, self, info.ip_addr)
        if why:
            self._failures[info.name] = why
            reason = why.removeprefix(f"node {info.name}: ")
            if not info.is_gone:  # that is said once for all clusters
                logger.warning("cluster %s cannot use node %s: %s", self.name, info.name, reason)
            if shown is None:
                # It was never used: who asks sees that it is there, and why it is not.
                shown = self._dispy_nodes[action.node] = self._show(info)
        if shown is not None:
            logger.info("cluster %s does not use node %s any more", self.name, info.name)
            self._refresh_nodes()  # what was sent and received is asked of the link, which may go
            del self._dispy_nodes[action.node]
            shown.cpus = 0
            shown.busy = 0
            shown.reason = why
            shown._touch()
            self._past_nodes.append(shown)
            self._tell_maps()
            self._tell(DispyNode.Closed, shown, None)

    def _show(self, info: NodeInfo) -> DispyNode:
        """How a node is shown: as before, if it comes back."""
        for shown in self._past_nodes:
            if shown._node == info.node:
                self._past_nodes.remove(shown)
                return shown
        shown = DispyNode(info.ip_addr, info.name, info.cpus)
        shown._node = bytes(info.node)
        shown._port = info.target.port
        return shown

    def _show_cpus(self, shown: DispyNode, info: NodeInfo) -> None:
        placement = self._placement(info.node)
        assert placement is not None
        most = placement.node.cpus_max
        shown.cpus = min(placement.cpus_max, info.cpus, info.cpus if most is None else most)
        shown.avail_cpus = info.cpus
        shown.avail_info = avail_info(info)
        shown.reason = placement.shortage
        shown._touch()

    def _show_anew(self, node: NodeId) -> None:
        info = self._info(node)
        if info is not None:
            self._on_node_changed(info)

    def _on_node_changed(self, info: NodeInfo) -> None:
        """A node takes more or fewer jobs than before, or for another reason."""
        shown = self._dispy_nodes.get(info.node)
        if shown is None:
            return
        before = (shown.cpus, shown.avail_cpus, shown.reason)
        self._show_cpus(shown, info)
        if before != (shown.cpus, shown.avail_cpus, shown.reason):
            self._tell_maps()
            self._tell(DispyNode.AvailInfo, shown, None)

    def _on_available(self, info: NodeInfo) -> None:
        """A node says what it has to spare."""
        shown = self._dispy_nodes.get(info.node)
        if shown is not None:
            shown.avail_info = avail_info(info)
            shown._touch()
            self._tell(DispyNode.AvailInfo, shown, None)

    def _last_nodes(self) -> list[DispyNode]:
        return [*self._past_nodes, *self._dispy_nodes.values()]

    def _refresh_nodes(self) -> list[DispyNode]:
        state = self._engine.service.state.computations.get(self._number)
        for info in self._engine.service.nodes():
            shown = self._dispy_nodes.get(info.node)
            if shown is not None:
                shown.tx, shown.rx = info.bytes_sent, info.bytes_received
                shown.avail_cpus = info.cpus
                shown.avail_info = avail_info(info)
                placement = state.placements.get(info.node) if state is not None else None
                shown.busy = 0
                if placement is not None:
                    shown.busy = min(len(placement.assigned), max(shown.cpus, len(placement.started)))
        return [*self._last_nodes(), *self._receiving_nodes()]

    def _receiving_nodes(self) -> list[DispyNode]:
        """Nodes that are not used yet, as they wait for files."""
        found = []
        for info in self._engine.service.nodes():
            placement = self._placement(info.node)
            if placement is None or placement.progress is None or info.node in self._dispy_nodes:
                continue
            shown = DispyNode(info.ip_addr, info.name, 0)
            shown.avail_cpus = info.cpus
            shown.tx, shown.rx = info.bytes_sent, info.bytes_received
            shown.reason = why_full(placement)
            found.append(shown)
        return found


def avail_info(info: NodeInfo) -> DispyNodeAvailInfo | None:
    """What a node has to spare, in the form that programs are told."""
    spare = info.available
    return (
        DispyNodeAvailInfo(spare.cpu, spare.memory, spare.disk, spare.swap) if spare is not None else None
    )
