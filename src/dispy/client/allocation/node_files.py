"""Files that a node gets: those of all nodes, its own, and those that ``send_file`` has put there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dispy.client.code.shipped_files import listed

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.files import FileEntry
    from dispy.protocol.views import NodeInfo


def files_for(session: Session, depends: list[Any]) -> list[FileEntry]:
    """Returns descriptions of all files for a node that gets files of its own, besides the common ones.

    Reads and hashes the node's own files, which may take a while: not on the loop. Their holders are kept until
    the cluster is gone. A common file with the path and content of an own one is listed once.

    Args:
        session: The cluster.
        depends: Paths and modules for that node.

    Raises:
        UsageError: One of them cannot be sent or has the path of a common file with another content; or there
            are too many for a message.
    """
    own, held = session.shipped.take(depends, session.options.files)
    session.held_files += held
    paths = {entry.path for entry in own}
    return listed([entry for entry in session.options.files if entry.path not in paths] + own)


def with_sent(session: Session, info: NodeInfo, files: list[FileEntry] | None) -> list[FileEntry] | None:
    """Returns descriptions of a node's files and those of ``send_file``: a node that comes back gets all again.

    Args:
        session: The cluster.
        info: The node.
        files: Descriptions of the files for this node; None: the node gets the common files.

    Returns:
        Descriptions of all these files; where paths are equal the file of ``send_file`` is taken. ``files``
        itself, or None, if ``send_file`` has put nothing there.

    Raises:
        UsageError: Together there are too many files for a message.
    """
    known = session.options.files if files is None else files
    every = session.sent.with_files((info.ip_addr, info.port), known)
    return files if every is known else listed(every)
