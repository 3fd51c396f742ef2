"""Nodes of this machine: each describes itself by a file in the state directory, beside the user's own secret.

Whoever has the same secret has the same state directory, whatever login, cron, ``su``, systemd or a container have
made of the environment. It may be on a file server that many machines share, so a node's file lies in a directory
named after this run of the kernel and this network namespace. Nodes of other machines, of boots that are over, and of
containers with a network of their own are at another 127.0.0.1, and never looked at.

Locks tell nothing here, as a file server may emulate or lose them. A file is believed if the process that wrote it
lives (``living``). Where that cannot be seen, as from another container, it is believed if somebody listens at its
address, until that one fails to prove the secret. Nobody tries the usual port instead: anybody may listen there.

Where nothing can be written to the state directory, the runtime directory stands in. Programs look in both.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import platform
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dispy.errors import StateDirectoryError
from dispy.system import liveness
from dispy.system.directories import is_private, private_directory, runtime_path, state_path, write_private
from dispy.system.liveness import Process
from dispy.system.processes import boot_id
from dispy.system.run_directory import remove_tree

logger = logging.getLogger("dispy.net")

ANSWER_S = 0.5
"""A listener of this machine takes a connection within microseconds, unless its backlog is full."""

ASK_AGAIN_S = 5.0
"""A node whose process cannot be seen is connected to so often, to see whether it is there."""

DOUBT_S = 60.0
"""Seconds for which a listener in such a node's place that has not its secret is not tried again."""

OLD_S = 7 * 86400.0
"""Living nodes touch their directory every minute; one that nobody has touched for so long is removed."""

_SIZE_MAX = 4096
"""Bytes of a file; with the longest names they have some 900."""


class Listing(msgspec.Struct, frozen=True):
    """What a node tells about itself on its machine.

    ``fingerprint`` is that of its secret: nodes with another one are not worth a call.
    """

    node: str
    host: str
    port: Annotated[int, Meta(gt=0, lt=65536)]
    tls: bool
    name: str
    cpus: int
    process: Process
    fingerprint: str
    is_everywhere: bool = False
    """The node listens on all addresses of this machine, not on ``host`` alone."""


# Where.


def places() -> list[Path]:
    """Directories that nodes of this machine are listed in; they may be missing."""
    here = _where()
    found = []
    for base in (state_path, runtime_path):
        with suppress(StateDirectoryError):
            found.append(base() / "nodes" / here)
    return found


def where_looked() -> str:
    """The directories of ``places``, as a message names them."""
    found = places()
    seen = [str(path) for path in found if path is found[0] or path.is_dir()]
    return " and ".join(seen) or "no directory, as this user has none"


def _where() -> str:
    """Names what 127.0.0.1 means here: a run of a machine's kernel, and a network namespace of it."""
    boot = boot_id().replace("-", "")[:16] or _machine()
    try:
        network = os.readlink("/proc/self/ns/net")
    except OSError:
        network = ""
    return f"{boot}-{re.sub('[^0-9]', '', network) or 'host'}"


def _machine() -> str:
    """Names this machine where the kernel has no name for its run."""
    text = platform.node()
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            text += Path(path).read_text(encoding="ascii", errors="replace")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# The node's side.


class Entry:
    """A node's own file. It is gone when the node closes it, and passed over once the node is dead.

    Raises:
        StateDirectoryError: The node can be listed nowhere.
    """

    def __init__(self, listing: Listing) -> None:
        running_nodes("")  # tidies up after dead ones
        self._guard = threading.Lock()
        """Held to write: the node's loop and the thread that calls ``keep`` both do."""
        self._listing = listing
        self._is_closed = False
        self.path, faults = _write(listing)
        if faults:
            logger.warning(
                "this node is listed in %s, since %s: only programs with the same XDG_RUNTIME_DIR and TMPDIR find it",
                self.path.parent,
                faults,
            )

    def update(self, listing: Listing) -> None:
        """Describe the node anew."""
        with self._guard:
            self._listing = listing
            self._write()

    def keep(self) -> None:
        """List the node again if its file was removed, and show that its directory is in use.

        Every minute; on a thread, since a file server may take its time.
        """
        if not self._guard.acquire(blocking=False):
            return  # the one before still waits for it
        try:
            if self._is_closed:
                return
            with suppress(OSError):
                os.utime(self.path.parent)
            if not self.path.exists():
                self._write()
        finally:
            self._guard.release()

    def _write(self) -> None:
        try:
            self.path, _ = _write(self._listing)
        except StateDirectoryError as error:
            logger.warning("%s", error)

    def tidy(self) -> None:
        """Remove what machines and boots have left that are no more; on a thread, once."""
        with suppress(OSError):
            # By the clock of the file server, which has just dated our own.
            now = self.path.parent.stat().st_mtime
            for other in self.path.parents[1].iterdir():
                if other.name != self.path.parent.name and now - other.lstat().st_mtime > OLD_S:
                    remove_tree(other)

    def close(self) -> None:
        """Take the node off the list."""
        is_held = self._guard.acquire(timeout=1.0)  # not, while the file server does not answer
        self._is_closed = True
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()
        if is_held:
            self._guard.release()


def _write(listing: Listing) -> tuple[Path, str]:
    """Write a node's file where that works; returns which it is, and why not in the places before."""
    data = msgspec.json.encode(listing)
    faults: list[str] = []
    for base in (state_path, runtime_path):
        for _ in range(3):
            try:
                nodes = private_directory(private_directory(base()) / "nodes")
                path = private_directory(nodes / _where()) / f"{listing.node}.json"
                write_private(path, data)
                return path, "; ".join(faults)
            except FileNotFoundError as error:
                fault = str(error)  # the last node that was here has just removed the directory: again
            except StateDirectoryError as error:
                fault = str(error).removesuffix(f"; {error.hint}")
                break
            except OSError as error:
                fault = f"{base()} cannot be written to: {error.strerror}"
                break
        faults.append(fault)
    raise StateDirectoryError(f"this node cannot be listed: {'; '.join(faults)}")


# The program's side.


class Lookout:
    """Looks for nodes of this machine again and again, from any thread; what has not changed is not read again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._read: dict[str, tuple[tuple[int, ...], Listing | None]] = {}
        """Contents of each file, and its stamp at that time, by path."""
        self._answered: dict[str, float] = {}
        """When a node answered whose process cannot be seen."""
        self._doubted: dict[tuple[str, int], float] = {}
        """Until when those are not believed that are listed at an address."""

    def running(self) -> list[Listing]:
        """Nodes of this user on this machine, with whatever secret. Removes what dead ones left."""
        found: dict[str, Listing] = {}
        with self._guard:
            before, self._read = self._read, {}
            for directory in places():
                for path in _files(directory):
                    listing = self._look(path, before)
                    if listing is not None:
                        found.setdefault(listing.node, listing)
        return [found[node] for node in sorted(found)]

    def with_secret(self, fingerprint: str) -> list[Listing]:
        """Running nodes that have a secret."""
        return [listing for listing in self.running() if listing.fingerprint == fingerprint]

    def doubt(self, host: str, port: int) -> bool:
        """Somebody without the secret is at an address; returns whether an unseen node is listed there."""
        with self._guard:
            unseen = [
                listing
                for _, listing in self._read.values()
                if listing is not None
                and (listing.host, listing.port) == (host, port)
                and liveness.is_alive(listing.process) is None
            ]
            if unseen:
                self._doubted[host, port] = time.monotonic() + DOUBT_S
        return bool(unseen)

    def _look(self, path: str, before: dict[str, tuple[tuple[int, ...], Listing | None]]) -> Listing | None:
        """A node that lives; None if this is none."""
        try:
            status = os.lstat(path)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = before.get(path)
            listing = known[1] if known is not None and known[0] == stamp else _decode(path)
        except OSError:
            return None
        self._read[path] = stamp, listing
        if listing is None:
            return None
        is_alive = liveness.is_alive(listing.process)
        if is_alive is None:
            is_alive = self._answers(listing)
            if self._doubted.get((listing.host, listing.port), 0.0) > time.monotonic():
                return None
        if not is_alive:
            with suppress(OSError):
                os.unlink(path)
            return None
        return listing

    def _answers(self, listing: Listing) -> bool:
        """Whether somebody may be listening at a node's address."""
        now = time.monotonic()
        if now - self._answered.get(listing.node, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return True
        try:
            with socket.create_connection((listing.host, listing.port), ANSWER_S) as connection:
                # Nobody does, if the kernel has chosen that port for us and connected us to ourselves.
                if connection.getsockname() == connection.getpeername():
                    return False
        except ConnectionRefusedError:
            return False
        except OSError:  # a full backlog, or a network that is down: it may come back
            pass
        self._answered[listing.node] = now
        return True


def running_nodes(fingerprint: str) -> list[Listing]:
    """Nodes of this user on this machine that have this secret. Removes what dead ones left."""
    return Lookout().with_secret(fingerprint)


def _files(directory: Path) -> list[str]:
    if not is_private(directory.parents[1]):
        return []  # somebody else could have put something there
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.name.endswith(".json")]
    except OSError:
        return []


def _decode(path: str) -> Listing | None:
    """The node that a file describes; None if it describes none.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _SIZE_MAX)
    finally:
        os.close(descriptor)
    try:
        listing = msgspec.json.decode(data, type=Listing)
        ipaddress.ip_address(listing.host)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return listing
