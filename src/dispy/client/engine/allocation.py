"""Allocation: how much of each node a cluster uses. On the engine's loop.

A cluster is asked about each node that is known (``Steering._allocated``, which calls the user's ``allocate()``).
If it wants some of the node's CPUs, the node is written to the journal first, files for it are looked at, and then
the scheduler is told.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy.client.recovery.journaling import note_node
from dispy.client.session import explain
from dispy.core import scheduling as core
from dispy.errors import DispyError, UsageError

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.engine.engine import Engine
    from dispy.client.engine.private_node import PrivateNode
    from dispy.scheduler.link import NodeInfo

logger = logging.getLogger("dispy.client")


def _private_of(engine: Engine, info: NodeInfo) -> PrivateNode | None:
    private = engine._private.get(info.target.key)
    if private is not None and private.address == (info.target.host, info.target.port):
        private.node = info.node
        return private
    return None


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
        drain(engine, cluster, private)


def drain(engine: Engine, cluster: Steering, private: PrivateNode) -> None:
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
