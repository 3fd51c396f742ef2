"""Where a peer listens, and dialing it: by its Unix socket if it has one that is reached from here, else by its
address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from dispy.net import unix_sockets
from dispy.security.keys import Keys
from dispy.security.tls import DialerTls

logger = logging.getLogger("dispy.net")


@dataclass(frozen=True, slots=True)
class Target:
    """Address at which a peer is expected, with the keys to use there. Links are found by it: host, port and key.

    Attributes:
        host: Host name or IP address.
        port: TCP port.
        keys: Our keys there.
        key: The one of them that is used (32 bytes): the same address is another target with another key.
        name: Name that the peer's certificate must be for, where names are checked; empty: ``host``.
        tls: Returns how to speak TLS with the peer, called when its address is dialed; None: no TLS.
        socket: Path of the peer's Unix socket, dialed instead of the address if it can be reached; empty: none.
    """

    host: str
    port: int
    keys: Keys = field(compare=False, repr=False)
    name: str = field(default="", compare=False)
    tls: Callable[[], DialerTls] | None = field(default=None, compare=False, repr=False)
    socket: str = field(default="", compare=False)
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.keys.first.key)  # the object is frozen


async def dial(path: str, host: str, port: int, make: Callable[[bool], asyncio.BaseProtocol]) -> None:
    """Connect to a peer. Waits, without limit of its own, until the connection is made.

    A path that does not lead to a peer of this user's may be one of another container's file system: then, and
    without a path, the address is dialed.

    Args:
        path: Path of the peer's Unix socket, as a node has listed it; empty: it has none.
        host: Host name or IP address of the peer.
        port: TCP port of the peer.
        make: Makes the protocol object of the connection. Its argument is True for the Unix socket, which needs no
            TLS.

    Raises:
        OSError: The address does not answer.
    """
    loop = asyncio.get_running_loop()
    if path:
        try:
            connected = await unix_sockets.connect(path)
        except PermissionError as error:
            logger.warning("%s:%d is dialed instead of its socket: %s", host, port, error)
        except OSError as error:
            logger.debug("%s:%d is dialed instead of %s: %s", host, port, path, error)
        else:
            await loop.create_unix_connection(lambda: make(True), sock=connected)
            return
    await loop.create_connection(lambda: make(False), host, port)
