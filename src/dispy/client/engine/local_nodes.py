"""Nodes of this machine, as an engine knows them: read on a thread of their own.

The list lies in the user's state directory, which may be on a file server. The engine's loop must not wait for that:
nodes would take a program for dead whose home directory does not answer for some seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.client.session.callbacks import Caller
from dispy.net.discovery import Listing, Lookout
from dispy.system.addresses import LOOPBACK

if TYPE_CHECKING:
    from dispy.client.nodes import NodeAllocate


def covers_loopback(item: NodeAllocate) -> bool:
    """True if an element of ``nodes`` may name any node of this machine."""
    return item.matches(LOOPBACK) or item.matches("::1")


class Listed:
    """Nodes that were listed when the list was read last.

    Args:
        post: Has a function called on the engine's loop.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._caller = Caller("dispy looks")
        self._lookout = Lookout()
        self._nodes: list[Listing] = []
        self._is_reading = False

    def of(self, fingerprint: str) -> list[Listing]:
        """Nodes with a secret."""
        return [listing for listing in self._nodes if listing.fingerprint == fingerprint]

    def count_others(self, fingerprint: str) -> int:
        """How many nodes of this user have another secret."""
        return len(self._nodes) - len(self.of(fingerprint))

    def read(self) -> None:
        """Read it now; on a thread of the program."""
        self._nodes = self._lookout.running()

    def read_soon(self, then: Callable[[], None]) -> None:
        """Have it read, unless that is under way, and something called if that brings news; on the loop."""
        if not self._is_reading:
            self._is_reading = True
            self._caller.call(self._read_there, [(then,)])

    def _read_there(self, then: Callable[[], None]) -> None:
        try:
            nodes = self._lookout.running()
        finally:
            self._post(self._on_read)
        if nodes != self._nodes:
            self._post(self._take, nodes, then)

    def _on_read(self) -> None:
        self._is_reading = False

    def _take(self, nodes: list[Listing], then: Callable[[], None]) -> None:
        self._nodes = nodes
        then()

    def doubt(self, host: str, port: int, then: Callable[[], None]) -> None:
        """Somebody without the secret is where a node is listed; on the loop.

        ``then`` is called if that node is not believed any more, since its process cannot be seen from here.
        """
        if any((listing.host, listing.port) == (host, port) for listing in self._nodes):
            self._caller.call(self._doubt_there, [(host, port, then)])

    def _doubt_there(self, host: str, port: int, then: Callable[[], None]) -> None:
        if self._lookout.doubt(host, port):
            self._post(self._take, self._lookout.running(), then)

    def stop(self) -> None:
        """End the thread."""
        self._caller.stop()
