"""The files of a cluster, as its session has them: what is given as a path stands for files that are played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dispy.client.code.shipped_files import Held, Shipped
from dispy.protocol.files import FileEntry
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles

from . import contents


class PlayedHeld(Held):
    """Holds a file of a program, as long as somebody has it and the cluster is open."""

    def __init__(self, shipped: PlayedShipped, digest: bytes) -> None:
        self.digest = digest
        self._shipped = shipped
        shipped.hold(digest, 1)

    def __del__(self) -> None:
        self._shipped.hold(self.digest, -1)


class PlayedShipped(Shipped):
    """As ``Shipped``, over the files of a played program.

    Args:
        files: Those of the program.
    """

    def __init__(self, files: contents.Shipped) -> None:
        self.base = None
        self._files = files
        self._names: dict[str, list[FileEntry]] = {}
        self._holds: Counter[bytes] = Counter()
        self._is_closed = False

    def name(self, entries: list[FileEntry]) -> str:
        """A text that stands for files, where a program gives a path."""
        text = f"files {len(self._names) + 1}"
        self._names[text] = entries
        return text

    def hold(self, digest: bytes, count: int) -> None:
        """Hold a file once more, or (-1) once less. When the cluster is closed all are let go."""
        if not self._is_closed:
            self._files.held[digest] += count
            self._holds[digest] += count

    def close(self) -> None:
        """Let go of all files: not when the collector finds that nobody has them."""
        self._is_closed = True
        self._files.held.subtract(self._holds)
        self._holds.clear()

    def take(
        self,
        items: list[Any],
        before: Iterable[FileEntry] = (),
        program: str = "",
        extensions: Iterable[tuple[str, str]] = (),
        sent: Iterable[FileEntry] = (),
    ) -> tuple[list[FileEntry], list[Held]]:
        """As of the real one."""
        entries = [entry for item in items for entry in self._names[item]]
        held = [PlayedHeld(self, digest) for digest in {entry.digest: None for entry in entries}]
        return sorted(entries, key=lambda entry: entry.path), held

    def known(self) -> list[Any]:
        """A recovery has files of its own."""
        return []

    def answer(self, message: NeedFiles) -> tuple[list[FilePiece], list[FileUnreadable]]:
        """As of the real one."""
        return self._files.answer(message)
