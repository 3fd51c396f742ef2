"""Directories of one run of a node that belong to jobs: each is held open, and given up at its computation's end.

The directory around them is the node's own. Jobs of the node's own user, or of other accounts, do as they like in
theirs. So the node holds a descriptor of each, looks for one name at a time in it, and leaves all that takes more,
such as the removal of what jobs have made there, to a process with the rights of the jobs (``file_helpers``).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dispy.files.untrusted_directory import Tree
from dispy.node.machine.accounts import Account
from dispy.node.processes.file_helpers import FileHelpers, LentTree
from dispy.system.run_directory import Place, remove_tree, sweep

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory; a link in its place is an error."""

STALL_MAX = 64 * 1024 * 1024
"""Bytes of files whose pages are given back at once, on the event loop: 20 ms here. For more a thread is started."""


class Held(NamedTuple):
    """A directory of jobs that is held open.

    Attributes:
        descriptor: Descriptor of the directory.
        account: Account that it belongs to; None: this user.
    """

    descriptor: int
    account: Account | None


class JobDirectories(Place):
    """A directory of the node with directories of jobs in it. ``tree`` may be called by any thread.

    Args:
        base: Directory in which that of the node is made; made if it is missing, and private.
        incarnation: Name of this run of the node.
        helpers: Processes that work as other accounts; None: all jobs run as this user.
    """

    def __init__(self, base: Path, incarnation: str, helpers: FileHelpers | None) -> None:
        self._helpers = helpers
        self.guard = threading.Lock()
        """Guards ``_held`` and the descriptors in it: none is closed while another thread copies it."""
        self._held: dict[Path, Held] = {}
        """The directories of jobs that are open, by path."""
        self._removing: list[threading.Thread] = []
        """Threads that remove directories which were given up; those that have ended are taken out by the next."""
        self._drops = 1
        """Number in the name that the next directory gets on its way to removal."""
        super().__init__(base, incarnation, 0o700 if helpers is None else 0o711, self._remove_run_of)

    def open(self, name: str, account: Account | None = None) -> Path:
        """Make directory ``name`` and give it to an account, or take the one that is there; returns its path.

        Raises:
            OSError: The directory cannot be made, or another user's is there.
        """
        return self.hold(self.root / name, account)

    def hold(self, path: Path, account: Account | None) -> Path:
        """Make and hold a directory in a directory of ours, or one that is there already; returns its path.

        A computation comes back to its directories when its host is restarted.

        Raises:
            OSError: The directory cannot be made, or another user's is there.
        """
        with self.guard:
            held = self._held.get(path)
            if held is not None and not os.fstat(held.descriptor).st_nlink:
                os.close(self._held.pop(path).descriptor)  # somebody has removed it
                held = None
            if held is None:
                self._held[path] = Held(make_for(account, path), account)
        return path

    def at(self, path: Path) -> Held:
        """Returns a directory that is held; raises FileNotFoundError if it was given up."""
        try:
            return self._held[path]
        except KeyError:
            raise FileNotFoundError(
                errno.ENOENT, "the directory of the computation is gone", str(path)
            ) from None

    def account_at(self, path: Path) -> Account | None:
        """Returns the account that a directory belongs to; None: this user; also if the directory was given up."""
        with self.guard:
            held = self._held.get(path)
            return held.account if held is not None else None

    def tree(self, path: Path) -> Tree | LentTree:
        """Returns the files of a directory that is held, for one use; on any thread.

        Raises:
            OSError: The directory was given up.
        """
        with self.guard:
            held = self.at(path)
            return self._tree_of(held)

    def _tree_of(self, held: Held) -> Tree | LentTree:
        """Returns the files of an open directory, worked with by its account."""
        if self._helpers is None:
            return Tree(held.descriptor)
        return self._helpers.tree(held.descriptor, held.account)

    def drop(self, path: Path) -> None:
        """Give a directory up and remove it with all that is in it. Raises no OSError.

        Its name is free at once. What takes longer, as the files directly in it have more than ``STALL_MAX`` bytes or
        belong to an account, is done by a thread.
        """
        with self.guard:
            held = self._held.pop(path, None)
        if held is None:
            return
        with suppress(OSError):
            gone = path.with_name(f".{path.name}-{self._drops}")
            self._drops += 1
            if held.account is not None or _size_of(held.descriptor) > STALL_MAX:
                os.rename(path, gone)
                self._removing = [thread for thread in self._removing if thread.is_alive()]
                thread = apart(self._finish_drop, gone, held)
                if thread is not None:
                    self._removing.append(thread)
                return
        self._finish_drop(path, held)

    def _finish_drop(self, path: Path, held: Held) -> None:
        """Remove a directory that was given up, and close it."""
        try:
            if held.account is None:
                remove_tree(path)
                return
            with suppress(OSError), self._tree_of(held) as tree:
                tree.empty()
            with suppress(OSError):
                os.rmdir(path)
        finally:
            os.close(held.descriptor)

    def sweep(self) -> None:
        """Remove directories that killed programs and nodes have left beside ours, on a thread.

        Called when the connection to a client that shares memory is lost: the client may have been killed.
        """
        apart(sweep, self.root.parent, self._remove_run_of)

    def _remove_run_of(self, path: Path) -> None:
        """Remove the directory of a run, this one's or a dead one's. Raises no OSError.

        What accounts have is emptied by their helpers; all around it is ours.
        """
        if self._helpers is None:
            remove_tree(path)
            return
        with suppress(OSError):
            directory = os.open(path, DIRECTORY)
            try:
                self._remove_entries(directory, self._helpers)
            finally:
                os.close(directory)
            os.rmdir(path)

    def _remove_entries(self, directory: int, helpers: FileHelpers) -> None:
        """Remove the entries of a directory of ours, in which directories of accounts may be."""
        for name in os.listdir(directory):
            with suppress(OSError):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    os.unlink(name, dir_fd=directory)
                    continue
                below = os.open(name, DIRECTORY, dir_fd=directory)
                try:
                    if status.st_uid == os.getuid():
                        self._remove_entries(below, helpers)
                    else:
                        with LentTree(helpers.of((status.st_uid, status.st_gid)), below) as tree:
                            tree.empty()
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=directory)

    def close(self) -> None:
        """Give up all directories, and remove them with the one around them. Safe to repeat."""
        for thread in self._removing:
            thread.join()
        with self.guard:
            held, self._held = self._held, {}
        for each in held.values():
            os.close(each.descriptor)
        super().close()


def make_for(account: Account | None, path: Path) -> int:
    """Make a private directory in a directory of ours and give it to an account, or open the one that is there.

    Returns its descriptor, which the caller closes.

    Raises:
        OSError: The directory cannot be made, or another user's is there.
    """
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    directory = os.open(path, DIRECTORY)
    try:
        status = os.fstat(directory)
        if status.st_uid == os.getuid():
            if account is not None:
                os.fchown(directory, account.uid, account.gid)
        elif account is None or status.st_uid != account.uid:
            raise OSError(errno.EPERM, f"{path} belongs to another user")
    except BaseException:
        os.close(directory)
        raise
    return directory


def _size_of(directory: int) -> int:
    """Returns the bytes of the files directly in a directory."""
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)


def apart(remove: Callable[..., None], *arguments: object) -> threading.Thread | None:
    """Call a function on a thread of its own, which is returned, so that the event loop goes on.

    If none can be started, the function is called at once, and None returned.
    """
    thread = threading.Thread(target=remove, args=arguments, name="dispy removes", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        remove(*arguments)
        return None
    return thread
