"""How a node listens over TCP: on which port, and with TLS that is made when the first connection comes."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from dispy.errors import DispyError
from dispy.net.listener import Listener
from dispy.net.port_holders import holder
from dispy.security.tls import ListenerTls
from dispy.settings import NodeSettings
from dispy.system.addresses import is_loopback

logger = logging.getLogger("dispy.node")


class TlsAtFirst:
    """TLS of a listener that is made when the first connection comes: most nodes on loopback never need it.

    Args:
        make: Makes the TLS, on a thread; None: connections are not encrypted.

    Attributes:
        is_used: True if connections are encrypted.
        made: The TLS; None until the first connection comes, and if connections are not encrypted.
    """

    def __init__(self, make: Callable[[], ListenerTls] | None) -> None:
        self._make = make
        self.is_used = make is not None
        self.made: ListenerTls | None = None
        self._making = asyncio.Lock()
        """Held while the TLS is made: connections that come meanwhile wait for the same."""
        self._has_told = False
        """True once the log has said that TLS cannot be made, so that strangers cannot fill the log with that."""

    async def prepare(self) -> None:
        """Make the TLS if it is not there yet. Called before a connection is taken.

        Raises:
            OSError: It cannot be made: the connection cannot be taken.
        """
        if self._make is None:
            return
        async with self._making:
            if self.made is None:
                try:
                    self.made = await asyncio.to_thread(self._make)
                except (OSError, DispyError) as error:
                    if not self._has_told:
                        logger.error(
                            "connections over TCP are refused: no certificate can be made: %s", error
                        )
                    self._has_told = True
                    raise OSError(str(error)) from error


def wanted_port(settings: NodeSettings) -> int:
    """Returns the port that a node is to listen on; 0: any."""
    return settings.dispy_port + 1 if settings.listen_port is None else settings.listen_port


def listen(listener: Listener, settings: NodeSettings) -> tuple[str, int]:
    """Listen at the address of the settings; returns address and port.

    On loopback any free port is taken if the usual one is in use, with a warning: programs of this user read the port
    from the list of nodes. Clients on other machines, and firewalls, have to know the port beforehand.

    Raises:
        OSError: The address cannot be used.
    """
    host, port = settings.host, wanted_port(settings)
    try:
        return listener.listen(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or settings.listen_port is not None or not is_loopback(host):
            raise
    address = listener.listen(host, 0)
    logger.warning(
        "port %d of %s is in use by %s: this node listens on port %d; programs of this user find it, others "
        "reach what they do not expect at the usual port, unless they name this one: nodes=[(%r, %d)]",
        port, host, holder(host, port), address[1], host, address[1],
    )  # fmt: skip
    return address
