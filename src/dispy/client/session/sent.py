"""What a program sends beside jobs: objects that many of them read, and files."""

from __future__ import annotations

import concurrent.futures
import logging
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.nodes import NodeNames
from dispy.client.session.files import Sending, is_file_item
from dispy.client.session.objects import Ref, check_used, drop_refs
from dispy.client.session.submission import take_inbox
from dispy.core import scheduling as core
from dispy.errors import UsageError
from dispy.protocol.limits import OBJECTS_MAX
from dispy.protocol.node import PlaceFiles, PutObject

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.session.files import Held
    from dispy.client.session.state import ClusterState
    from dispy.protocol.files import FileEntry

logger = logging.getLogger("dispy.client")


def put(cluster: ClusterState, value: Any) -> Ref:
    """Send an object to the nodes of a cluster; on the caller's thread."""
    cluster._check_open()
    shown = payload.random_generators.shared(value, "workers") if cluster._seeding.is_on else value
    data = payload.dump_object(shown, cluster._computation.known)
    ref = Ref(cluster, len(data), check_used(cluster))
    message = PutObject(cluster._number, ref._number, data)  # type: ignore[arg-type]  # as in ``submission``
    cluster._engine.call(_put, cluster, message)
    return ref


def _put(cluster: ClusterState, message: PutObject) -> None:
    take_inbox(cluster)
    drop_refs(cluster)
    known = cluster._engine.service.state.computations[cluster._number].objects
    if len(known) >= OBJECTS_MAX:
        raise UsageError(
            f"{OBJECTS_MAX} objects are put into cluster {cluster.name}",
            hint="let go of references, or put fewer and larger objects",
        )
    if cluster._journal is not None:
        cluster._journal.put_object(message.number, message.payload)
    cluster._engine.service.handle(core.PutObject(message))


def send_file(cluster: Steering, path: Any, node: Any) -> int:
    """What ``JobCluster.send_file`` does; on the caller's thread."""
    cluster._check_open()
    if not is_file_item(path):
        raise UsageError(f"send_file takes the path of a file, not {path!r}")
    # Held until all have it.
    entries, held = cluster._shipped.take([path])
    names = None if node is None else NodeNames(node, cluster._engine)
    waiting = cluster._engine.call(_send_files, cluster, names, entries, held)
    if not waiting:
        which = "no node is" if names is None else f"node {names.text} is not"
        logger.warning("send_file: %s in use by cluster %s", which, cluster.name)
    reasons = [_wait_sent(cluster, future) for future in waiting]
    for reason in filter(None, reasons):
        logger.warning("cluster %s cannot send %s: %s", cluster.name, path, reason)
    del held
    return 0 if waiting and not any(reasons) else -1


def _send_files(
    cluster: Steering, names: NodeNames | None, entries: list[FileEntry], held: list[Held]
) -> list[concurrent.futures.Future[str]]:
    placements = cluster._engine.service.state.computations[cluster._number].placements
    if names is None:
        nodes = [found for found, placement in placements.items() if placement.is_open()]
    else:
        one = cluster._find_open(names)
        nodes = [one] if one is not None else []
    futures = []
    for found in nodes:
        request = next(cluster._requests)
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        cluster._sending[found, request] = Sending(future, entries, held)
        futures.append(future)
        message = PlaceFiles(cluster._number, request, entries)
        cluster._engine.service.handle(core.SendFiles(found, message))
    return futures


def _wait_sent(cluster: ClusterState, future: concurrent.futures.Future[str]) -> str:
    while True:
        try:
            return future.result(1.0)
        except TimeoutError:
            if cluster._is_closed or cluster._engine._is_stopped:
                return "the cluster was closed"


def on_files(cluster: Steering, action: core.TellFiles) -> None:
    """Files are on a node, or cannot be put there."""
    sending = cluster._sending.pop((action.node, action.request), None)
    if sending is None:
        return
    info = cluster._info(action.node)
    if info is not None and not action.reason:
        cluster._sent.note(info.target, sending.entries, sending.held)
    sending.future.set_result(action.reason)
