"""Pacing: how many bytes of streams may be under way on a connection. Enough to fill the line, few enough to wait
for.

All bytes that were handed to the socket go in front of the next cancel. TCP does not limit them: it fills every
buffer between two programs, and buffers of the kernel, a router or a proxy can hold seconds of a slow line. So the
sender measures the rate and the round-trip time of its chunks. It has no more bytes under way (the *window*) than

    best recent rate x (shortest round trip + waiting time of the answers + ``QUEUE_US``)

This is the idea of BBR (Cardwell et al. 2016, "BBR: Congestion-Based Congestion Control"), though for another
purpose.

The receiver's grants wait, too, where much data goes the other way, and arrive in bunches; the sender must fill that
time as well. The receiver's clock, sent with each grant, tells the two directions apart.

The window is recomputed once per *round*: the time until all bytes that were under way at its beginning are granted.
"""

from __future__ import annotations

from collections import deque

from dispy.protocol import limits

QUEUE_US = 10_000
"""Time that our bytes may wait in the queues of kernels and routers, each way (microseconds): the window has room for
what the line carries in this time, besides that of a round trip. A cancel and its answer pass both queues within 0.1
s."""

WINDOW_MIN = 64 * limits.KIB
"""Smallest window (bytes): 60 ms at 1 MB/s. On slower lines a cancel waits longer."""

WINDOW_FIRST = 512 * limits.KIB
"""Window (bytes) of a new connection, before anything is measured: 50 ms at 10 MB/s. The window at most doubles with
every round trip."""

WINDOW_MAX = 32 * limits.MIB
"""Largest window (bytes): enough for 2.5 Gbit/s over 100 ms. Faster or longer lines are not filled."""

_CHUNKS = 8
"""Chunks into which a window is divided: a chunk has an eighth of it, within ``_CHUNK_MIN`` and ``CHUNK_MAX``. A
chunk cannot be overtaken, and it is the step in which the line is measured."""

_CHUNK_MIN = 16 * limits.KIB
"""Bytes of the smallest chunk, except the last one of a stream."""

_RATES = 4
"""Number of last rounds whose best rate counts: a line that pauses for a moment has not become slower."""


class Pace:
    """The window of one connection's outgoing streams together: measures the line, and says how much may be sent.

    The sender calls ``chunk_max`` before each chunk, ``sent`` after it, and ``granted`` for each grant. All times are
    microseconds: ours of a monotonic clock, the receiver's of its own.
    """

    __slots__ = (
        "_granted",
        "_is_limiting",
        "_marks",
        "_rates",
        "_round_arrived",
        "_round_end",
        "_round_granted",
        "_sent",
        "_shortest_trip",
        "_shortest_way",
        "window",
    )

    def __init__(self) -> None:
        self.window = WINDOW_FIRST
        """Bytes that may be under way, sent and not granted; recomputed once per round."""
        self._sent = 0
        """Bytes of chunks sent since the connection was made."""
        self._granted = 0
        """Bytes granted since the connection was made; never above ``_sent``, whatever the peer grants."""
        self._marks: deque[tuple[int, int]] = deque()
        """Chunks under way, oldest first: value of ``_sent`` at the chunk's end, and our time when it was sent."""
        self._is_limiting = False
        """True if the window has held back a chunk in this round. Only then may the window grow: a stream that sends
        little shows nothing about the line."""
        self._round_arrived: int | None = None
        """Time (receiver's clock) of the arrival that began this round, from which its rate is measured; None if
        nothing was under way before: the rate is then measured over one round trip."""
        self._round_granted = 0
        """Value of ``_granted`` (bytes) at the beginning of this round."""
        self._round_end = 0
        """Value of ``_granted`` (bytes) at which this round ends: all that was under way at its beginning has
        arrived."""
        self._rates: deque[float] = deque(maxlen=_RATES)
        """Rates of the last rounds (bytes per microsecond), oldest first."""
        self._shortest_trip = self._shortest_way = _NEVER
        """Shortest time (microseconds) from sending a chunk to its grant (our clock), and to its arrival (difference
        of two clocks: only changes of it mean anything). What exceeds them was waiting in queues."""

    def chunk_max(self) -> int:
        """Returns the bytes that the next chunk may have; 0 if none may be sent before a grant arrives: the window is
        full."""
        if self._sent - self._granted >= self.window:
            self._is_limiting = True
            return 0
        return max(_CHUNK_MIN, min(limits.CHUNK_MAX, self.window // _CHUNKS))

    def sent(self, count: int, now: int) -> None:
        """Note that a chunk of ``count`` bytes was handed to the socket at time ``now`` (microseconds)."""
        if not self._marks:
            self._begin_round(None)
        self._sent += count
        self._marks.append((self._sent, now))

    def granted(self, count: int, arrived: int, now: int) -> None:
        """Note a grant of ``count`` bytes, and recompute the window if it ends a round.

        ``arrived`` is the time when these bytes arrived there (receiver's clock), ``now`` the time when the grant
        arrived here (our clock), in microseconds.
        """
        self._granted = min(self._granted + count, self._sent)
        sent_at = None
        while self._marks and self._marks[0][0] <= self._granted:
            sent_at = self._marks.popleft()[1]
        if sent_at is None:
            return
        trip, way = max(now - sent_at, 1), arrived - sent_at
        self._shortest_trip = min(self._shortest_trip, trip)
        self._shortest_way = min(self._shortest_way, way)
        if self._granted >= self._round_end:
            self._end_round(trip, way, arrived)
            self._begin_round(arrived)

    def _begin_round(self, arrived: int | None) -> None:
        self._is_limiting = False
        self._round_arrived = arrived
        self._round_granted = self._granted
        self._round_end = self._sent

    def _end_round(self, trip: int, way: int, arrived: int) -> None:
        time = trip if self._round_arrived is None else arrived - self._round_arrived
        if time <= 0:
            return
        self._rates.append((self._granted - self._round_granted) / time)
        # At most QUEUE_US: if both sides filled each other's waiting time without a limit, they would fill all
        # buffers.
        answer_waited = min(QUEUE_US, max(0, (trip - self._shortest_trip) - (way - self._shortest_way)))
        wanted = max(self._rates) * (self._shortest_trip + answer_waited + QUEUE_US)
        if wanted > self.window:
            if self._is_limiting:
                self.window = int(min(wanted, 2 * self.window, WINDOW_MAX))
        elif wanted > WINDOW_MIN:
            self.window = int(wanted)
        else:
            # Perhaps the line itself has become slower, and there is no queue: measure its shortest times anew.
            self.window = WINDOW_MIN
            self._shortest_trip, self._shortest_way = trip, way


_NEVER = 1 << 62  # longer than any time that is measured (microseconds)
