"""Files that a cluster sends to nodes: found and hashed on the program's thread, read when nodes ask for them.

Nodes are told a list of files (``FileEntry``: path, digest, size) and ask for the bytes that they do not have. A file
can be asked for as long as its ``Held`` is alive: the cluster keeps those of ``depends``, ``_held`` those of jobs, a
``Sending`` and then ``Sent`` those of ``send_file``. Bytes are read when a node asks for them; a file that has
changed since it was hashed is refused.
"""

from __future__ import annotations

import concurrent.futures
import logging
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import config
from dispy.client.code.imports import find_modules, names_of
from dispy.client.nodes import NodeNames
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import UsageError
from dispy.files.manifest import Manifest, Signature, Source, collect, is_file_item, read
from dispy.protocol.files import FileEntry, check_number, replace_entries
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles, PlaceFiles
from dispy.scheduler.link import Target

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")


def listed(entries: list[FileEntry]) -> list[FileEntry]:
    """Check that descriptions of all files of a node fit into one message; returns ``entries`` as it is.

    Raises:
        UsageError: ``entries`` are more than ``FILES_MAX`` files, or take more than ``MANIFEST_MAX`` bytes encoded.
    """
    try:
        check_number(entries)
    except ValueError as error:
        raise UsageError(
            f"with its own files it would have {error}", hint="put them into an archive that setup unpacks"
        ) from None
    return entries


class Held:
    """Holder of a file: nodes may ask for the file as long as this object is alive.

    Attributes:
        digest: SHA-256 of the file's content (32 bytes).
        source: Path of the file here, and its signature when it was hashed: a changed file is refused.
    """

    __slots__ = ("__weakref__", "digest", "source")

    def __init__(self, digest: bytes, source: Source) -> None:
        self.digest = digest
        self.source = source


class Sending(NamedTuple):
    """Files on their way to one node, for one call of ``send_file``.

    Attributes:
        future: Set when the node has answered: to an empty text if the files are there, else to the reason why not.
        entries: Descriptions of the files.
        held: Holders of the files, so that the node may ask for the bytes.
    """

    future: concurrent.futures.Future[str]
    entries: list[FileEntry]
    held: list[Held]


class Sent:
    """Record of the files that ``send_file`` has put on each node, so that a restarted node gets them again."""

    def __init__(self) -> None:
        self._entries: dict[Target, list[FileEntry]] = {}
        """Descriptions of the files that each node has got, by its address: a restarted node has the same address."""
        self._held: dict[Target, dict[bytes, Held]] = {}
        """Holders of the files in ``_entries``, by the node's address, then digest: a node may ask for the bytes."""

    def note(self, target: Target, entries: list[FileEntry], held: list[Held]) -> None:
        """Record that files are on a node, and hold them. A file replaces an older one with the same path.

        Args:
            target: Where the node is reached.
            entries: Descriptions of the files.
            held: Holders of their contents.
        """
        known = self._entries[target] = replace_entries(self._entries.get(target, ()), entries)
        holders = self._held.get(target, {}) | {holder.digest: holder for holder in held}
        self._held[target] = {entry.digest: holders[entry.digest] for entry in known}

    def with_files(self, target: Target, files: list[FileEntry]) -> list[FileEntry]:
        """Returns descriptions of all files that a node is to have, for the message that sends it the computation.

        Args:
            target: Where the node is reached.
            files: Descriptions of the files that the node gets with the computation.

        Returns:
            ``files`` and those of ``send_file``, which take precedence where paths are equal; ``files`` itself if
            ``send_file`` has put nothing there.
        """
        sent = self._entries.get(target)
        return replace_entries(files, sent) if sent else files


class Shipped:
    """Index of the files that nodes may ask one cluster for, by the digest of their content.

    Args:
        base: Directory: files below it keep their relative paths on nodes, others get only their last names. None:
            all files get only their last names.
    """

    def __init__(self, base: Path | None) -> None:
        self.base = base
        self._held: weakref.WeakValueDictionary[bytes, Held] = weakref.WeakValueDictionary()
        """Living holders of files, by the SHA-256 of the content. An entry goes when nothing else holds the file."""

    def take(
        self,
        items: list[Any],
        before: Iterable[FileEntry] = (),
        program: str = "",
        extensions: Iterable[tuple[str, str]] = (),
        sent: Iterable[FileEntry] = (),
    ) -> tuple[list[FileEntry], list[Held]]:
        """Find and hash the files that paths and modules stand for, and let nodes ask for them.

        Takes as long as reading new files does: not on the loop.

        Args:
            items: Paths and modules. Modules bring what they import, unless that is installed.
            before: Descriptions of files that the node gets, too. A file of ``items`` with the path of one of them
                and other content is refused (``UsageError``).
            program: Path of a program to be sent along and run; empty: none.
            extensions: Compiled modules that the code needs: pairs of the path here and the path on nodes.
            sent: Descriptions of files that nodes have already, and that files of ``items`` may replace. Files of
                modules that are only imported may not, and are left out where a path is equal.

        Returns:
            Descriptions of the files, sorted by path; and their holders: keep these as long as nodes may ask.

        Raises:
            UsageError: One of the files cannot be sent; says which, and why.
        """
        modules = [*extensions, *find_modules(names_of(items))]
        if modules:
            paths = {entry.path for entry in (*before, *sent)}
            modules = [(path, target) for path, target in modules if target not in paths]
        manifest: Manifest = collect(items, self.base, config.MaxFileSize, program, modules)
        entries = manifest.listed(before)
        held = []
        for digest, source in manifest.sources.items():
            # Of two files with the same content the last one is taken: it is likely to exist longer.
            holder = self._held[digest] = Held(digest, source)
            held.append(holder)
        return entries, held

    def known(self) -> list[tuple[bytes, str, Signature]]:
        """Returns (digest, path here, signature) of each file that nodes can ask for now.

        The signature (size, times …) shows whether the file has changed. A journal keeps the list, so that a recovery
        can serve the files again (``restore``).
        """
        return [(digest, held.source.path, held.source.signature) for digest, held in self._held.items()]

    def restore(self, known: Iterable[tuple[bytes, str, Signature]]) -> list[Held]:
        """Let nodes ask for the files of a program that has died, as its journal lists them (``known``).

        Returns:
            Holders of the files; keep these as long as nodes may ask. A file that has changed since is refused then.
        """
        held = []
        for digest, path, signature in known:
            holder = self._held[digest] = Held(digest, Source(path, signature))
            held.append(holder)
        return held

    def answer(self, message: NeedFiles) -> tuple[list[FilePiece], list[FileUnreadable]]:
        """Read the pieces of files that a node asks for; on a thread that may wait for disks.

        Returns:
            The pieces that could be read, in the order of the message; and one refusal, with the reason, for each
            file that is gone, changed or not held any more.
        """
        pieces = []
        unreadable: dict[bytes, FileUnreadable] = {}
        for piece in message.pieces:
            holder = self._held.get(piece.digest)
            if piece.digest in unreadable:
                continue
            try:
                if holder is None:
                    raise OSError("the program has no such file any more")
                data = read(holder.source, piece.offset, piece.size)
            except OSError as error:
                reason = str(error)
                unreadable[piece.digest] = FileUnreadable(message.computation, piece.digest, reason)
                continue
            pieces.append(FilePiece(piece.digest, piece.offset, data))  # type: ignore[arg-type]  # a view is never encoded
        return pieces, list(unreadable.values())


def send_file(cluster: Steering, path: Any, node: Any) -> int:
    """Put a file or a module on nodes in use, and wait, without limit, until each of them has answered.

    The work of ``JobCluster.send_file``, on the caller's thread.

    Args:
        cluster: Cluster whose nodes are meant.
        path: Path or module.
        node: ``DispyNode``, address or host name; None: all nodes in use.

    Returns:
        0 if all these nodes have it; -1, with a warning that says why, if one has not, or no such node is in use.

    Raises:
        UsageError: The file cannot be sent, ``node`` names no node, or the cluster is closed.
    """
    cluster._check_open()
    if not is_file_item(path):
        raise UsageError(f"send_file takes the path of a file, not {path!r}")
    # ``held`` is kept until all nodes have answered: they ask for the bytes meanwhile.
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
    """Send nodes the request to take files, and note it in ``_sending``. On the loop.

    Args:
        cluster: Cluster whose nodes are meant.
        names: The one node that is meant; None: all nodes in use.
        entries: Descriptions of the files.
        held: Holders of the files.

    Returns:
        A future for each node that was asked, set by ``on_files``: to an empty text when the node has the files, or
        to the reason why it has not. Empty if no such node is in use.
    """
    placements = cluster._engine.service.state.computations[EMBEDDED, cluster._number].placements
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
        cluster._engine.service.handle(core.SendFiles(core.EMBEDDED, found, message))
    return futures


def _wait_sent(cluster: ClusterState, future: concurrent.futures.Future[str]) -> str:
    """Wait for a node's answer, without limit. Returns an empty text, or the reason why the node lacks the files.

    Looks each second whether the cluster was closed meanwhile, as no answer comes then.
    """
    while True:
        try:
            return future.result(1.0)
        except TimeoutError:
            if cluster._is_closed or cluster._engine._is_stopped:
                return "the cluster was closed"


def on_files(cluster: Steering, action: core.TellFiles) -> None:
    """Take a node's answer to ``send_file``, and wake the thread that waits for it. On the loop.

    Files that are there are recorded in ``cluster._sent``, unless the node is lost by now.
    """
    sending = cluster._sending.pop((action.node, action.request), None)
    if sending is None:
        return
    info = cluster._info(action.node)
    if info is not None and not action.reason:
        cluster._sent.note(cluster._engine.service.target_of(info.node), sending.entries, sending.held)
    sending.future.set_result(action.reason)
