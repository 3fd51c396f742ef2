"""Acknowledging the batches of a peer: which have arrived over a link, and when the peer is told that it may forget
them (``protocol.batches``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from dispy.net.links.link import Link
from dispy.protocol.batches import Arrived

ACKNOWLEDGE_S = 0.05
"""Seconds after which batches are acknowledged at the latest; earlier with the next message to the peer. Until then
the peer keeps them."""

AfterNote = Callable[[Callable[[], None]], object]
"""Function that calls a function as soon as what has arrived so far is written to a journal."""


class Acknowledger:
    """The receiving end of one peer's batches.

    Args:
        link: The link that they arrive over.
        make: Makes the message that acknowledges all batches up to a number.
    """

    def __init__(self, link: Link, make: Callable[[int], Any]) -> None:
        self._link = link
        self._make = make
        self.arrived = Arrived()
        """Which batches have arrived, and what may be acknowledged: the numbers of the peer's present incarnation.
        The owner replaces it when the peer has introduced itself (``Arrived.compare``)."""
        self._is_timed = False
        """True while a timer runs that acknowledges batches by itself if no message has taken that along."""

    def release_soon(self, after_note: AfterNote | None) -> None:
        """Have the batches that have arrived acknowledged: soon, or, with a journal, once they are in it."""
        arrived, loop = self.arrived, asyncio.get_running_loop()
        if after_note is None:
            arrived.release(arrived.received)
            # It waits for another message: a packet of its own would double those of a sequence of single jobs.
            if not self._is_timed:
                self._is_timed = True
                loop.call_later(ACKNOWLEDGE_S, self._on_time)
        else:
            # In the loop's next turn: by then the notes of these batches have been handed to the journal.
            loop.call_soon(after_note, partial(self._on_noted, arrived, arrived.received))

    def _on_noted(self, arrived: Arrived, received: int) -> None:
        """Acknowledge batches up to number ``received`` of ``arrived``: the journal has them."""
        arrived.release(received)
        self.send_due()

    def _on_time(self) -> None:
        """Acknowledge now, if no message has taken that along since the timer was started."""
        self._is_timed = False
        self.send_due()

    def send_due(self) -> None:
        """Acknowledge what is due, if anything. Without a connection the next introduction will say it."""
        number = self.arrived.due()
        connection = self._link.connection
        if number and connection is not None:
            connection.send(self._make(number))
            self.arrived.tell(number)
