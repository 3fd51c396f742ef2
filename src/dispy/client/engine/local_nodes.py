"""Nodes of this machine, as an engine knows them: their list is read on a thread of its own.

The list lies in the user's state directory, which may be on a file server. The engine's loop must not wait for that
server: nodes take a program for dead that is silent for some seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.client.engine.callback_thread import Caller
from dispy.net.discovery import Listing, Lookout
from dispy.system.addresses import LOOPBACK

if TYPE_CHECKING:
    from dispy.client.nodes import NodeAllocate


def covers_loopback(item: NodeAllocate) -> bool:
    """True if an element of ``nodes`` may name any node of this machine."""
    return item.matches(LOOPBACK) or item.matches("::1")


class Listed:
    """Nodes of this machine that were in the list when it was read last.

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
        """Return the nodes whose secret has this fingerprint."""
        return [listing for listing in self._nodes if listing.fingerprint == fingerprint]

    def count_others(self, fingerprint: str) -> int:
        """Return the number of this user's nodes on this machine that have another secret."""
        return len(self._nodes) - len(self.of(fingerprint))

    def read(self) -> None:
        """Read the list now. On a thread of the program: it may wait for a file server."""
        self._nodes = self._lookout.running()

    def read_soon(self, then: Callable[[], None]) -> None:
        """Have the list read, unless that is under way. ``then`` is called if the list has changed. On the loop."""
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
        """Doubt a listed node: a process without the secret answers at its address. On the loop.

        ``then`` is called on the loop if the node is left out of the list from now on, which is so if its process
        cannot be seen from here.
        """
        if any((listing.host, listing.port) == (host, port) for listing in self._nodes):
            self._caller.call(self._doubt_there, [(host, port, then)])

    def _doubt_there(self, host: str, port: int, then: Callable[[], None]) -> None:
        if self._lookout.doubt(host, port):
            self._post(self._take, self._lookout.running(), then)

    def stop(self) -> None:
        """End the thread that reads the list."""
        self._caller.stop()
