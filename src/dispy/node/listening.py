"""How a node listens over TCP: on which port."""

from __future__ import annotations

import errno
import logging

from dispy.net.listener import Listener
from dispy.net.port_holders import holder
from dispy.settings import NodeSettings
from dispy.system.addresses import is_loopback

logger = logging.getLogger("dispy.node")


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
