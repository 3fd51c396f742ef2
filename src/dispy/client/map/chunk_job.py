"""A chunk of a ``map``: what nodes and the scheduler run as a job, and the program never sees."""

from __future__ import annotations

from typing import Any, Protocol, final

import msgspec

from dispy import payload
from dispy.protocol.node import FINISHED, Ended


class Consumer(Protocol):
    """The map of a chunk, as the chunk sees it.

    Attributes:
        is_plain: True if nothing that comes from nodes may run code here.
    """

    is_plain: bool

    def on_ended(self, chunk: Chunk) -> None:
        """The chunk has ended; on the engine's thread."""


@final
class Chunk(msgspec.Struct, gc=False, eq=False):
    """Some consecutive items of a map, run as one job: its worker calls the function for each of them.

    Attributes:
        mapping: The map, which is told when the chunk has ended. None from then on, as the garbage collector does not
            track chunks, and a cycle of map and chunk would never be collected.
        items: The pickled items, as sent: to cut them anew, or to name one that failed. Emptied once it is
            ``Finished``.
        first: Number of the chunk's first item in the map, from 0.
        count: Number of items of the chunk. Reduced when its last items are sent anew, in other chunks.
        number: Number of the job; 0 before it is submitted.
        ready: Results of a chunk that has failed in a map that goes on, or was never sent: for each item, in order,
            its result, an ``ItemFailed`` or an exception. None: the results are in ``value``, pickled.
        status: How the job has ended; 0 before.
        exception: Why it failed, in words. Of a finished chunk the number of items that were run, if not all were.
        value: Pickled results, or the pickled failure.
        stdout: Output of all items.
        stderr: Error output of all items.
        start_time: When it began (seconds since the epoch, by the node's clock).
        end_time: When it ended (seconds since the epoch, by the node's clock).
        is_final: True once the consumer has noted the end.
    """

    mapping: Consumer | None
    items: payload.Buffer
    first: int
    count: int
    number: int = 0
    ready: Any = None
    status: int = 0
    exception: str = ""
    value: Any = b""
    stdout: bytes = b""
    stderr: bytes = b""
    start_time: float = 0.0
    end_time: float = 0.0
    is_final: bool = False

    def end(self, item: Ended) -> int:
        """Note how the chunk has ended, and tell its map; on the engine's thread.

        ``is_final`` is left to the consumer's thread (``Mapping._note_ended``): set here, that thread would take the
        results before it has noted which items were given back.

        Args:
            item: The node's report of the end.

        Returns:
            Number of calls of the function to count as done: 0 if the chunk was not run, 1 if it failed.
        """
        mapping, self.mapping = self.mapping, None
        assert mapping is not None
        self.status = item.status
        self.exception = item.reason
        self.value = payload.PlainOnly(item.payload) if mapping.is_plain else item.payload
        self.stdout = item.stdout
        self.stderr = item.stderr
        self.start_time = item.start
        self.end_time = item.end
        mapping.on_ended(self)
        if not item.ran:
            return 0
        return self.results() if item.status == FINISHED else 1

    def results(self) -> int:
        """Returns how many items of a finished chunk have results: the first ones; the worker gave back the others.

        The worker tells that number in the place of the reason. If there is no number all were run.
        """
        return min(int(self.exception), self.count) if self.exception.isdecimal() else self.count
