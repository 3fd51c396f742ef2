"""Working directories of a node: real ones on the memory file system, and what has to lie in them.

What must be there is noted from outside: what the node was told to put there, and what it said of that.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.files.untrusted_directory import Tree
from tests.trees import open_tree

from .contents import by_digest
from .files import no_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dispy.protocol.files import FileEntry


class WorkSpace:
    """What ``workspace.WorkSpace`` is to a node, but for directories that clients name.

    Args:
        root: A directory of this run of the node; made, and what was there is removed.
    """

    def __init__(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        self._root = root
        self.is_full = False
        self.wanted: dict[Path, dict[str, set[bytes]]] = {}
        """What may lie in each directory under each name: one content, or several while it is being
        replaced; an empty digest stands for nothing."""

    def open(self, name: str, account: None = None) -> Path:
        """A working directory."""
        if self.is_full:
            raise no_space()
        path = self._root / name
        path.mkdir(exist_ok=True)
        self.wanted.setdefault(path, {})
        return path

    def leave(self, path: Path) -> None:
        """It is not needed any more."""
        self.wanted.pop(path, None)
        shutil.rmtree(path, ignore_errors=True)

    def tree(self, path: Path) -> Tree:
        """The files of a directory."""
        return open_tree(path)

    def account_at(self, path: Path) -> None:
        """All run as one."""

    def close(self) -> None:
        """Remove all."""
        self.wanted.clear()
        shutil.rmtree(self._root)

    # What the node is told, and says.

    def on_stage(self, path: Path, entries: Iterable[FileEntry]) -> None:
        """Files of a computation are to be put there before it runs."""
        if path in self.wanted:
            self.wanted[path] = {entry.path: {entry.digest} for entry in entries}

    def on_place(self, path: Path, entries: Iterable[FileEntry]) -> None:
        """Files are to be put there while jobs may run."""
        wanted = self.wanted.get(path)
        for entry in entries if wanted is not None else ():
            assert wanted is not None
            # Before there was none of it: until it is said to be there, nothing is for sure.
            wanted.setdefault(entry.path, {b""}).add(entry.digest)

    def on_placed(self, path: Path, entries: Iterable[FileEntry]) -> None:
        """They are said to be there."""
        wanted = self.wanted.get(path)
        for entry in entries if wanted is not None else ():
            assert wanted is not None
            wanted[entry.path] = {entry.digest}

    # What is there.

    def find_wrong(self, path: Path, brought: Iterable[str]) -> str | None:
        """What is not as it has to be, but for names of files that jobs bring that run."""
        besides = set(brought)
        if path not in self.wanted:
            return "the directory itself is not there"
        wanted = self.wanted[path].items()
        return find_wrong_among(path, {name: digests for name, digests in wanted if name not in besides})

    def find_left(self, path: Path) -> str | None:
        """What lies in a directory and does not belong there, when nothing is being put there."""
        wanted = self.wanted.get(path, {})
        for directory, _, names in os.walk(path):
            for name in names:
                below = os.path.relpath(f"{directory}/{name}", path)
                if below not in wanted:
                    return below
        return None


def read(path: Path) -> bytes | None:
    """What is in a file; None: there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def find_wrong_among(path: Path, wanted: Mapping[str, set[bytes]]) -> str | None:
    """Which of these files has none of the contents that it may have; an empty digest stands for nothing."""
    for name, digests in wanted.items():
        found = read(path / name)
        if not any(found == (by_digest[digest] if digest else None) for digest in digests):
            return f"{name} is {_describe(found)}"
    return None


def find_wrong_of(path: Path, entries: Iterable[FileEntry]) -> str | None:
    """Which of these files of a job is not there as it was."""
    for entry in entries:
        found = read(path / entry.path)
        if found != by_digest[entry.digest]:
            return f"{entry.path} is {_describe(found)}"
    return None


def _describe(found: bytes | None) -> str:
    return "not there" if found is None else f"another one, of {len(found)} bytes"
