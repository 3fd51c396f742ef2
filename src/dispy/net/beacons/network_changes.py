"""News of the kernel that an interface, its cable or an address has come or gone (``man 7 rtnetlink``)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("dispy.net")

_GROUPS = 0x1 | 0x10 | 0x100
"""Links, IPv4 addresses, IPv6 addresses (RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR)."""

PAUSE_S = 0.02
"""Seconds from the first piece of news to the call: several come together."""


class NetworkChanges:
    """Calls a function some hundredths of a second after the interfaces of this machine have changed. On the loop.

    Where the kernel has no such news, nothing is ever called: the caller looks now and then as well.

    Args:
        on_change: The function.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        try:
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except (AttributeError, OSError) as error:
            logger.debug("changes of the network are seen late: %s", error)
            return
        try:
            made.bind((0, _GROUPS))
        except OSError as error:
            logger.debug("changes of the network are seen late: %s", error)
            made.close()
            return
        self._socket = made
        asyncio.get_running_loop().add_reader(made.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """Read all news, and have the function called. News that the kernel dropped (ENOBUFS) counts as some."""
        assert self._socket is not None
        try:
            while self._socket.recv(65536):
                pass
        except OSError:
            pass
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._on_change()

    def close(self) -> None:
        """Call the function no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
