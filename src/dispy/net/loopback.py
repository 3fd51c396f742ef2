"""The loopback network of this process: its name, and what proofs of the secret over plain links on it are bound to.

Machines, containers and network namespaces each have a 127.0.0.1 of their own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from dispy.system.addresses import is_loopback
from dispy.system.processes import boot_id

SAME_USER = b"unix"
"""Channel of links over Unix sockets. The kernel vouches for the users of both ends, and other machines cannot dial a
Unix socket: only processes of the user himself could stand in between, and they can read the secret."""


def here() -> str:
    """Returns BOOT-NAMESPACE, a name for the network that our 127.0.0.1 belongs to.

    It consists of 16 digits of the boot id, and the number of our network namespace ("host" if unknown).
    """
    return f"{boot()}-{re.sub('[^0-9]', '', namespace()) or 'host'}"


def boot() -> str:
    """Returns 16 digits that are the same for all processes of this machine until it is started again."""
    return boot_id().replace("-", "")[:16] or _machine()


def namespace() -> str:
    """Returns the kernel's name of our network namespace, as ``net:[4026531840]``; empty if it has none."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def _machine() -> str:
    """Returns a name for this machine, a hash of host name and machine id (16 hexadecimal digits).

    Used in place of the boot id where the kernel has none.
    """
    text = platform.node()
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            text += Path(path).read_text(encoding="ascii", errors="replace")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain_channel(ours: Any, theirs: Any, *, is_dialer: bool) -> bytes:
    """Returns the channel of a link without TLS: what the proof of the secret is bound to there.

    On loopback that is the connection itself: both ends' address and port as each end sees them, and the network they
    are in. Somebody who passes the proof on has two connections, so the ends see different addresses, and the proof
    fails. Without the network it could succeed: two helpers on two machines, or in two containers, may choose equal
    ports. A forwarder (``ssh -L``) is such a relay, too: it needs TLS.

    Beyond loopback the channel is empty, as routers may change addresses: who turns TLS off there is not protected.

    Args:
        ours: Address of our end, as ``socket.getsockname`` returns it.
        theirs: Address of the peer's end, as ``socket.getpeername`` returns it. No tuple: the link is a Unix socket.
        is_dialer: True if we made the connection.
    """
    if not isinstance(theirs, tuple):
        return SAME_USER
    if not is_loopback(theirs[0]):
        return b""
    ends = (ours, theirs) if is_dialer else (theirs, ours)
    return " ".join([here(), *(f"{end[0]} {end[1]}" for end in ends)]).encode()
