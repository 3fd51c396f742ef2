"""``send_file``: files put into the working directory of a cluster on nodes in use."""

from __future__ import annotations

import concurrent.futures
import logging
from typing import TYPE_CHECKING, Any

from dispy.client.allocation import placements
from dispy.client.code.shipped_files import Held
from dispy.client.nodes import NodeNames
from dispy.errors import UsageError
from dispy.files.manifest import is_file_item
from dispy.protocol.files import FileEntry
from dispy.protocol.node import PlaceFiles

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeId

logger = logging.getLogger("dispy.client")


def send_file(session: Session, path: Any, node: Any) -> int:
    """Put a file or a module on nodes in use, and wait, without limit, until each of them has answered.

    The work of ``JobCluster.send_file``, on the caller's thread.

    Args:
        session: Cluster whose nodes are meant.
        path: Path or module.
        node: ``DispyNode``, address or host name; None: all nodes in use.

    Returns:
        0 if all these nodes have it; -1, with a warning that says why, if one has not, or no such node is in use.

    Raises:
        UsageError: The file cannot be sent, ``node`` names no node, or the cluster is closed.
    """
    session.check_open()
    if not is_file_item(path):
        raise UsageError(f"send_file takes the path of a file, not {path!r}")
    # ``held`` is kept until all nodes have answered: they ask for the bytes meanwhile.
    entries, held = session.shipped.take([path])
    names = None if node is None else NodeNames(node, session.known_nodes)
    waiting = session.engine.call(_send_files, session, names, entries, held)
    if not waiting:
        which = "no node is" if names is None else f"node {names.text} is not"
        logger.warning("send_file: %s in use by cluster %s", which, session.name)
    reasons = [_wait_sent(session, future) for future in waiting]
    for reason in filter(None, reasons):
        logger.warning("cluster %s cannot send %s: %s", session.name, path, reason)
    del held
    return 0 if waiting and not any(reasons) else -1


def _send_files(
    session: Session, names: NodeNames | None, entries: list[FileEntry], held: list[Held]
) -> list[concurrent.futures.Future[str]]:
    """Send nodes the request to take files, and note it in ``session.sent``. On the loop.

    Args:
        session: Cluster whose nodes are meant.
        names: The one node that is meant; None: all nodes in use.
        entries: Descriptions of the files.
        held: Holders of the files.

    Returns:
        A future for each node that was asked, set by ``on_files``: to an empty text when the node has the files, or
        to the reason why it has not. Empty if no such node is in use.
    """
    if names is None:
        nodes = placements.all_open(session)
    else:
        one = placements.find_open(session, names)
        nodes = [one] if one is not None else []
    futures = []
    for found in nodes:
        request, future = session.sent.begin(found, entries, held)
        futures.append(future)
        message = PlaceFiles(session.number, request, entries)
        session.backend.place_files(found, message)
    return futures


def _wait_sent(session: Session, future: concurrent.futures.Future[str]) -> str:
    """Wait for a node's answer, without limit. Returns an empty text, or the reason why the node lacks the files.

    Looks each second whether the cluster was closed meanwhile, as no answer comes then.
    """
    while True:
        try:
            return future.result(1.0)
        except TimeoutError:
            if session.is_closed or session.engine.is_stopped:
                return "the cluster was closed"


def on_files(session: Session, node: NodeId, request: int, reason: str) -> None:
    """Take a node's answer to ``send_file``, and wake the thread that waits for it. On the loop.

    Files that are there are recorded in ``session.sent``, unless the node is lost by now.
    """
    sending = session.sent.answered(node, request)
    if sending is None:
        return
    info = placements.info(session, node)
    if info is not None and not reason:
        session.sent.note((info.ip_addr, info.port), sending.entries, sending.held)
    sending.future.set_result(reason)
