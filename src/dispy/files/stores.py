"""The stores of a node: one for each owner of files and account of jobs, below one directory, bounded together.

Theory of operation:

- A digest is no claim to a content: whoever names it gets the file from the store of *his* owner, or has to send it.
  So each owner has a store of his own, even if two have the same files.
- A client says by 32 random bytes who the owner is; who knows these is the owner. So the directory of a store is
  named by a keyed hash of them, and they are written nowhere.
- Jobs of another account have another store than jobs of the node's: these may have been lent files.
- All nodes of a user share the directory. What was used longest ago is removed first, whose ever it is.
- Directories without files are removed. A node that is about to make a file there makes them again
  (``Store._open``).

Layout: ``NAME/`` a store (``files.store``); ``lock`` held while a node trims. Earlier versions had one store for all
owners: its files lie in ``ab/``, belong to nobody, and are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import time
import weakref
from pathlib import Path

from dispy.files.store import NOTE, Shared, Store
from dispy.system.run_directory import is_unlocked

YOUNG_S = 60
"""Seconds since its last use during which a part is not trimmed, though it has no lock: a node may be about to take
the lock."""

_OLD_NAME_MAX = 2
"""Length of the names of directories with files of earlier versions. The names of stores are longer."""


class Stores:
    """The stores of one node. Several threads may call ``trim``; the rest is for the event loop.

    Args:
        root: Directory of all stores, the user's alone. Made on first use.
        size_max: Bytes of disk that ``trim`` leaves at most, of all stores together. Between two trims there may be
            more.
        key: Key of the node's secret: clients with another secret have other stores.
    """

    def __init__(self, root: Path, size_max: int, key: bytes) -> None:
        self._shared = Shared(root)
        self._size_max = size_max
        self._key = key
        self._stores: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
        """Stores that something on the node uses, by name: one object for each."""

    def of(self, client: bytes, owner: bytes, account: str = "") -> Store:
        """Returns the store of an owner.

        Args:
            client: Identity of the client, which owns its files itself if it names no owner.
            owner: Owner that the client has named; empty: none.
            account: Name of the account that the owner's jobs run as; empty: that of the node.
        """
        who = b"owner" + hashlib.sha256(owner).digest() if owner else b"client" + client
        said = b"dispy store\0" + hashlib.sha256(who).digest() + account.encode()
        name = hmac.digest(self._key, said, "sha256")[:16].hex()
        store = self._stores.get(name)
        if store is None:
            store = self._stores[name] = Store(self._shared.root / name, self._shared)
        return store

    def trim(self) -> None:
        """Remove files used longest ago until ``size_max`` bytes are left. Does nothing while another node trims."""
        root = self._shared.root
        if not self._shared.has_grown or not root.is_dir():
            return
        self._shared.has_grown = False
        with contextlib.suppress(OSError):
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _Trimming(root).run(self._size_max)
            finally:
                os.close(lock)


class _Trimming:
    """One run over all stores below a directory, whose lock the caller holds.

    Directories count, too: otherwise many owners with one empty file each would take any room.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._left = 0
        """Bytes of disk that all files and directories take."""
        self._sizes: dict[str, int] = {}
        """Bytes of disk that each directory takes itself, by path."""
        self._entries: dict[str, int] = {}
        """Number of files and directories in each directory that are left, by path. At 0 it is removed."""

    def run(self, size_max: int) -> None:
        """Remove files and parts, used longest ago first, until ``size_max`` bytes of disk are left.

        Parts stay that a node receives, or that were used in the last ``YOUNG_S`` seconds. Files of earlier versions
        go first, however few bytes are there.
        """
        found = self._find()
        young = time.time_ns() - YOUNG_S * 1_000_000_000
        for is_new, used, size, path in sorted(found):
            if is_new and self._left <= size_max:
                break
            if not path.endswith(".part") or (used < young and _is_free(path)):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    self._on_removed(path, size)
                    if not path.endswith((".part", NOTE)):
                        status = os.lstat(path + NOTE)
                        os.unlink(path + NOTE)
                        self._on_removed(path + NOTE, status.st_blocks * 512)
        for path, count in list(self._entries.items()):
            if not count:
                self._remove_directory(path)

    def _find(self) -> list[tuple[bool, int, int, str]]:
        """Returns all files: False if of an earlier version, time of last use (ns), bytes of disk, path."""
        found = []
        stores = [
            item.path
            for item in os.scandir(self._root)
            if item.is_dir(follow_symlinks=False) and len(item.name) > _OLD_NAME_MAX
        ]
        for above in (self._root, *stores):
            for directory in self._directories(above):
                for item in self._scan(directory):
                    with contextlib.suppress(OSError):
                        status = item.stat(follow_symlinks=False)
                        size = status.st_blocks * 512
                        found.append((above != self._root, status.st_atime_ns, size, item.path))
                        self._left += size
        return found

    def _directories(self, above: str) -> list[str]:
        """Returns the paths of the directories with files in a store, or of those of the old one in the root."""
        return [
            item.path
            for item in (os.scandir(above) if above == self._root else self._scan(above))
            if len(item.name) <= _OLD_NAME_MAX and item.is_dir(follow_symlinks=False)
        ]

    def _scan(self, directory: str) -> list[os.DirEntry[str]]:
        """Returns what is in a directory, and counts it. A directory that has just been removed is empty."""
        try:
            inside = list(os.scandir(directory))
            self._sizes[directory] = os.lstat(directory).st_blocks * 512
        except OSError:
            return []
        self._entries[directory] = len(inside)
        self._left += self._sizes[directory]
        return inside

    def _on_removed(self, path: str, size: int) -> None:
        """Count a file or directory as removed, and remove the directory that it was in if nothing else is there."""
        self._left -= size
        above = os.path.dirname(path)
        if above in self._entries:
            self._entries[above] -= 1
            if not self._entries[above]:
                self._remove_directory(above)

    def _remove_directory(self, path: str) -> None:
        """Remove a directory that is empty. If another node has made a file there meanwhile, it stays."""
        with contextlib.suppress(OSError):
            os.rmdir(path)
            del self._entries[path]
            self._on_removed(path, self._sizes[path])


def _is_free(path: str) -> bool:
    """True if no node holds the lock on a part, so that it may be trimmed. False also if the part is gone."""
    try:
        return is_unlocked(path)
    except OSError:
        return False
