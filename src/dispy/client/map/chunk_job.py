"""A chunk of a ``map`` as a job: what nodes and the scheduler run, and the program never sees."""

from __future__ import annotations

from typing import Any

from dispy import payload
from dispy.client.job import FINISHED, DispyJob
from dispy.protocol.node import Ended


class Chunk(DispyJob, gc=False, eq=False):
    """Some consecutive items of a map, as one job: its worker calls the function for each of them."""

    _mapping: Any = None
    """The ``Mapping`` whose ``on_ended`` is called when the chunk has ended. None from then on, as a cycle of map and
    chunk would never be collected."""
    _items: payload.Buffer = b""
    """The pickled items, as sent: to cut them anew, or to name one that failed. Emptied once it is ``Finished``."""
    _first: int = 0
    """Number of the chunk's first item in the map, from 0."""
    _count: int = 0
    """Number of items of the chunk. Reduced when its last items are sent anew, in other chunks."""
    _ready: Any = None
    """Results of a chunk that has failed in a map that goes on, or was never sent: for each item, in order, its
    result, an ``ItemFailed`` or an exception. None: the results are in ``_value``, pickled."""

    def end(self, item: Ended) -> int:
        """Note how the chunk has ended, and tell its map; on the engine's thread.

        ``_is_final`` is left to the consumer's thread (``Mapping._note_ended``): set here, that thread would take the
        results before it has noted which items were given back.

        Args:
            item: The node's report of the end.

        Returns:
            Number of calls of the function to count as done: 0 if the chunk was not run, 1 if it failed.
        """
        # The garbage collector does not track jobs, so no cycle of references may stay.
        mapping, self._mapping = self._mapping, None
        self._status = item.status
        self._exception = item.reason
        self._value = payload.PlainOnly(item.payload) if mapping._cluster._is_plain else item.payload
        self._stdout = item.stdout
        self._stderr = item.stderr
        self.start_time = item.start
        self.end_time = item.end
        mapping.on_ended(self)
        if not item.ran:
            return 0
        return self.results() if item.status == FINISHED else 1

    def results(self) -> int:
        """Returns how many items of a finished chunk have results: the first ones; the worker gave back the others.

        The worker tells that number in the place of the reason (``_exception``). If there is no number all were run.
        """
        told = self._exception or ""
        return min(int(told), self._count) if told.isdecimal() else self._count
