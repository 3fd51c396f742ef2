"""Working directories of a node, on disk: its own, which it removes at its end, and named ones, which may stay.

A named directory lies below ``dispy-files-UID``, by the address of the client, where other nodes and later ones find
it. Theory of operation, which makes removal safe against crashes and other nodes:

- Each node that uses a named directory holds a shared lock (``flock``) on it. A node that wants to remove it needs
  the exclusive lock, so the last user removes it.
- A directory that is to be removed is noted in a file of the node's own directory *before* it is made. After a crash,
  the next node finds the abandoned notes, and removes what they name, unless another node holds a lock.
- Between ``open`` and the lock, another node may have removed the directory. Then its count of links is 0, and it is
  made again.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from dispy.files.untrusted_directory import Tree
from dispy.node.machine.accounts import Account
from dispy.protocol.files import check_path
from dispy.system.directories import private_directory, reopen_private, temporary_directory
from dispy.system.run_directory import Place, is_abandoned

_NOTE = "remove-"
"""Prefix of the names of notes: files in the node's own directory that each name a directory to remove."""


class _Destination:
    """A working directory under a name that clients have given.

    Args:
        parts: Address of the client, and the names on the way to the directory below that: together its path below
            ``dispy-files-UID``.
        note: Path of the note that says that the directory is to be removed.
        is_kept: True if the directory stays when no computation uses it any more.
    """

    __slots__ = ("is_kept", "lock", "note", "parts", "users")

    def __init__(self, parts: tuple[str, ...], note: Path, is_kept: bool) -> None:
        self.parts = parts
        self.note = note
        self.is_kept = is_kept
        self.users = 0
        """Number of computations of this node that use the directory. At 0 this node gives it up, once no directory
        below it is used either."""
        self.lock = -1
        """Descriptor of the directory, with a shared lock by which other nodes see that it is in use; -1: not opened
        yet."""

    def note_down(self) -> None:
        """Write the note for the node that finds it after our death, or remove it if the directory is to stay."""
        if self.is_kept:
            self.note.unlink(missing_ok=True)
        else:
            self.note.write_text("/".join(self.parts))


class WorkSpace(Place):
    """Working directories of one node. The module says how named ones are shared and removed.

    Args:
        prefix: Directory below which the working directories are made; empty: the temporary directory.
        incarnation: Name of this run of the node.
        account: Account that the directories are given to; None: ours.
    """

    def __init__(self, prefix: str, incarnation: str, account: Account | None = None) -> None:
        ending = f"{os.getuid()}" + (f"-{account.name}" if account else "")
        above = Path(prefix) if prefix else temporary_directory()
        self._kept = above / f"dispy-files-{ending}"
        """Directory below which lie the working directories that clusters have named (``dest_path``). Nodes of this
        user share them; the last node that uses one removes it, unless its cluster keeps it."""
        self._destinations: dict[Path, _Destination] = {}
        """Named directories by path, each with its lock, note and number of users: those that computations of this
        node use, and unused ones that contain a used one."""
        self._next = 1
        """Number in the name of the next note."""
        self._ids = (account.uid, account.gid) if account is not None else None
        """User and group that working directories are given to; None: they stay ours."""
        base = private_directory(above / f"dispy-node-{ending}", 0o700 if account is None else 0o711)
        for path in base.iterdir():
            if is_abandoned(path):
                self._sweep_noted(path)
        super().__init__(base, incarnation, self._ids)

    def open_named(self, address: str, name: str, *, is_kept: bool) -> Path:
        """Open a working directory that computations may share by its name; returns its path.

        Each call counts one more user, whom ``leave`` takes off again.

        Args:
            address: Address of the client; empty: local.
            name: Path of the directory, relative to the one of the client's address.
            is_kept: True if the directory stays when no computation uses it any more. The last call decides: an
                earlier computation, whose cluster was just closed, may still be among the users.

        Raises:
            OSError: The directory cannot be made, or the one of all named ones is open to other users.
            ValueError: The name leads elsewhere.
        """
        # Both together: removal checks the whole path, and one that is too deep for it would stay for ever.
        parts = check_path(f"{address.replace(':', '_') or 'local'}/{name}")
        path = self._kept.joinpath(*parts)
        known = self._destinations.get(path)
        if known is None:
            known = self._make(parts, is_kept=is_kept)
            self._destinations[path] = known
        known.users += 1
        known.is_kept = is_kept
        known.note_down()
        return path

    def _make(self, parts: tuple[str, ...], *, is_kept: bool) -> _Destination:
        """Make a named directory, or open one that is there, and take the shared lock on it.

        Raises:
            OSError: The directory cannot be made, or the one of all named ones is open to other users.
        """
        reopen_private(self._kept, 0o700 if self._ids is None else 0o711)
        note = self.root / f"{_NOTE}{self._next}"
        self._next += 1
        known = _Destination(parts, note, is_kept)
        # Before the directory is made: if we are killed in between there is nothing to remove.
        known.note_down()
        while True:
            with Tree(self._kept) as tree:
                address = tree.descend(parts[:1])
                if self._ids is not None:
                    os.fchmod(address, 0o711)
                with Tree(address, self._ids) as below:
                    known.lock = os.dup(below.descend(parts[1:]))
            fcntl.flock(known.lock, fcntl.LOCK_SH)
            if os.fstat(known.lock).st_nlink:
                return known
            # Another node has just removed it.
            os.close(known.lock)

    def leave(self, path: Path) -> bool:
        """Note that a computation does not use its named directory any more.

        Returns False if the directory is not a named one: then the caller removes it.

        When the last computation leaves, the directory is removed, unless it is to stay or another node uses it; and
        so are unused directories around it, which could not be removed while it was in use.
        """
        known = self._destinations.get(path)
        if known is None:
            # Named all the same, once the node has ended: hosts are seen to be gone after that, too.
            return self._kept in path.parents
        known.users -= 1
        inner_first = sorted(self._destinations.items(), key=lambda item: len(item[0].parts), reverse=True)
        for place, other in inner_first:
            if other.users or any(place in used.parents for used in self._destinations):
                continue
            del self._destinations[place]
            if not other.is_kept:
                self._remove_named(other.parts, other.lock)
            os.close(other.lock)
            other.note.unlink(missing_ok=True)
        return True

    def _remove_named(self, parts: tuple[str, ...], lock: int) -> None:
        """Remove a named directory, unless another node holds a lock on it: that node then removes it.

        Args:
            parts: Address of the client, and the names on the way to the directory below that.
            lock: Descriptor of the directory, which the exclusive lock is tried on.
        """
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the node that holds a lock on it removes it
        with suppress(OSError):
            with Tree(self._kept) as tree:
                tree.remove_directory("/".join(parts))
            self._kept.rmdir()

    def _sweep_noted(self, abandoned: Path) -> None:
        """Remove the named directories that a dead node had noted.

        Args:
            abandoned: The own directory of the dead node.
        """
        try:
            notes = list(abandoned.glob(f"{_NOTE}*"))
        except OSError:
            return  # another node that starts has removed it since we looked
        for note in notes:
            with suppress(OSError, ValueError):
                text = note.read_text()
                parts = tuple(check_path(text))
                with Tree(self._kept) as tree:
                    self._remove_named(parts, tree.descend(parts, make=False))

    def close(self) -> None:
        """Remove all directories, except named ones that are to stay or that other nodes use."""
        for known in self._destinations.values():
            known.users = 0
        for path, known in list(self._destinations.items())[:1]:
            known.users = 1
            self.leave(path)
        super().close()
