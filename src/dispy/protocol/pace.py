"""How many bytes of streams may be under way on a connection: enough to fill the line, few enough to wait for.

Whatever is handed to the socket goes in front of the next cancel. TCP does not care: it fills every buffer
between two programs, and a proxy, a router or the kernel's own can hold seconds of a slow line. So
the sender watches how fast and how long its chunks arrive, and has no more under way than the line
takes in the shortest time that it ever needed, plus ``QUEUE_US`` (the idea of BBR: Cardwell et al. 2016,
"BBR: Congestion-Based Congestion Control", though for another purpose).

The receiver's answers wait, too, where much goes the other way, and come in bunches; that time has to be
filled as well. The receiver's clock, sent with each grant, tells the two ways apart.
"""

from __future__ import annotations

from collections import deque

from dispy.protocol import limits

QUEUE_US = 10_000
"""Waiting time in queues that we aim at, each way: a cancel and its answer pass both within a tenth of a second."""

WINDOW_MIN = 64 * limits.KIB
"""Bytes under way on the slowest line: 60 ms at 1 MB/s."""

WINDOW_FIRST = 512 * limits.KIB
"""Before anything is known: 50 ms at 10 MB/s. At most doubled with every round trip."""

WINDOW_MAX = 32 * limits.MIB
"""Enough for 2.5 Gbit/s over 100 ms."""

_CHUNKS = 8
"""Chunks in a window: what cannot be overtaken, and the steps in which the line is measured."""

_CHUNK_MIN = 16 * limits.KIB

_RATES = 4
"""Rounds whose best rate counts: a line that pauses for a moment has not become slower."""


class Pace:
    """The streams of one connection, as their sender sees them. All times are microseconds."""

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
        """Bytes that may be under way."""
        self._sent = 0
        self._granted = 0
        self._marks: deque[tuple[int, int]] = deque()
        """Of each chunk under way the bytes sent up to its end, and when."""
        self._is_limiting = False
        """More would have been sent in this round."""
        self._round_arrived: int | None = None
        """When what was granted last before it had arrived; None if nothing was under way."""
        self._round_granted = 0
        """Bytes granted before it."""
        self._round_end = 0
        """It is over when so many bytes have been granted: what was under way when it began."""
        self._rates: deque[float] = deque(maxlen=_RATES)
        """Bytes per microsecond in the last rounds."""
        self._shortest_trip = self._shortest_way = _NEVER
        """Least time that there was between sending a chunk and the grant, or its arrival by the other clock."""

    def chunk_max(self) -> int:
        """Bytes of the next chunk; 0 if none may be sent before something is granted."""
        if self._sent - self._granted >= self.window:
            self._is_limiting = True
            return 0
        return max(_CHUNK_MIN, min(limits.CHUNK_MAX, self.window // _CHUNKS))

    def sent(self, count: int, now: int) -> None:
        """A chunk was handed to the socket."""
        if not self._marks:
            self._begin_round(None)
        self._sent += count
        self._marks.append((self._sent, now))

    def granted(self, count: int, arrived: int, now: int) -> None:
        """Something has arrived: by the receiver's clock then, and we hear of it now."""
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
        # No more than we would make others wait: two sides that fill each other's waiting time fill buffers.
        answer_waited = min(QUEUE_US, max(0, (trip - self._shortest_trip) - (way - self._shortest_way)))
        wanted = max(self._rates) * (self._shortest_trip + answer_waited + QUEUE_US)
        if wanted > self.window:
            if self._is_limiting:
                self.window = int(min(wanted, 2 * self.window, WINDOW_MAX))
        elif wanted > WINDOW_MIN:
            self.window = int(wanted)
        else:
            # Perhaps it is not our queue, but the line itself that takes longer than it did.
            self.window = WINDOW_MIN
            self._shortest_trip, self._shortest_way = trip, way


_NEVER = 1 << 62
