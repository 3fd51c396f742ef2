"""Files that a cluster sends to nodes: found and hashed on the program's thread, read when nodes ask for them.

Nodes are told a list of files (``FileEntry``: path, digest, size) and ask for the bytes that they do not have. A file
can be asked for as long as its ``Held`` is alive: the cluster keeps those of ``depends``, its ``held`` those of jobs,
a ``Sending`` and then ``Sent`` those of ``send_file``. Bytes are read when a node asks for them; a file that has
changed since it was hashed is refused.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import config
from dispy.client.code.imports import find_modules, names_of
from dispy.errors import UsageError
from dispy.files.manifest import Manifest, Signature, Source, collect, read
from dispy.protocol.files import FileEntry, check_number, replace_entries
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles

if TYPE_CHECKING:
    from dispy.protocol.views import NodeId


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


Address = tuple[str, int]
"""IP address and TCP port of a node."""


class Sent:
    """Record of the files of ``send_file``: on their way to nodes, and on them, so that a restarted node gets them
    again. On the loop.
    """

    def __init__(self) -> None:
        self._requests = itertools.count(1)
        """Source of numbers for the requests to nodes; each answer repeats its number."""
        self.under_way: dict[tuple[NodeId, int], Sending] = {}
        """Files that a node has not acknowledged yet, by the node's identity and the request's number."""
        self._entries: dict[Address, list[FileEntry]] = {}
        """Descriptions of the files that each node has got, by its address: a restarted node has the same address."""
        self._held: dict[Address, dict[bytes, Held]] = {}
        """Holders of the files in ``_entries``, by the node's address, then digest: a node may ask for the bytes."""

    def begin(
        self, node: NodeId, entries: list[FileEntry], held: list[Held]
    ) -> tuple[int, concurrent.futures.Future[str]]:
        """Note that a node is asked to take files.

        Returns:
            Number of the request, and the future that is to be set by its answer (``Sending.future``).
        """
        request = next(self._requests)
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        self.under_way[node, request] = Sending(future, entries, held)
        return request, future

    def answered(self, node: NodeId, request: int) -> Sending | None:
        """Returns what a node has answered to, and forgets it; None if that is not known."""
        return self.under_way.pop((node, request), None)

    def note(self, node: Address, entries: list[FileEntry], held: list[Held]) -> None:
        """Record that files are on a node, and hold them. A file replaces an older one with the same path.

        Args:
            node: The node.
            entries: Descriptions of the files.
            held: Holders of their contents.
        """
        known = self._entries[node] = replace_entries(self._entries.get(node, ()), entries)
        holders = self._held.get(node, {}) | {holder.digest: holder for holder in held}
        self._held[node] = {entry.digest: holders[entry.digest] for entry in known}

    def with_files(self, node: Address, files: list[FileEntry]) -> list[FileEntry]:
        """Returns descriptions of all files that a node is to have, for the message that sends it the computation.

        Args:
            node: The node.
            files: Descriptions of the files that the node gets with the computation.

        Returns:
            ``files`` and those of ``send_file``, which take precedence where paths are equal; ``files`` itself if
            ``send_file`` has put nothing there.
        """
        sent = self._entries.get(node)
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
