"""Rooms of a spool: the directories in which one run of a node keeps files, and how the next run recognises them.

A room belongs to the process that holds an exclusive lock (``flock``) on its file ``lock``. The kernel drops the lock
when that process dies, however it dies, so a room that can be locked has no living owner. ``node.json`` names the
nodes that had the room; a new node takes over rooms of its own name or port.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from dispy.node.results.spool_files import DAMAGED, UNDECODABLE
from dispy.system.directories import private_directory, sync_directory, write_private
from dispy.system.run_directory import remove_tree


class RoomNames(Struct):
    """Content of ``node.json``, by which a room is recognised. Lists are in the order of the nodes, oldest first.

    Attributes:
        nodes: Incarnations of the nodes that had the room (hexadecimal).
        names: Names of these nodes.
        ports: Ports on which these nodes listened.
        fingerprint: Fingerprint of the secret that all of them had: nodes with another one do not take the room over.
    """

    nodes: list[str]
    names: list[str]
    ports: list[int]
    fingerprint: str


class Room:
    """A directory for files of results and notes, which this process owns while it holds the lock.

    Args:
        path: The directory.
        lock: Descriptor of its locked lock file, as ``lock_room`` returns it. Closed by ``close``.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Unlock the room and leave its files to the next node. A room without files for clients is removed."""
        with suppress(OSError):
            if not any(_is_kept(name) for name in os.listdir(self.path)):
                remove_tree(self.path)
        os.close(self._lock)


def _is_kept(name: str) -> bool:
    """True if a file of this name is for a client: results, a note, or a damaged one. Its room is not removed."""
    return name.endswith((".results", ".open", DAMAGED))


def lock_room(path: Path, *, make: bool = False) -> int | None:
    """Lock a room, so that no other process takes it over. Does not wait.

    Args:
        path: The directory.
        make: True: create the lock file if it is missing, as in a new room.

    Returns:
        Descriptor of the lock file, which holds the lock until it is closed. None if another process has the room, or
        the directory is no room.
    """
    try:
        descriptor = os.open(
            path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600
        )
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    if not os.fstat(descriptor).st_nlink:
        # Race: the node that had the room removed it between our open and our flock.
        os.close(descriptor)
        return None
    return descriptor


def make_room(base: Path, names: RoomNames) -> Room:
    """Create the room of the first node in ``names``, locked, below ``base``.

    The directory gets its name by a rename when its lock is held and ``node.json`` is synced. Other nodes therefore
    never see a room that looks ownerless.

    Raises:
        OSError: The room cannot be locked, written to or renamed.
        StateDirectoryError: A directory cannot be made, is a link, or is open to other users.
    """
    private_directory(base)
    fresh = private_directory(base / f".{names.nodes[0]}")
    descriptor = lock_room(fresh, make=True)
    if descriptor is None:
        raise OSError(f"{fresh} cannot be locked")
    try:
        write_names(fresh, names)
        path = base / names.nodes[0]
        os.rename(fresh, path)
        # Without these two, files that are synced themselves would be unreachable after a power failure.
        sync_directory(base)
        sync_directory(base.parent)
    except OSError:
        os.close(descriptor)
        raise
    return Room(path, descriptor)


def write_names(path: Path, names: RoomNames) -> None:
    """Write ``node.json`` of the room at ``path``, synced to the disk.

    Raises:
        OSError: The file cannot be written.
    """
    write_private(path / "node.json", msgspec.json.encode(names), sync=True)


def read_names(path: Path) -> RoomNames | None:
    """Returns the content of ``node.json`` of the room at ``path``; None if it is missing or damaged: such a room is
    not taken over."""
    try:
        return msgspec.json.decode((path / "node.json").read_bytes(), type=RoomNames)
    except (OSError, *UNDECODABLE):
        return None
