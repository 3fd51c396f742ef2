"""Dialing a node: by its Unix socket if it has one that is reached from here, else by its address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dispy.net import unix_sockets

logger = logging.getLogger("dispy.net")


async def dial(path: str, host: str, port: int, make: Callable[[bool], asyncio.BaseProtocol]) -> None:
    """Connect to a node. Waits, without limit of its own, until the connection is made.

    A path that does not lead to a node of this user's may be one of another container's file system: then, and
    without a path, the address is dialed.

    Args:
        path: Path of the node's Unix socket, as the node has listed it; empty: it has none.
        host: Host name or IP address of the node.
        port: TCP port of the node.
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
