"""Discovery of nodes on this machine: each node lists itself as a file in the state directory, beside the user's
secret.

Programs with the same secret have the same state directory, however login, cron, ``su``, systemd or a container have
set the environment. The directory may be on a file server that many machines share. So the files of nodes are in a
directory named after the boot of the kernel and the network namespace:

    STATE/nodes/BOOT-NAMESPACE/NODE.json

Nodes of other machines, of earlier boots, and of containers with a network of their own have another 127.0.0.1, and
are in other directories, which are never read.

Locks are not used: a file server may emulate or lose them. A file is believed if the process that wrote it is alive
(``system.liveness``). Where that cannot be seen, as from another container, the file is believed if its address
accepts connections, until the listener there fails to prove the secret. The default port is not tried instead: any
program may listen there.

If the state directory cannot be written to, the runtime directory takes its place. Programs read both.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dispy.errors import StateDirectoryError
from dispy.net import loopback
from dispy.system import liveness
from dispy.system.directories import (
    is_private,
    own_directory,
    private_directory,
    runtime_path,
    state_path,
    write_private,
)
from dispy.system.liveness import Process
from dispy.system.run_directory import remove_tree

logger = logging.getLogger("dispy.net")

ANSWER_S = 0.5
"""Seconds to wait for a listener of this machine to accept a connection, which shows that it is there. Listeners
accept within microseconds, unless their backlog is full: after this time the listener counts as there."""

ASK_AGAIN_S = 5.0
"""Seconds for which a listed node whose process cannot be seen (in another container) counts as there after a try to
connect was not refused; then its address is tried again."""

DOUBT_S = 60.0
"""Seconds for which nodes whose processes cannot be seen are left out at an address, after the listener there failed
to prove the secret (``Lookout.doubt``): another program has taken the port."""

OLD_S = 7 * 86400.0
"""Age (seconds since the last change, by the file server's clock) above which a directory of another boot or machine
is removed. Living nodes touch theirs every minute."""

_SIZE_MAX = 16384
"""Bytes of a node's file that are read; with the longest names and path a file has about 5,000. A longer one is not
valid, and is ignored."""


class Listing(msgspec.Struct, frozen=True):
    """A node's description of itself for programs of its machine: the content of its file, as JSON.

    Attributes:
        node: Incarnation of the node in hexadecimal, which is also the name of the file.
        host: IP address to connect to.
        port: TCP port to connect to.
        tls: True if the node speaks TLS only at its TCP port.
        name: Name of the node, for people.
        cpus: Number of CPUs that the node offers; 0: none for now.
        process: Process of the node, by which others see whether the node lives (``system.liveness``).
        fingerprint: Fingerprint of the node's secret. Programs with another secret do not connect.
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
    """True if the node listens on all addresses of this machine, not only on ``host``."""
    socket: str = ""
    """Path of the Unix socket at which the node listens for programs of its user; empty: it has none."""
    namespace: str = ""
    """Network namespace of the node (``loopback.namespace``); empty where the kernel has none."""

    def socket_here(self) -> str:
        """Returns the path of the Unix socket for programs in our network namespace; empty for others.

        Those dial the address: a link that ignores what happens to the network between two namespaces would hide
        that they are apart.
        """
        return self.socket if self.namespace == loopback.namespace() else ""


# Where.


NODES = "nodes"
"""Kind of the entries of nodes: the name of the directory that has the lists of all machines and boots."""
SCHEDULERS = "schedulers"
"""Kind of the entries of shared schedulers, which list themselves as nodes do."""


def places(kind: str = NODES) -> list[Path]:
    """Returns the directories in which this user's nodes of this machine list themselves, the preferred one first.

    That is the one in the state directory, then the one in the runtime directory. They may not exist. Empty if the
    user can have neither. ``kind``: ``NODES`` or ``SCHEDULERS``.
    """
    here = loopback.here()
    found = []
    for base in (state_path, runtime_path):
        with suppress(StateDirectoryError):
            found.append(base() / kind / here)
    return found


def where_looked() -> str:
    """Returns the directories of ``places`` as words for the error text "no node found"; of all but the first only
    those that exist."""
    found = places()
    seen = [str(path) for path in found if path is found[0] or path.is_dir()]
    return " and ".join(seen) or "no directory, as this user has none"


# The node's side.


class Entry:
    """A node's own file, by which programs of this machine find it. ``close`` removes it; if the node dies instead,
    programs ignore and remove the file.

    Making an ``Entry`` writes the file, and removes files of dead nodes.

    Args:
        listing: Description of the node, the content of the file.
        kind: ``NODES`` or ``SCHEDULERS``.

    Attributes:
        path: Path of the file.

    Raises:
        StateDirectoryError: No directory can be written to.
    """

    def __init__(self, listing: Listing, kind: str = NODES) -> None:
        Lookout(kind).running()  # removes files of dead nodes
        self._kind = kind
        self._guard = threading.Lock()
        """Held while the file is written or removed: by the node's loop, or by the thread that calls ``keep``."""
        self._listing = listing
        """Description that the file should have."""
        self._is_closed = False
        """True once ``close`` was called: ``keep`` must not write the file again."""
        self.path, faults = _write(listing, kind)
        if faults:
            logger.warning(
                "this node is listed in %s, since %s: only programs with the same XDG_RUNTIME_DIR and TMPDIR find it",
                self.path.parent,
                faults,
            )

    def update(self, listing: Listing) -> None:
        """Write the file anew: the node's description has changed. If that fails, a warning is logged."""
        with self._guard:
            self._listing = listing
            self._write()

    def keep(self) -> None:
        """Write the file again if it was removed, and touch its directory, so that no node removes it (``tidy``).

        Call it every minute, on a thread of its own: a file server may block for long.
        """
        if not self._guard.acquire(blocking=False):
            return  # the previous call still waits for the file server
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
            self.path, _ = _write(self._listing, self._kind)
        except StateDirectoryError as error:
            logger.warning("%s", error)

    def tidy(self) -> None:
        """Remove directories of nodes of other machines and boots that were last changed more than ``OLD_S`` ago.

        Call it once, on a thread: a file server may block.
        """
        with suppress(OSError):
            # Ages are by the clock of the file server, which has just dated our own directory.
            now = self.path.parent.stat().st_mtime
            for other in self.path.parents[1].iterdir():
                if other.name != self.path.parent.name and now - other.lstat().st_mtime > OLD_S:
                    remove_tree(other)

    def close(self) -> None:
        """Remove the file, and its directory if no other node has a file there.

        Waits at most 1 s for a thread in ``keep``, which a file server may hold up.
        """
        is_held = self._guard.acquire(timeout=1.0)  # go on without it if the file server does not answer
        self._is_closed = True
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()
        if is_held:
            self._guard.release()


def _write(listing: Listing, kind: str) -> tuple[Path, str]:
    """Write a node's file into the first directory that allows it: the state directory, else the runtime directory.

    Returns:
        The path, and why directories tried before could not be used (empty if the first one could).

    Raises:
        StateDirectoryError: No directory can be written to.
    """
    data = msgspec.json.encode(listing)
    faults: list[str] = []
    # Other users can put something in the place of the second one, so another may serve.
    for base, make in ((state_path, private_directory), (runtime_path, own_directory)):
        fault = ""
        for _ in range(3):
            try:
                nodes = private_directory(make(base()) / kind)
                path = private_directory(nodes / loopback.here()) / f"{listing.node}.json"
                write_private(path, data)
                return path, "; ".join(faults)
            except FileNotFoundError as error:
                fault = str(error)  # another node has just closed, and removed the directory: try again
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
    """Finds the nodes of this machine, again and again, by their files. Any thread may call the methods.

    Unchanged files are not read again. Nodes whose processes cannot be seen from here (*unseen*: in another
    container) are connected to now and then, to find out whether they are there.

    Args:
        kind: ``NODES`` or ``SCHEDULERS``.
    """

    def __init__(self, kind: str = NODES) -> None:
        self._kind = kind
        self._guard = threading.Lock()
        """Guards ``_read``, ``_answered`` and ``_doubted`` between threads that call the methods. Held during a
        search."""
        self._read: dict[str, tuple[tuple[int, ...], Listing | None]] = {}
        """Stamp (inode, bytes, nanoseconds of the last change) and content of each file when it was read, by path;
        None as content: not a valid file. A file with another stamp is read again."""
        self._answered: dict[str, float] = {}
        """Time (monotonic seconds) of the last try to connect to a node whose process cannot be seen, if it was not
        refused, by node id (hexadecimal). No other try is made for ``ASK_AGAIN_S``."""
        self._doubted: dict[tuple[str, int], float] = {}
        """Time (monotonic seconds) until which unseen nodes listed at an address are left out of ``running``, by host
        and port (see ``DOUBT_S``)."""

    def running(self) -> list[Listing]:
        """Returns all running nodes of this user on this machine, sorted by node id. Removes files of dead nodes.

        May wait up to ``ANSWER_S`` for each node whose process cannot be seen, and for a file server.
        """
        found: dict[str, Listing] = {}
        with self._guard:
            before, self._read = self._read, {}
            for directory in places(self._kind):
                for path in _files(directory):
                    listing = self._look(path, before)
                    if listing is not None:
                        found.setdefault(listing.node, listing)
        return [found[node] for node in sorted(found)]

    def with_secret(self, fingerprint: str) -> list[Listing]:
        """Returns the running nodes whose secret has this fingerprint, sorted by node id (see ``running``)."""
        return [listing for listing in self.running() if listing.fingerprint == fingerprint]

    def doubt(self, host: str, port: int) -> bool:
        """Leave out unseen nodes at an address for ``DOUBT_S``: the listener there does not have the secret.

        Returns:
            True if a node whose process cannot be seen is listed there; False: there was nothing to leave out.
        """
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
        """Returns the node that a file describes if the node is alive; None if not, or the file is not valid.

        Notes the file in ``_read``, and removes the file of a node that is dead, or unseen and refuses connections.
        ``before`` is what ``_read`` was after the last search: a file with an equal stamp is not read again.
        """
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
        """True if a program may be listening at a node's address: it accepts a connection, or there is no answer.

        False if the connection is refused. After a try that was not refused, the answer stays True for
        ``ASK_AGAIN_S`` without another one.
        """
        now = time.monotonic()
        if now - self._answered.get(listing.node, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return True
        try:
            with socket.create_connection((listing.host, listing.port), ANSWER_S) as connection:
                # If the kernel has chosen that very port for our end, we are connected to ourselves: no listener.
                if connection.getsockname() == connection.getpeername():
                    return False
        except ConnectionRefusedError:
            return False
        except OSError:  # a full backlog, or a network that is down: the node may come back
            pass
        self._answered[listing.node] = now
        return True


def running_nodes(fingerprint: str) -> list[Listing]:
    """Returns the running nodes of this user on this machine whose secret has this fingerprint, sorted by node id.

    Removes files of dead nodes. For a single search; use a ``Lookout`` to search again and again.
    """
    return Lookout().with_secret(fingerprint)


def _files(directory: Path) -> list[str]:
    if not is_private(directory.parents[1]):
        return []  # another user could have put files there
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.name.endswith(".json")]
    except OSError:
        return []


def _decode(path: str) -> Listing | None:
    """Returns the node that the file at a path describes; None if its content is not valid.

    Raises:
        OSError: The file cannot be read.
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
