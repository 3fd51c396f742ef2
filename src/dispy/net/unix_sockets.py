"""Unix sockets, by which programs reach nodes of the same user on the same machine: their places, and dialing.

The socket of a node lies in the user's runtime directory, beside those of the user's other nodes:

    $XDG_RUNTIME_DIR/dispy/nodes/BOOT-NAMESPACE/HOST-PORT.sock

Without that variable the state directory serves, and only without one the temporary directory, where other users may
have been first.

HOST and PORT are those that the node listens on as well, which no other node of that network has at the same time. So
a node that is started again on its port has the same socket, and the socket of a dead one is replaced. A socket gets
this name when it already listens: one that refuses connections is a dead node's, and can be removed (``tidy``).

The directories are the user's alone. Above that each end asks the kernel who the other one is (``peer_user``), and
hangs up if that is another user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.net import loopback
from dispy.system.directories import private_directory, runtime_path, state_path, temporary_directory
from dispy.system.run_directory import remove_tree

ADDRESS_MAX = 107
"""Bytes that the address of a Unix socket has room for, without the zero at its end (``unix(7)``)."""

SUFFIX = ".sock"
"""End of the names of sockets that listen, or did so until their node died."""

BACKLOG = 1024
"""Connections that the kernel queues until the node accepts them."""

FULL_S = 0.01
"""Pause (seconds) before another try to connect to a node whose backlog is full."""

OLD_S = 7 * 86400.0
"""Age (seconds since the last change) above which a directory of another boot is removed: its nodes are dead, unless
the runtime directory is on a file server, and the other boot is that of another machine."""

_CREDENTIALS = struct.Struct("iII")
"""Layout of ``struct ucred`` of ``SO_PEERCRED``: process, user and group (``unix(7)``)."""


def open_at(host: str, port: int) -> tuple[socket.socket, Path]:
    """Make the socket of a node that listens on an address, in the first directory that allows it.

    Returns:
        The socket, which listens, and its path.

    Raises:
        StateDirectoryError: No directory allows it; the text says for each why.
    """
    faults = []
    for base in _bases():
        try:
            nodes = private_directory(private_directory(base) / "nodes")
            path = private_directory(nodes / loopback.here()) / f"{host}-{port}{SUFFIX}"
            return bind(path), path
        except StateDirectoryError as error:
            faults.append(str(error).removesuffix(f"; {error.hint}"))
        except OSError as error:
            faults.append(f"none can be made in {base}: {error.strerror or error}")
    raise StateDirectoryError("; ".join(faults) or "this user has no directory for it")


def _bases() -> list[Path]:
    """Returns the directories of this user's sockets, the preferred one first; they may not exist."""
    found = []
    for base in (runtime_path, state_path):
        with suppress(StateDirectoryError):
            found.append(base())
    if found and found[0].parent == temporary_directory():
        found.reverse()
    return found


def peer_user(connected: socket.socket) -> int:
    """Returns the numeric id of the user at the other end of a connected Unix socket, as the kernel has noted it."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(data)[1]
    return user


def bind(path: Path) -> socket.socket:
    """Returns a socket that listens at a path, for this user alone. A socket that is there is replaced.

    Raises:
        OSError: The socket cannot be made.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        listening.setblocking(False)
        os.fchmod(listening.fileno(), 0o600)
        with suppress(FileNotFoundError):
            os.unlink(hidden)  # of a process that died, and had our number
        with _address(str(hidden)) as address:
            listening.bind(address)
        listening.listen(BACKLOG)
        os.replace(hidden, path)
    except BaseException:
        listening.close()
        with suppress(OSError):
            os.unlink(hidden)
        raise
    return listening


async def connect(path: str) -> socket.socket:
    """Returns a socket that is connected to the node at a path. Waits, without limit, while its backlog is full.

    Raises:
        OSError: No node listens at the path, or it cannot be reached from here.
        PermissionError: Who listens there is another user.
    """
    while True:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            with _address(path) as address:
                connected.connect(address)
            user = peer_user(connected)
            if user != os.geteuid():
                raise PermissionError(f"user {user} listens at {path}, and not the user of this program")
            return connected
        except BlockingIOError:  # connecting to a Unix socket is done at once, or not at all
            connected.close()
        except BaseException:
            connected.close()
            raise
        await asyncio.sleep(FULL_S)


@contextmanager
def _address(path: str) -> Iterator[str]:
    """Yields the address of the Unix socket at a path: the path, or one that is shorter and means the same.

    Raises:
        OSError: The path is too long and there is no /proc, or no directory.
    """
    if len(os.fsencode(path)) <= ADDRESS_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def tidy() -> None:
    """Remove sockets of this user's dead nodes, and directories that are left empty. Call it on a thread.

    Sockets of all network namespaces of this machine are looked at, since they are reached by path from all of them.
    What earlier boots, or other machines, have left in the runtime directory is removed when it is ``OLD_S`` old; in
    the state directory ``discovery.Entry`` does that.
    """
    for base in _bases():
        with suppress(OSError):
            for directory in list((base / "nodes").iterdir()):
                if directory.name.startswith(f"{loopback.boot()}-"):
                    _tidy_directory(directory)
                elif base == runtime_path() and time.time() - directory.lstat().st_mtime > OLD_S:
                    remove_tree(directory)


def _tidy_directory(directory: Path) -> None:
    with suppress(OSError):
        for path in list(directory.glob(f"*{SUFFIX}")):
            if _is_dead(path):
                path.unlink()
        if directory.name != loopback.here():
            directory.rmdir()  # fails unless it is empty


def _is_dead(path: Path) -> bool:
    """True if nobody listens at the socket at a path; False if somebody does, or that cannot be seen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with _address(str(path)) as address:
                probe.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False
