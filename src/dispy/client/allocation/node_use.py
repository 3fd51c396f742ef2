"""How a node is taken into use for a cluster. On the engine's loop, but for the reading of files.

``node_choice`` has decided that the cluster wants CPUs of the node. If it does not use the node yet, these steps
follow, each after the one before:

1. ``use``: code with the arguments of ``setup`` for this node is made, in a form that its version of Python can run.
2. ``_read_files``: files for this node only (``depends`` of ``NodeAllocate``) are looked at, on the thread that reads
   files.
3. ``_use``: the backend is told, which opens the computation on the node.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy.client.allocation import node_views
from dispy.client.allocation.node_files import files_for, with_sent
from dispy.client.session import explain
from dispy.errors import DispyError, UsageError
from dispy.protocol.views import PlacementStatus

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.files import FileEntry
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")


class Choice(NamedTuple):
    """The answer of an element of ``nodes`` about one node.

    Attributes:
        cpus: CPUs of the node to use; 0: it is not wanted.
        setup_args: Arguments of ``setup`` there.
        depends: Files and modules for this node only.
    """

    cpus: int
    setup_args: tuple[Any, ...] = ()
    depends: Sequence[Any] = ()


def use(session: Session, info: NodeInfo, choice: Choice) -> None:
    """Use CPUs of a node; if the cluster uses it already, only their number is changed.

    From then on the form of code in arguments is one that the node's version of Python can run.

    Args:
        session: The cluster.
        info: The node.
        choice: How many, from 1, and with what.
    """
    view = session.views.view(session.number).get(info.node)
    if view is not None and view.status is not PlacementStatus.LEFT:
        session.backend.allocate(session.number, info.node, choice.cpus)
        node_views.on_changed(session, info)
        return
    session.computation.meet(info.python)
    if session.computation.waits_for(info.python) and _use_late(session, info, choice):
        return
    try:
        code = session.code_for(session.setup_args.get(info.node, choice.setup_args), info.python)
    except UsageError as error:
        # The user's ``allocate`` has chosen arguments of ``setup`` that cannot be sent.
        _refuse(session, info, error)
        return
    if choice.depends:
        session.engine.files.call(_read_files, [(session, info, choice.cpus, code, list(choice.depends))])
    else:
        _use(session, info, choice.cpus, code, None)


def _use_late(session: Session, info: NodeInfo, choice: Choice) -> bool:
    """Use a node of another version of Python once the jobs and maps have ended that were submitted so far.

    Their arguments hold code that is compiled for the program's version; those of later jobs are for both.

    Returns:
        False if there is nothing to wait for: then the node is used at once.
    """
    jobs, maps = set(session.jobs), set(session.maps)
    if info.node in session.late_nodes:
        return True
    if not jobs and not maps:
        return False

    def look() -> None:
        """Use the node if nothing is left to wait for. Called on the loop when jobs or maps have ended."""
        if info.node not in session.late_nodes:
            return
        if jobs.isdisjoint(session.jobs) and maps.isdisjoint(session.maps):
            del session.late_nodes[info.node]
            session.computation.known.has_compiled_alone = False
            if not (session.is_closed or info.is_gone or info.node in session.set_aside):
                use(session, info, choice)

    session.late_nodes[info.node] = look
    logger.info(
        "cluster %s uses node %s, which runs Python %s, when the jobs have ended that were submitted so far: their "
        "arguments hold code that was compiled for this program's Python",
        session.name, info.name, info.python,
    )  # fmt: skip
    return True


def _read_files(session: Session, info: NodeInfo, cpus: int, code: bytes, depends: list[Any]) -> None:
    """Read the files that are for one node only, and go on with ``_use``. On the thread that reads files.

    If a file cannot be sent the node is refused (``_refuse``).

    Args:
        session: The cluster.
        info: The node.
        cpus: Number of CPUs to use.
        code: Code for the node; empty: that of the cluster.
        depends: Paths and modules for this node.
    """
    try:
        files = files_for(session, depends)
    except DispyError as error:
        session.engine.post(_refuse, session, info, error)
        return
    session.engine.post(_use, session, info, cpus, code, files)


def _use(session: Session, info: NodeInfo, cpus: int, code: bytes, files: list[FileEntry] | None) -> None:
    """Tell the backend that a cluster uses a node: it opens the computation there.

    Files that ``send_file`` has put there are added to those of the node; if the list is too long for one message
    (``code.shipped_files.listed``) the node is refused. A node that was set aside meanwhile is not used.
    """
    if session.is_closed or info.node in session.set_aside:
        return
    try:
        files = with_sent(session, info, files)
    except UsageError as error:
        _refuse(session, info, error)
        return
    session.backend.allocate(session.number, info.node, cpus, code=code, files=files)


def leave_unused(session: Session, info: NodeInfo) -> None:
    """Do not use a node that the cluster does not want; the reason is logged (DEBUG)."""
    logger.debug(
        "cluster %s does not use node %s: %s", session.name, info.name, explain.why_unused(session, info)
    )
    _give_up(session, info)


def _refuse(session: Session, info: NodeInfo, error: DispyError) -> None:
    """Do not use a node, since files or arguments of ``setup`` for it cannot be sent.

    The error is logged, and kept for ``JobCluster.why``.
    """
    logger.error("node %s is not used: %s", info.name, error)
    session.faults.on_failure(info.name, str(error))
    _give_up(session, info)


def _give_up(session: Session, info: NodeInfo) -> None:
    """Take a node away from a cluster that has left it in order to come back, and now does not come back.

    Jobs of ``submit_node`` for this node end as ``Cancelled``, instead of waiting for ever. Does nothing for a node
    that the cluster has not left in this way, or that offers no CPUs now: then the cluster comes back once it does.
    """
    view = session.views.view(session.number).get(info.node)
    if (
        view is not None
        and view.status is PlacementStatus.LEFT
        and (info.cpus or info.node in session.set_aside)
    ):
        session.backend.allocate(session.number, info.node, 0)
