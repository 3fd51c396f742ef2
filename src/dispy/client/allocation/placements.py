"""The nodes that a cluster has its computation on, looked up by name; and which of its jobs run on one of them.

The functions take the session as first argument. Unless a function says otherwise it is called on the engine's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy import config
from dispy.client.job import DispyJob
from dispy.client.map.chunk_job import Chunk
from dispy.client.nodes import NodeNames
from dispy.errors import SilenceError, UsageError
from dispy.protocol.views import NodeId, NodeInfo

if TYPE_CHECKING:
    from dispy.client.session.state import Session


def find(session: Session, names: NodeNames) -> NodeId | None:
    """Returns the identity (of its process, bytes) of the node that ``names`` means, if the computation is there.

    None if the cluster has its computation on no node with such a name. The computation may still be loading, or have
    failed.
    """
    views = session.views.view(session.number)
    if names.id:
        return NodeId(names.id) if names.id in views else None
    for known in session.views.nodes(session.number):
        if known.node in views and not names.names.isdisjoint([known.name, *known.addresses()]):
            return known.node
    return None


def find_open(session: Session, names: NodeNames) -> NodeId | None:
    """Returns the identity (bytes) of the node that ``names`` means, if jobs of the cluster can be sent there now.

    None if the cluster does not use the node, or sends it no more jobs: ``setup`` failed there, or the node was
    deallocated or closed.
    """
    found = find(session, names)
    if found is None or not session.views.view(session.number)[found].is_open:
        return None
    return found


def all_open(session: Session) -> list[NodeId]:
    """Returns the nodes to which jobs of the cluster can be sent now."""
    return [node for node, view in session.views.view(session.number).items() if view.is_open]


def info(session: Session, node: NodeId) -> NodeInfo | None:
    """Returns what is known of a node: name, addresses, CPUs, byte counts. None if the node is gone."""
    return next((known for known in session.views.nodes(session.number) if known.node == node), None)


def running_jobs(session: Session, names: NodeNames) -> list[DispyJob] | None:
    """Returns the cluster's jobs that run on a node, in the order in which they were sent there.

    Running jobs are those that the node has reported: some hundredths of a second ago, and without very short ones.
    None if the cluster does not use the node.
    """
    found = find(session, names)
    return None if found is None else _jobs_of(session, session.views.running(session.number, found))


def ask_running_jobs(session: Session, names: NodeNames) -> list[DispyJob] | None:
    """Ask a node which of the cluster's jobs run there, and wait for the answer; on a thread of the program.

    Returns:
        The jobs, in the order of the node's answer; None if the cluster does not use the node.

    Raises:
        SilenceError: The node has not answered within ``config.MsgTimeout`` seconds, or the connection is broken.
        UsageError: Called on the engine's loop: the answer could not arrive.
    """
    if session.engine.is_loop():
        raise UsageError("node_jobs(from_node=True) waits for the node", hint="leave from_node out")
    found = session.engine.call(find, session, names)
    if found is None:
        return None
    answer = session.engine.call(session.views.ask_running, session.number, found)
    try:
        numbers = answer.result(config.message_timeout_s())
    except TimeoutError:
        raise SilenceError(
            f"node {names.text} has not said within {config.message_timeout_s():g} s what runs there",
            hint="try again; cluster.why(job) says if the connection is broken",
        ) from None
    return session.engine.call(_jobs_of, session, numbers)


def _jobs_of(session: Session, numbers: list[int]) -> list[DispyJob]:
    """Returns the unfinished jobs with these job numbers, in their order; chunks of a ``map`` are left out."""
    jobs = [session.jobs[number] for number in numbers if number in session.jobs]
    return [job for job in jobs if type(job) is not Chunk]
