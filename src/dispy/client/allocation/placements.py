"""The nodes that a cluster has its computation on, looked up by name; and which of its jobs run on one of them.

The functions take the cluster as first argument. Unless a function says otherwise it is called on the engine's loop.
"""

from __future__ import annotations

import concurrent.futures

from dispy import config
from dispy.client.job import DispyJob
from dispy.client.map.chunk_job import Chunk
from dispy.client.nodes import NodeNames
from dispy.client.session.state import ClusterState
from dispy.core.scheduling import Placement
from dispy.core.scheduling.ids import EMBEDDED, NodeId
from dispy.errors import SilenceError, UsageError
from dispy.protocol.views import NodeInfo


def find(cluster: ClusterState, names: NodeNames) -> NodeId | None:
    """Returns the identity (of its process, bytes) of the node that ``names`` means, if the computation is there.

    None if the cluster has its computation on no node with such a name. The computation may still be loading, or have
    failed.
    """
    state = cluster._engine.service.state.computations.get((EMBEDDED, cluster._number))
    if state is None:
        return None
    if names.id:
        return NodeId(names.id) if names.id in state.placements else None
    for known in cluster._engine.service.nodes():
        if known.node in state.placements and not names.names.isdisjoint([known.name, *known.addresses()]):
            return known.node
    return None


def find_open(cluster: ClusterState, names: NodeNames) -> NodeId | None:
    """Returns the identity (bytes) of the node that ``names`` means, if jobs of the cluster can be sent there now.

    None if the cluster does not use the node, or sends it no more jobs: ``setup`` failed there, or the node was
    deallocated or closed.
    """
    found = find(cluster, names)
    place = placement(cluster, found) if found is not None else None
    return found if place is not None and place.is_open() else None


def info(cluster: ClusterState, node: NodeId) -> NodeInfo | None:
    """Returns the engine's description of a node: name, addresses, CPUs, byte counts. None if the node is gone."""
    return next((known for known in cluster._engine.service.nodes() if known.node == node), None)


def placement(cluster: ClusterState, node: NodeId) -> Placement | None:
    """Returns the scheduler's record of the cluster's computation on a node: its status, CPUs and jobs there.

    None if the computation is not on the node.
    """
    computation = cluster._engine.service.state.computations.get((EMBEDDED, cluster._number))
    return computation.placements.get(node) if computation is not None else None


def running_jobs(cluster: ClusterState, names: NodeNames) -> list[DispyJob] | None:
    """Returns the cluster's jobs that run on a node, in the order in which they were sent there.

    Running jobs are those that the node has reported: some hundredths of a second ago, and without very short ones.
    None if the cluster does not use the node.
    """
    found = find(cluster, names)
    if found is None:
        return None
    place = cluster._engine.service.state.computations[EMBEDDED, cluster._number].placements[found]
    return _jobs_of(cluster, [number for number in place.assigned if number in place.started])


def ask_running_jobs(cluster: ClusterState, names: NodeNames) -> list[DispyJob] | None:
    """Ask a node which of the cluster's jobs run there, and wait for the answer; on a thread of the program.

    Returns:
        The jobs, in the order of the node's answer; None if the cluster does not use the node.

    Raises:
        SilenceError: The node has not answered within ``config.MsgTimeout`` seconds, or the connection is broken.
        UsageError: Called on the engine's loop, by ``allocate``: the answer could not arrive.
    """
    if cluster._engine.is_loop():
        raise UsageError(
            "node_jobs(from_node=True) waits for the node, and allocate must not wait",
            hint="leave from_node out, or call it in cluster_status",
        )
    answer: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
    found = cluster._engine.call(find, cluster, names)
    if found is None:
        return None
    cluster._engine.call(cluster._engine.ask_jobs, found, cluster._number, answer)
    try:
        numbers = answer.result(config.message_timeout_s())
    except TimeoutError:
        raise SilenceError(
            f"node {names.text} has not said within {config.message_timeout_s():g} s what runs there",
            hint="try again; cluster.why(job) says if the connection is broken",
        ) from None
    return cluster._engine.call(_jobs_of, cluster, numbers)


def _jobs_of(cluster: ClusterState, numbers: list[int]) -> list[DispyJob]:
    """Returns the unfinished jobs with these job numbers, in their order; chunks of a ``map`` are left out."""
    jobs = [cluster._jobs[number] for number in numbers if number in cluster._jobs]
    return [job for job in jobs if type(job) is not Chunk]
