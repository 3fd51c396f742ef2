"""Nodes of this machine: each describes itself by a file in the user's runtime directory.

A node holds a lock on its file for as long as it lives, so that a file left by a crash is known by
the lock and not by guessing, and found nodes are there at once, without any network.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from dispy.net.directories import private_directory, runtime_directory


class Listing(msgspec.Struct, frozen=True):
    """What a node tells about itself on its machine.

    ``fingerprint`` is that of its secret: nodes with another one are not worth a call.
    """

    node: str
    host: str
    port: int
    tls: bool
    name: str
    cpus: int
    pid: int
    fingerprint: str


def _directory() -> Path:
    return private_directory(runtime_directory() / "nodes")


class Entry:
    """A node's own file; gone when the node closes it, ignored once the node is dead."""

    def __init__(self, listing: Listing) -> None:
        running_nodes("")  # tidies up after dead ones
        self._path = _directory() / f"{listing.node}.json"
        temporary = self._path.with_suffix(".new")
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self.update(listing)
        os.rename(temporary, self._path)

    def update(self, listing: Listing) -> None:
        """Describe the node anew; whoever reads half of it reads again soon."""
        text = msgspec.json.encode(listing)
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def close(self) -> None:
        """Take the node off the list."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def running_nodes(fingerprint: str) -> list[Listing]:
    """Nodes of this user on this machine that have this secret. Removes what dead ones left."""
    found = []
    for path in sorted(_directory().glob("*.json")):
        try:
            with open(path, "rb") as file:
                if _is_abandoned(file.fileno()):
                    path.unlink(missing_ok=True)
                    continue
                listing = msgspec.json.decode(file.read(4096), type=Listing)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue
        if listing.fingerprint == fingerprint:
            found.append(listing)
    return found


def _is_abandoned(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
