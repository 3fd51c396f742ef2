"""TLS of a listener that is made when the first connection comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dispy.errors import DispyError
from dispy.security.tls import ListenerTls

logger = logging.getLogger("dispy.net")


class TlsAtFirst:
    """TLS of a listener that is made when the first connection comes: most listeners on loopback never need it.

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
