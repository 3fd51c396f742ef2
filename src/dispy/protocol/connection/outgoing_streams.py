"""Streams that leave on one connection: which are announced, whose turn it is, how many bytes may be under way.

The life of a group of streams, which are the payloads that one message refers to:

    state        frames sent             begins when                            counted in ``STREAMS_MAX``
    waiting      none                    ``add``                                no
    announced    OPEN of each stream     there is room, after all before it     each of its streams
    leaving      CHUNKs                  its streams have their turns           each of its streams
    over         its message             the last chunk of all has left         no
    over         ABORT of each stream    ``give_up``, of an announced group     no

A receiver ends a connection on which more than ``STREAMS_MAX`` (4,096) streams are open: announced, and not yet taken
by the message that refers to them. So we count the same, and announce a group only if all of its streams fit. The
others wait, in order, without a frame; a small group does not pass a large one that waits for room, which might wait
for ever. Room comes when a message has left or a group is given up: the receiver handles frames in order, so it has
taken or dropped those streams before it sees the next OPEN.

A turn is one chunk. Turns go by turns to the oldest stream and to the one with the fewest bytes left: so small
payloads pass large ones, and the oldest never stands still. A turn for each stream was rejected: all payloads would
arrive only with the last one, and workers would wait.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from dispy.protocol import frames, limits
from dispy.protocol.pace import Pace
from dispy.protocol.streams import Group, OutgoingStream, Source

_BY_SIZE_MAX = 2 * limits.STREAMS_MAX
"""Most entries of the heap of sizes: it is made anew then, without those of streams that have begun or are gone."""

Frames = list[bytes | memoryview]
"""Bytes to be sent in this order: headers and bodies of frames."""


class OutgoingStreams:
    """All streams that leave on one connection. Methods append frames to ``out``: the caller must send them in that
    order, after all that was queued before, and before the frames of the next call."""

    def __init__(self) -> None:
        self.is_sending = False
        """True if payloads have not left completely, announced or not. Asked for with each message, so it is kept."""
        self._pace = Pace()
        """Limits the bytes of all streams together that were sent and not acknowledged yet (GRANT), by the speed of
        the line: messages would have to wait behind them."""
        self._next_number = 1
        """Number of the next stream; never used twice on a connection. 0 means no stream."""
        self._waiting: OrderedDict[Group, list[OutgoingStream]] = OrderedDict()
        """Streams of groups that are not announced yet, oldest first."""
        self._counted = 0
        """Announced streams whose message has not left: those that the receiver counts. At most ``STREAMS_MAX``."""
        self._open: dict[int, OutgoingStream] = {}
        """Announced streams whose last chunk has not left, by stream number, oldest first."""
        self._begun: dict[int, OutgoingStream] = {}
        """Streams in ``_open`` of which a chunk has left: few, as a stream that has begun is soon the next again."""
        self._by_size: list[tuple[int, int]] = []
        """Heap of size and number of announced streams. Only those in ``_open`` and not in ``_begun`` matter; the
        others stay until they come up, or are too many (``_BY_SIZE_MAX``)."""
        self._is_oldest_due = True
        """True if the last choice among several streams was the oldest; the next one is then the stream with the
        fewest bytes left."""

    def numbers(self, count: int) -> range:
        """Returns the numbers of the next ``count`` streams, to be put into their message."""
        first = self._next_number
        self._next_number += count
        return range(first, first + count)

    def add(self, numbers: range, sources: list[Source], message: bytes, out: Frames) -> Group:
        """Send payloads, and after their last byte the message.

        Args:
            numbers: Numbers of the streams (``numbers``).
            sources: Their payloads, from 1 to ``STREAMS_MAX``; closed here, also when they are given up.
            message: The encoded message that refers to them.
            out: Gets what is to be sent now: nothing if the group has to wait.
        """
        assert 0 < len(sources) <= limits.STREAMS_MAX, "it would wait for ever"
        group = Group(numbers, message)
        self._waiting[group] = [
            OutgoingStream(number, source, group) for number, source in zip(numbers, sources, strict=True)
        ]
        self._announce(out)
        return group

    def next_chunk(self, now_us: int, out: Frames) -> None:
        """Append one chunk of one stream, and the message of a group that ends with it.

        Nothing is appended if no stream has bytes left and an open window, or too many bytes of all streams are under
        way. Then there is nothing to do before the next ``granted``.

        Args:
            now_us: The present (microseconds, monotonic).
            out: Gets the frames.
        """
        stream = self._choose()
        size_max = self._pace.chunk_max() if stream is not None else 0
        if stream is None or not size_max:
            return
        chunk = stream.next_chunk(size_max)
        self._pace.sent(len(chunk), now_us)
        out.append(frames.header(frames.CHUNK, len(chunk), stream.number))
        out.append(chunk)
        if stream.is_done():
            self._end(stream, out)
            self._announce(out)
        else:
            self._begun[stream.number] = stream

    def granted(self, number: int, count: int, arrived_us: int, now_us: int) -> None:
        """Note that the receiver has taken ``count`` bytes of a stream, at its time ``arrived_us``; ours is
        ``now_us`` (microseconds, monotonic). ``next_chunk`` may have something to send then."""
        self._pace.granted(count, arrived_us, now_us)
        stream = self._open.get(number)
        if stream is not None:
            stream.window = min(stream.window + count, limits.STREAM_WINDOW)

    def give_up(self, group: Group, out: Frames) -> bool:
        """Stop sending a group. Its message is not sent, and the receiver drops what it has of its streams (ABORT).

        Returns:
            False, and nothing is done, if the message has been sent, or the group was given up before.
        """
        if group.is_over():
            return False
        group.give_up()
        waiting = self._waiting.pop(group, None)
        if waiting is not None:
            for stream in waiting:
                stream.source.close()
        else:
            self._counted -= len(group.numbers)
            for number in group.numbers:
                self._drop(number)
                out.append(frames.header(frames.ABORT, 0, number))
        self._announce(out)
        return True

    def close(self) -> None:
        """Let go of all payloads: the connection is gone, or ends. Their groups are over."""
        for group in self._waiting:
            group.give_up()
        left = [*self._open.values(), *(stream for streams in self._waiting.values() for stream in streams)]
        for each in (self._waiting, self._open, self._begun, self._by_size):
            each.clear()
        self.is_sending = False
        for stream in left:
            stream.group.give_up()
            stream.source.close()

    def _announce(self, out: Frames) -> None:
        """Announce groups that wait, in their order, as long as there is room for all streams of the next one.

        Called at the end of whatever changes streams.
        """
        while self._waiting:
            group, streams = next(iter(self._waiting.items()))
            if self._counted + len(streams) > limits.STREAMS_MAX:
                break
            del self._waiting[group]
            self._counted += len(streams)
            for stream in streams:
                self._open[stream.number] = stream
                out.append(frames.open_frame(stream.number, stream.source.size))
                if stream.is_done():  # there is nothing in it
                    self._end(stream, out)
                else:
                    heapq.heappush(self._by_size, (stream.source.size, stream.number))
            if len(self._by_size) > _BY_SIZE_MAX:
                self._by_size = [entry for entry in self._by_size if self._has_not_begun(entry[1])]
                heapq.heapify(self._by_size)
        self.is_sending = bool(self._open or self._waiting)

    def _end(self, stream: OutgoingStream, out: Frames) -> None:
        """Let go of a stream whose bytes have all left; with the last one of its group append the message."""
        self._drop(stream.number)
        message = stream.group.stream_done()
        if message is not None:
            self._counted -= len(stream.group.numbers)
            out.append(frames.header(frames.CONTROL, len(message)))
            out.append(message)

    def _drop(self, number: int) -> None:
        stream = self._open.pop(number, None)
        self._begun.pop(number, None)
        if stream is not None:
            stream.source.close()

    def _choose(self) -> OutgoingStream | None:
        """Returns the stream that sends the next chunk; None if no window is open."""
        # Few streams can have a closed window: 8 MiB of each are under way then, and ``Pace`` allows 32 in all.
        oldest = next((stream for stream in self._open.values() if stream.window), None)
        if oldest is None:
            return None
        smallest = min([stream for stream in self._candidates() if stream.window], key=OutgoingStream.left)
        if smallest is oldest:
            return oldest
        self._is_oldest_due = not self._is_oldest_due
        return oldest if self._is_oldest_due else smallest

    def _candidates(self) -> list[OutgoingStream]:
        """Returns the streams among which the one with the fewest bytes left is: those that have begun, and the
        smallest other one. One of them has an open window if any stream has."""
        found = list(self._begun.values())
        by_size = self._by_size
        while by_size:
            number = by_size[0][1]
            if self._has_not_begun(number):
                found.append(self._open[number])
                break
            heapq.heappop(by_size)
        return found

    def _has_not_begun(self, number: int) -> bool:
        return number in self._open and number not in self._begun
