"""Nodes of this machine, as an engine knows them: their list is read on a thread of its own.

The list lies in the user's state directory, which may be on a file server. The engine's loop must not wait for that
server: nodes take a program for dead that is silent for some seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from dispy.client.engine.callback_thread import Caller
from dispy.net.discovery import Listing, Lookout


class Listed:
    """Copy of the list of this machine's running nodes, as it was read last, and the thread that reads it anew.

    Args:
        post: Called with a function and its arguments, to have it called on the engine's loop. On any thread.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._caller = Caller("dispy looks")
        """Thread that reads the list, as that may wait for a file server."""
        self._lookout = Lookout()
        """Reader of the list in the state directory; reads only files that have changed."""
        self._nodes: list[Listing] = []
        """Nodes in the list when it was read last, with any secret; empty before the first reading."""
        self._is_reading = False
        """True while the list is read on its thread: ``read_soon`` queues no further reading. Only for the loop."""

    def of(self, fingerprint: str) -> list[Listing]:
        """Return the listed nodes whose secret has this fingerprint (``Secret.fingerprint``). Does not read."""
        return [listing for listing in self._nodes if listing.fingerprint == fingerprint]

    def count_others(self, fingerprint: str) -> int:
        """Return the number of listed nodes whose secret has not this fingerprint, for messages to users."""
        return len(self._nodes) - len(self.of(fingerprint))

    def read(self) -> None:
        """Read and store the list now, so that a new cluster sees nodes at once. On a thread of the program.

        May wait for a file server.
        """
        self._nodes = self._lookout.running()

    def read_soon(self, then: Callable[[], None]) -> None:
        """Have the list read on the thread for that, unless it is being read. On the loop; returns at once.

        If the list has changed it is stored, and ``then`` is called, on the loop. Otherwise ``then`` is not called.
        """
        if not self._is_reading:
            self._is_reading = True
            self._caller.call(self._read_there, [(then,)])

    def _read_there(self, then: Callable[[], None]) -> None:
        """Read the list, and have the loop store it and call ``then`` if it has changed. On the thread that reads."""
        try:
            nodes = self._lookout.running()
        finally:
            self._post(self._on_read)
        if nodes != self._nodes:
            self._post(self._take, nodes, then)

    def _on_read(self) -> None:
        """Note that a reading of the list has ended, or failed, so that the next may begin. On the loop."""
        self._is_reading = False

    def _take(self, nodes: list[Listing], then: Callable[[], None]) -> None:
        """Store a changed list of nodes, and call ``then``. On the loop."""
        self._nodes = nodes
        then()

    def doubt(self, host: str, port: int, then: Callable[[], None]) -> None:
        """Doubt a listed node, as a process without the secret answers at its address. On the loop; returns at once.

        A node whose process cannot be seen from here is left out of the list for ``discovery.DOUBT_S`` then, and
        ``then`` is called on the loop. Does nothing if no node is listed at that address.
        """
        if any((listing.host, listing.port) == (host, port) for listing in self._nodes):
            self._caller.call(self._doubt_there, [(host, port, then)])

    def _doubt_there(self, host: str, port: int, then: Callable[[], None]) -> None:
        """Leave out a node of the list at an address, if its process cannot be seen. On the thread that reads.

        The loop then stores the list without the node, and calls ``then``. A node that can be seen stays listed.
        """
        if self._lookout.doubt(host, port):
            self._post(self._take, self._lookout.running(), then)

    def stop(self) -> None:
        """End the thread that reads the list, after the reading that is under way. Does not wait."""
        self._caller.stop()
