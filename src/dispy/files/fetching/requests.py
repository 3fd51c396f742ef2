"""Requests for pieces of files: which supplier is asked for which pieces, and for how many bytes at once.

A supplier is a client of the node that has said that it has a file. A file is asked of one supplier at a time, piece
by piece, in order. Back-pressure: for each supplier, the bytes that it was asked for and has not sent, and the bytes
that wait for a writer's thread, are together at most ``Seams.pieces_max`` (16 MiB) plus one piece. So a slow disk
fills no memory, and a broken connection costs a few pieces. Bytes that a thread has still to write count
after a reconnect, too: otherwise a slow disk and a bad line together would fill the memory.

The file with the fewest bytes left comes first: small files pass large ones.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from dispy.files.fetching.wanted_files import Asked, Fetch, FetchKey, Seams, Supplier, SupplierId
from dispy.files.part import SMALL
from dispy.protocol import limits, node


class Requests:
    """Requests to the suppliers of one node. All methods are called on the event loop.

    Args:
        seams: Sends the requests, and says how many bytes may be asked for.
        fetches: Files that are wanted and not stored; kept up to date by ``Parts`` and the stager.
        open_part: Called for a large file before its first piece is asked for. It must call ``want`` and ``ask``
            once the part of the file is open.
        refuse: Called later, on the event loop, with a file and a supplier that says different sizes of it in one
            computation, so that its answers cannot be told apart. It must fail the supplier's stages.

    Attributes:
        suppliers: Pieces that each supplier was asked for, and files that it is to be asked for, by the supplier's
            name. A supplier is removed when its connection is lost.
        writing: Number of bytes that wait for a writer's thread, by name of the supplier that has sent them; those of
            broken connections, too. ``Parts`` counts them; ``ask`` asks for less while there are any.
    """

    def __init__(
        self,
        seams: Seams,
        fetches: dict[FetchKey, Fetch],
        open_part: Callable[[Fetch], None],
        refuse: Callable[[Fetch, SupplierId], None],
    ) -> None:
        self._seams = seams
        self._fetches = fetches
        self._open_part = open_part
        self._refuse = refuse
        self._numbers = itertools.count()
        """Serial numbers of files in the heaps of suppliers: of files with equally many bytes left the older comes
        first."""
        self.suppliers: dict[SupplierId, Supplier] = {}
        self.writing: dict[SupplierId, int] = {}

    def want(self, supplier: SupplierId, fetch: Fetch) -> None:
        """Queue the bytes of a file that are missing for a supplier, from now on the only one asked for the file.

        Nothing is sent: call ``ask`` then.
        """
        known = self.suppliers.get(supplier)
        if known is None:
            known = self.suppliers[supplier] = Supplier()
        fetch.supplier = supplier
        fetch.asked = fetch.handed
        heapq.heappush(known.order, (fetch.size - fetch.asked, next(self._numbers), fetch))

    def want_again(self, fetch: Fetch) -> None:
        """Queue what is left of a file for the supplier of the first stage that waits for it, and send requests.

        Called when its part is open, or when the supplier asked before is not to be asked any more.
        """
        supplier = fetch.stages[0].supplier
        self.want(supplier, fetch)
        self.ask(supplier)

    def ask(self, supplier: SupplierId) -> None:
        """Send requests to a supplier for as many bytes as back-pressure allows. The rest follows as pieces arrive.

        Nothing is sent to a supplier that is not known.
        """
        known = self.suppliers.get(supplier)
        if known is None:
            return
        pieces: dict[int, list[node.Piece]] = {}
        while known.order and known.size + self.writing.get(supplier, 0) < self._seams.pieces_max:
            _, number, fetch = known.order[0]
            stage = next((stage for stage in fetch.stages if stage.supplier == supplier), None)
            if stage is None or fetch.supplier != supplier or self._fetches.get(fetch.key) is not fetch:
                heapq.heappop(known.order)
                continue
            key = (stage.computation, fetch.digest, fetch.asked)
            asked = known.asked.get(key)
            # A writer's thread has the only piece of an empty file if the file has an origin.
            is_given = fetch.asked >= fetch.size and (fetch.size or fetch.origin is not None)
            if asked is not None or is_given:
                heapq.heappop(known.order)
                if asked is not None and asked.fetch is not fetch:
                    self._seams.post(self._refuse, fetch, supplier)
                continue
            if fetch.size > SMALL and fetch.part is None:
                # The file comes back into the order when its part is open.
                heapq.heappop(known.order)
                self._open_part(fetch)
                continue
            size = min(self._seams.piece_max, fetch.size - fetch.asked)
            pieces.setdefault(stage.computation, []).append(node.Piece(fetch.digest, fetch.asked, size))
            known.asked[key] = Asked(fetch, size)
            known.size += size
            fetch.asked += size
            if fetch.asked >= fetch.size:
                heapq.heappop(known.order)
            else:
                heapq.heapreplace(known.order, (fetch.size - fetch.asked, number, fetch))
        for computation, wanted in pieces.items():
            for start in range(0, len(wanted), limits.PIECES_MAX):
                message = node.NeedFiles(computation, wanted[start : start + limits.PIECES_MAX])
                self._seams.send(supplier, message)

    def unask(self, fetch: Fetch) -> None:
        """Forget the requests for a file: no supplier is asked for it, and pieces that still arrive are dropped.

        Called when the supplier fails or is lost, or the stage ends in whose name it was asked; ``want`` may follow.
        """
        known = self.suppliers.get(fetch.supplier) if fetch.supplier is not None else None
        fetch.supplier = None
        for item in fetch.early.values():
            if not isinstance(item.data, bytes):
                item.data.discard()
            if known is not None:
                known.size -= item.size
        fetch.early.clear()
        if known is not None:
            for key in [key for key, asked in known.asked.items() if asked.fetch is fetch]:
                known.size -= known.asked.pop(key).size

    def on_lost(self, supplier: SupplierId) -> None:
        """Forget the requests to a supplier: its connection is lost.

        Other suppliers of its files are asked. Files that no other has wait for ``on_connected``.
        """
        orphans = [fetch for fetch in self._fetches.values() if fetch.supplier == supplier]
        for fetch in orphans:
            self.unask(fetch)
        self.suppliers.pop(supplier, None)
        for fetch in orphans:
            other = next((stage.supplier for stage in fetch.stages if stage.supplier != supplier), None)
            if other is not None:
                self.want(other, fetch)
                self.ask(other)

    def on_connected(self, supplier: SupplierId) -> None:
        """Ask a supplier that has connected, perhaps again, for files of its stages that no other one is asked for.

        Requests from before are forgotten and sent anew.
        """
        self.on_lost(supplier)
        for fetch in self._fetches.values():
            if fetch.supplier is None and any(stage.supplier == supplier for stage in fetch.stages):
                self.want(supplier, fetch)
        self.ask(supplier)
