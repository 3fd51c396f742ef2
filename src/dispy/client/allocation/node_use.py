"""How a node is taken into use for a cluster. On the engine's loop, but for the reading of files.

A cluster is asked about each node that is known (``Steering._allocated``, which calls the user's ``allocate()``).
If the cluster wants CPUs of a node that it does not use yet, these steps follow, each after the one before:

1. ``allocate``: the node is noted in the cluster's journal, or the program's.
2. ``_use_with_files``: files for this node only (``depends`` of ``NodeAllocate``) are looked at, on the thread that
   reads files.
3. ``_use_noted``: a full journal has the note on disk. Only then may the node get jobs: a recovery has to know all
   nodes that may have one.
4. ``_use``: the scheduler is told, which opens the computation on the node.
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
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")


def _private_of(engine: Engine, info: NodeInfo) -> PrivateNode | None:
    """Returns the program's private node, started for itself, if ``info`` describes that one; else None.

    As a side effect the node's identity is noted in ``PrivateNode.node``, by which ``drain`` finds the node.
    """
    target = engine.service.target_of(info.node)
    private = engine._private.get(target.key)
    if private is not None and private.address == (target.host, target.port):
        private.node = info.node
        return private
    return None


def allocate(engine: Engine, cluster: Steering, info: NodeInfo) -> None:
    """Have a cluster decide whether it uses a node, and how many CPUs of it; then use the node. On the loop.

    Step 1 of the module's list. If the node is in use already, only the number of CPUs is changed. If the cluster
    does not want the node, the reason is logged (DEBUG).
    """
    private = _private_of(engine, info)
    key = engine.service.target_of(info.node).key
    is_barred = key != cluster._secret.key or info.node in cluster._set_aside
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
        engine.service.handle(core.Allocate(core.EMBEDDED, cluster._number, info.node, cpus))
        cluster._on_node_changed(info)
        return
    try:
        code = cluster._code_for(allocation, cluster._setup_args.get(info.node))
    except UsageError as error:
        # The user's ``allocate`` has chosen arguments of ``setup`` that cannot be sent.
        _refuse(engine, cluster, info, error)
        return
    note_node(engine, cluster, info, private is not None)
    wanted = core.Allocate(core.EMBEDDED, cluster._number, info.node, cpus, code=code)
    if allocation.depends:
        engine.files.call(_use_with_files, [(engine, cluster, info, wanted, list(allocation.depends))])
    else:
        _use_noted(engine, cluster, info, wanted)


def _refuse(engine: Engine, cluster: Steering, info: NodeInfo, error: DispyError) -> None:
    """Do not use a node, since files or arguments of ``setup`` for it cannot be sent. On the loop.

    The error is logged, and kept in ``cluster._failures`` for ``JobCluster.why``.
    """
    logger.error("node %s is not used: %s", info.name, error)
    cluster._failures[info.name] = str(error)
    _give_up(engine, cluster, info)


def _give_up(engine: Engine, cluster: Steering, info: NodeInfo) -> None:
    """Take a node away from a cluster that has left it in order to come back, and now does not come back.

    Jobs of ``submit_node`` for this node end as ``Cancelled``, instead of waiting for ever. Does nothing for a node
    that the cluster has not left in this way.
    """
    placement = cluster._placement(info.node)
    if placement is not None and placement.status is core.Status.LEFT:
        engine.service.handle(core.Allocate(core.EMBEDDED, cluster._number, info.node, 0))


def _use_with_files(
    engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate, depends: list[Any]
) -> None:
    """Read the files that are for one node only, and go on with ``_use_noted``. On the thread that reads files.

    If a file cannot be sent the node is refused (``_refuse``).

    Args:
        engine: The engine.
        cluster: The cluster.
        info: The node.
        wanted: Event for the scheduler; its ``files`` are set here.
        depends: Paths and modules for this node.
    """
    try:
        wanted.files = cluster._files_for(depends)
    except DispyError as error:
        engine.post(_refuse, engine, cluster, info, error)
        return
    engine.post(_use_noted, engine, cluster, info, wanted)


def _use_noted(engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate) -> None:
    """Use a node once the note about it in the cluster's full journal is on disk; at once if it has none.

    Step 3 of the module's list. On the loop.
    """
    if cluster._journal is None:
        _use(engine, cluster, info, wanted)
    else:
        # Not before the note is on disk: a recovery has to know all nodes that may have a job.
        cluster._journal.after_note(partial(_use, engine, cluster, info, wanted))


def _use(engine: Engine, cluster: Steering, info: NodeInfo, wanted: core.Allocate) -> None:
    """Tell the scheduler that a cluster uses a node: it opens the computation there. On the loop.

    Files that ``send_file`` has put there are added to ``wanted.files``; if the list is too long for one message
    (``session.files.listed``) the node is refused.
    """
    if info.is_gone:
        return  # it was lost while files were read or the journal written
    if info.node in cluster._set_aside:
        wanted.cpus = 0  # it was set aside while files were read or the journal written
    try:
        wanted.files = cluster._with_sent(engine.service.target_of(info.node), wanted.files)
    except UsageError as error:
        _refuse(engine, cluster, info, error)
        return
    engine.service.handle(wanted)
    private = _private_of(engine, info)
    if private is not None:
        drain(engine, cluster, private)


def drain(engine: Engine, cluster: Steering, private: PrivateNode) -> None:
    """Give the private node no new jobs of a cluster that has another node; undo that when it has none any more.

    Condition: another node than the private one is listed on this machine, and the cluster uses any other node. Jobs
    that run on the private node go on. On the loop.
    """
    if private.node is None or cluster._secret.key != private.secret.key or not cluster._wants_private:
        return
    is_draining = private.is_draining and cluster._has_other_node(private.node)
    if is_draining == (cluster._number in private.drained):
        return
    if is_draining:
        private.drained.add(cluster._number)
        engine.service.handle(
            core.Allocate(core.EMBEDDED, cluster._number, private.node, 0, is_draining=True)
        )
    else:
        private.drained.discard(cluster._number)
        for info in engine.service.nodes():
            if info.node == private.node:
                allocate(engine, cluster, info)
