"""The files that a cluster sends, and how nodes get them that ask."""

from __future__ import annotations

import concurrent.futures
import logging
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import config
from dispy.client.code.imports import find_modules, names_of
from dispy.core import scheduling as core
from dispy.errors import UsageError
from dispy.files.manifest import Manifest, Signature, Source, collect, is_file_item, read
from dispy.protocol.files import FileEntry, check_number, replace_entries
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles, PlaceFiles
from dispy.scheduler.link import Target

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import NodeNames, Steering
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")


def listed(entries: list[FileEntry]) -> list[FileEntry]:
    """A list of files, if it can be sent.

    Raises:
        UsageError: There are too many.
    """
    try:
        check_number(entries)
    except ValueError as error:
        raise UsageError(
            f"with its own files it would have {error}", hint="put them into an archive that setup unpacks"
        ) from None
    return entries


class Held:
    """A file that nodes may ask for, as long as somebody holds this."""

    __slots__ = ("__weakref__", "digest", "source")

    def __init__(self, digest: bytes, source: Source) -> None:
        self.digest = digest
        self.source = source


class Sending(NamedTuple):
    """Files on their way to a node, for ``send_file``."""

    future: concurrent.futures.Future[str]
    entries: list[FileEntry]
    held: list[Held]


class Sent:
    """What ``send_file`` has put where: a node that comes back after it had ended gets it again."""

    def __init__(self) -> None:
        self._entries: dict[Target, list[FileEntry]] = {}
        self._held: dict[Target, dict[bytes, Held]] = {}

    def note(self, target: Target, entries: list[FileEntry], held: list[Held]) -> None:
        """Files lie on a node that is reached there, in place of what had their paths before."""
        known = self._entries[target] = replace_entries(self._entries.get(target, ()), entries)
        holders = self._held.get(target, {}) | {holder.digest: holder for holder in held}
        self._held[target] = {entry.digest: holders[entry.digest] for entry in known}

    def with_files(self, target: Target, files: list[FileEntry]) -> list[FileEntry]:
        """All that is to be on a node that has (or had) some of these files by its computation."""
        sent = self._entries.get(target)
        return replace_entries(files, sent) if sent else files


class Shipped:
    """Files of one cluster, by content.

    Args:
        base: Files below it keep their places relative to it; None: there are none.
    """

    def __init__(self, base: Path | None) -> None:
        self.base = base
        self._held: weakref.WeakValueDictionary[bytes, Held] = weakref.WeakValueDictionary()

    def take(
        self,
        items: list[Any],
        before: Iterable[FileEntry] = (),
        program: str = "",
        extensions: Iterable[tuple[str, str]] = (),
        sent: Iterable[FileEntry] = (),
    ) -> tuple[list[FileEntry], list[Held]]:
        """What paths and modules stand for; may take as long as reading the files.

        Args:
            items: Paths and modules; of the latter also what they import, if that is not installed.
            before: Files that are there as well, and stay.
            program: A file that lies beside them, to be run.
            extensions: Compiled modules that code needs: where they lie, and where they are to lie.
            sent: Files that are there as well: what is only imported is not sent in their places.

        Returns:
            The files, and what is to be held as long as nodes may ask for them.

        Raises:
            UsageError: One of them cannot be sent, and why.
        """
        modules = [*extensions, *find_modules(names_of(items))]
        if modules:
            paths = {entry.path for entry in (*before, *sent)}
            modules = [(path, target) for path, target in modules if target not in paths]
        manifest: Manifest = collect(items, self.base, config.MaxFileSize, program, modules)
        entries = manifest.listed(before)
        held = []
        for digest, source in manifest.sources.items():
            # Of two files with this content, the one that was looked at last is the one to be there longer.
            holder = self._held[digest] = Held(digest, source)
            held.append(holder)
        return entries, held

    def known(self) -> list[tuple[bytes, str, Signature]]:
        """Where the bytes of all files are, by digest."""
        return [(digest, held.source.path, held.source.signature) for digest, held in self._held.items()]

    def restore(self, known: Iterable[tuple[bytes, str, Signature]]) -> list[Held]:
        """Take up files that another program had; returns what is to be held."""
        held = []
        for digest, path, signature in known:
            holder = self._held[digest] = Held(digest, Source(path, signature))
            held.append(holder)
        return held

    def answer(self, message: NeedFiles) -> tuple[list[FilePiece], list[FileUnreadable]]:
        """Read what a node asks for; on a thread that may wait for disks."""
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
    """What ``JobCluster.send_file`` does; on the caller's thread."""
    from dispy.client.cluster_nodes import NodeNames  # which knows clusters, and these files

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
