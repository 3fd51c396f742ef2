"""A network with nobody else: what starts nodes here sends beacons, and those must not reach other people's machines.

``isolate`` moves this process, and all that it starts, into a network namespace that has loopback only: as root, or
in a user namespace of its own. Where neither is possible beacons are turned off (DISPY_BEACONS=off).

    python -m tests.alone COMMAND ...       runs a command like this
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

MARK = "DISPY_TESTS_ALONE"
"""Environment variable that tells child processes that there is no need to do it again: "namespace" or "silent"."""

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def isolate() -> None:
    """Leave the network of this machine, if that was not done by a parent. Needs a process with one thread."""
    if os.environ.get(MARK):
        return
    if _enter():
        os.environ[MARK] = "namespace"
    else:
        os.environ[MARK] = "silent"
        os.environ["DISPY_BEACONS"] = "off"


def _enter() -> bool:
    """Enter a network namespace with loopback only; False if that is not possible here."""
    library = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    is_root = os.geteuid() == 0
    if library.unshare(_NEW_NETWORK if is_root else _NEW_USER | _NEW_NETWORK):
        return False
    try:
        if not is_root:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(made, _GET_FLAGS, request))[1]
            fcntl.ioctl(made, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
    except OSError as error:
        sys.exit(f"a network namespace was made, and loopback cannot be used there: {error}")
    return True


if __name__ == "__main__":
    isolate()
    os.execvp(sys.argv[1], sys.argv[1:])
