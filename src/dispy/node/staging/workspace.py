"""Working directories of a node, on disk: its own, which it removes at its end, and named ones, which may stay.

A named directory lies below ``dispy-files-UID``, by its owner, where other nodes and later ones find it. That
directory and those of the owners are the node's; the first name below an owner, and all below that, belong to the
account of the jobs. Theory of operation, which makes removal safe against crashes and other nodes:

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
import pwd
from contextlib import suppress
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.node.machine.accounts import Account
from dispy.node.processes.file_helpers import FileHelpers
from dispy.node.staging.job_directories import Held, JobDirectories, make_for
from dispy.protocol.files import check_path
from dispy.system.directories import find_own, own_directory, reopen_private, temporary_directory
from dispy.system.run_directory import is_abandoned

_NOTE = "remove-"
"""Prefix of the names of notes: files in the node's own directory that each name a directory to remove."""


class _Destination:
    """A working directory under a name that clients have given.

    Args:
        account: Account of its jobs; None: this user.
        parts: Address of the client, and the names on the way to the directory below that.
        note: Path of the note that says that the directory is to be removed.
        is_kept: True if the directory stays when no computation uses it any more.
    """

    __slots__ = ("account", "first", "is_kept", "lock", "note", "parts", "users")

    def __init__(self, account: Account | None, parts: tuple[str, ...], note: Path, is_kept: bool) -> None:
        self.account = account
        self.parts = parts
        self.note = note
        self.is_kept = is_kept
        self.users = 0
        """Number of computations of this node that use the directory. At 0 this node gives it up, once no directory
        below it is used either."""
        self.first = self.lock = -1
        """Descriptors of the first directory below the address, and of the directory itself, with a shared lock by
        which other nodes see that it is in use; -1: not opened yet."""

    def note_down(self) -> None:
        """Write the note for the node that finds it after our death, or remove it if the directory is to stay."""
        if self.is_kept:
            self.note.unlink(missing_ok=True)
        else:
            self.note.write_text("/".join([self.account.name if self.account else "", *self.parts]))

    def close(self) -> None:
        """Close the descriptors, and give up the lock."""
        for descriptor in {self.first, self.lock} - {-1}:
            os.close(descriptor)


class WorkSpace(JobDirectories):
    """Working directories of one node. The module says how named ones are shared and removed.

    Args:
        prefix: Directory below which the working directories are made; empty: the temporary directory.
        incarnation: Name of this run of the node.
        helpers: Processes that work as the accounts of jobs; None: all jobs run as this user.
    """

    def __init__(self, prefix: str, incarnation: str, helpers: FileHelpers | None = None) -> None:
        self._above = Path(prefix) if prefix else temporary_directory()
        self._destinations: dict[Path, _Destination] = {}
        """Named directories by path, each with its lock, note and number of users: those that computations of this
        node use, and unused ones that contain a used one."""
        self._next = 1
        """Number in the name of the next note."""
        self._helpers = helpers
        ending = "" if helpers is None else "-accounts"
        mode = 0o700 if helpers is None else 0o711
        base = own_directory(self._above / f"dispy-node-{os.getuid()}{ending}", mode)
        for path in base.iterdir():
            if is_abandoned(path):
                self._sweep_noted(path)
        super().__init__(base, incarnation, helpers)

    def _kept(self, account: Account | None) -> Path:
        """Returns the directory below which lie the working directories that clusters have named (``dest_path``).

        Nodes of this user share them; the last node that uses one removes it, unless its cluster keeps it.
        """
        ending = f"-{account.name}" if account is not None else ""
        mode = 0o700 if account is None else 0o711
        return find_own(self._above / f"dispy-files-{os.getuid()}{ending}", mode)

    def open_named(self, whose: str, name: str, account: Account | None = None, *, is_kept: bool) -> Path:
        """Open a working directory that computations may share by its name; returns its path.

        Each call counts one more user, whom ``leave`` takes off again. With an account it asks the account's helper,
        so it is called on a thread.

        Args:
            whose: Name for the owner (``working_directories.name_of_owner``), or address of the client; empty: local.
            name: Path of the directory, relative to the one of the owner.
            account: Account of the jobs; None: this user.
            is_kept: True if the directory stays when no computation uses it any more. The last call decides: an
                earlier computation, whose cluster was just closed, may still be among the users.

        Raises:
            OSError: The directory cannot be made, or the one of all named ones is open to other users.
            ValueError: The name leads elsewhere.
        """
        # Both together: removal checks the whole path, and one that is too deep for it would stay for ever.
        parts = check_path(f"{whose.replace(':', '_') or 'local'}/{name}")
        path = self._open_kept(account).joinpath(*parts)
        known = self._destinations.get(path)
        if known is None:
            known = self._make(account, parts, is_kept=is_kept)
            with self.guard:
                self._destinations[path] = known
                self._held[path] = Held(os.dup(known.lock), account)
        known.users += 1
        known.is_kept = is_kept
        known.note_down()
        return path

    def _open_kept(self, account: Account | None) -> Path:
        """Make the directory of all named ones if it is missing; if another user was first, one beside it.

        Raises:
            OSError: The directory cannot be made.
        """
        mode = 0o700 if account is None else 0o711
        try:
            kept = own_directory(self._kept(account), mode)
        except StateDirectoryError as error:
            raise OSError(str(error)) from error
        os.chmod(kept, mode)  # whatever the umask
        return kept

    def _make(self, account: Account | None, parts: tuple[str, ...], *, is_kept: bool) -> _Destination:
        """Make a named directory, or open one that is there, and take the shared lock on it.

        Raises:
            OSError: The directory cannot be made, or the one of all named ones is open to other users.
        """
        note = self.root / f"{_NOTE}{self._next}"
        self._next += 1
        known = _Destination(account, parts, note, is_kept)
        # Before the directory is made: if we are killed in between there is nothing to remove.
        known.note_down()
        kept, mode = self._kept(account), 0o700 if account is None else 0o711
        while True:
            self._open_kept(account)
            reopen_private(kept / parts[0], mode)
            os.chmod(kept / parts[0], mode)  # whatever the umask
            known.first = make_for(account, kept / parts[0] / parts[1])
            try:
                with self._tree_of(Held(known.first, account)) as tree:
                    known.lock = tree.open_below(parts[2:]) if parts[2:] else os.dup(known.first)
                fcntl.flock(known.lock, fcntl.LOCK_SH)
                if os.fstat(known.lock).st_nlink:
                    return known
            except BaseException:
                known.close()
                raise
            # Another node has just removed it.
            known.close()
            known.first = known.lock = -1

    def leave(self, path: Path) -> None:
        """Note that a computation does not use its working directory any more, named or not.

        When the last computation leaves a named one, the directory is removed, unless it is to stay or another node
        uses it; and so are unused directories around it, which could not be removed while it was in use. With an
        account that asks the account's helper, so this is called on the thread of ``open_named``. Raises no OSError.
        """
        known = self._destinations.get(path)
        if known is None:
            # A named one may be left once more, when the node has ended: hosts are seen to be gone after that, too.
            self.drop(path)
            return
        known.users -= 1
        inner_first = sorted(self._destinations.items(), key=lambda item: len(item[0].parts), reverse=True)
        for place, other in inner_first:
            if other.users or any(place in used.parents for used in self._destinations):
                continue
            with self.guard:
                del self._destinations[place]
                os.close(self._held.pop(place).descriptor)
            if not other.is_kept:
                with suppress(OSError):
                    self._remove_named(other)
            other.close()
            with suppress(OSError):
                other.note.unlink(missing_ok=True)

    def _remove_named(self, known: _Destination) -> None:
        """Remove a named directory, unless another node holds a lock on it: that node then removes it.

        Raises:
            OSError: A directory around it cannot be removed, since it is not empty.
        """
        try:
            fcntl.flock(known.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the node that holds a lock on it removes it
        below = "/".join(known.parts[2:])
        with self._tree_of(Held(known.first, known.account)) as tree:
            if below:
                tree.remove_directory(below)
            else:
                tree.empty()
        kept = self._kept(known.account)
        os.rmdir(kept / known.parts[0] / known.parts[1])
        os.rmdir(kept / known.parts[0])
        os.rmdir(kept)

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
            with suppress(OSError, ValueError, KeyError):
                user, _, text = note.read_text().partition("/")
                account = _account_named(user)
                known = _Destination(account, tuple(check_path(text)), note, is_kept=False)
                place = self._kept(account) / known.parts[0] / known.parts[1]
                known.first = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    with self._tree_of(Held(known.first, account)) as tree:
                        known.lock = tree.open_below(known.parts[2:], make=False)
                    self._remove_named(known)
                finally:
                    known.close()

    def close(self) -> None:
        """Remove all directories, except named ones that are to stay or that other nodes use."""
        for known in self._destinations.values():
            known.users = 0
        for path, known in list(self._destinations.items())[:1]:
            known.users = 1
            self.leave(path)
        super().close()


def _account_named(name: str) -> Account | None:
    """Returns an account by its login name, with what its helper needs; None for an empty name.

    Raises:
        KeyError: There is no such account.
    """
    if not name:
        return None
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, (), entry.pw_dir, entry.pw_shell)
