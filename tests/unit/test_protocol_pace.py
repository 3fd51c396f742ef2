"""The pace of streams, on lines that are simulated: they are full, and little waits in front of them."""

from __future__ import annotations

import random

import pytest

from dispy.protocol import limits
from dispy.protocol.pace import QUEUE_US, WINDOW_FIRST, WINDOW_MAX, WINDOW_MIN, Pace

Answer = tuple[int, int, int]
"""When a grant is heard of, its bytes, and when those arrived by the receiver's clock."""


class Line:
    """A sender with more to send than ever goes through, and a line with a queue of any length.

    Args:
        rate: Bytes per microsecond (MB/s) that pass.
        delay: Each way (microseconds).
        offset: Of the receiver's clock.
        back_wait: Time that answers wait on their way back, from 0 to this.
    """

    def __init__(self, rate: float, delay: int = 100, offset: int = 0, back_wait: int = 0) -> None:
        self.pace = Pace()
        self.rate = rate
        self.delay = delay
        self.offset = offset
        self.back_wait = back_wait
        self.now = 1_000_000
        self.waits: list[int] = []
        """How long each chunk waited in the queue."""
        self.passed = 0
        self._free_at = self.now
        self._heard_at = 0
        self._answers: list[Answer] = []
        self._chance = random.Random(5)

    def run(self, seconds: float) -> None:
        """Send as fast as allowed for so long."""
        end = self.now + int(seconds * 1e6)
        while self.now < end:
            while size := self.pace.chunk_max():
                self._send(size)
            self.now, count, arrived = self._answers.pop(0)
            self.passed += count
            self.pace.granted(count, arrived, self.now)

    def pause(self, seconds: float) -> None:
        """Let all arrive, then do nothing."""
        for heard, count, arrived in self._answers:
            self.pace.granted(count, arrived, heard)
            self.now = heard
        self._answers.clear()
        self.now += int(seconds * 1e6)

    def _send(self, size: int) -> None:
        self.waits.append(max(0, self._free_at - self.now))
        self._free_at = max(self.now, self._free_at) + int(size / self.rate)
        arrived = self._free_at + self.delay
        wait = self._chance.randrange(self.back_wait + 1)
        self._heard_at = max(self._heard_at, arrived + self.delay + wait)
        self._answers.append((self._heard_at, size, arrived + self.offset))
        self.pace.sent(size, self.now)

    def measure(self, seconds: float) -> tuple[float, int]:
        """Share of the line that is used, and the longest wait in front of it (microseconds)."""
        self.waits.clear()
        before, start = self.passed, self.now
        self.run(seconds)
        return (self.passed - before) / (self.now - start) / self.rate, max(self.waits)


@pytest.mark.parametrize("rate", [5, 20, 100, 500])
@pytest.mark.parametrize("delay", [50, 2_000, 30_000])
@pytest.mark.parametrize("offset", [0, 1 << 40, -900_000])
def test_a_line_is_full_and_its_queue_short(rate: float, delay: int, offset: int) -> None:
    line = Line(rate, delay, offset)
    line.run(2 + delay / 10_000)
    used, longest = line.measure(2)
    assert used > 0.95
    assert longest < 2 * QUEUE_US + WINDOW_MIN / rate


def test_a_queue_is_short_from_the_beginning() -> None:
    line = Line(20)
    line.run(1)
    assert max(line.waits) < WINDOW_FIRST / 20 + 2 * QUEUE_US


def test_the_slowest_line_gets_small_chunks() -> None:
    line = Line(0.5)
    line.run(5)
    used, longest = line.measure(5)
    assert used > 0.95
    assert longest < 1.5 * WINDOW_MIN / 0.5
    line.pause(0)
    assert line.pace.chunk_max() == 16 * limits.KIB


def test_the_fastest_line_gets_large_chunks_and_no_more_than_the_most() -> None:
    line = Line(50_000, delay=2_000)
    line.run(1)
    assert line.pace.window == WINDOW_MAX
    assert max(limits.CHUNK_MAX, line.pace.chunk_max()) == limits.CHUNK_MAX


def test_a_line_that_gets_slower_or_faster_is_followed() -> None:
    line = Line(100)
    line.run(1)
    line.rate = 10
    line.run(1)
    used, longest = line.measure(1)
    assert used > 0.95
    assert longest < 3 * QUEUE_US
    line.rate = 200
    line.run(1)
    assert line.measure(1)[0] > 0.95


def test_a_line_that_gets_longer_is_filled_again() -> None:
    line = Line(50, delay=1_000)
    line.run(1)
    line.delay = 60_000
    line.run(20)
    assert line.measure(3)[0] > 0.9


@pytest.mark.parametrize("back_wait", [5_000, 15_000])
def test_answers_that_wait_do_not_slow_the_line_down(back_wait: int) -> None:
    line = Line(50, back_wait=back_wait)
    line.run(2)
    used, longest = line.measure(2)
    assert used > 0.9
    assert longest < 3 * QUEUE_US


@pytest.mark.parametrize("drift", [-300, 300])
def test_clocks_that_drift_apart_do_no_harm(drift: int) -> None:
    """By 300 us a second, far more than clocks do, for five minutes."""
    line = Line(10)
    for _ in range(300):
        line.offset += drift
        line.run(1)
    used, longest = line.measure(2)
    assert used > 0.9
    assert longest < 3 * QUEUE_US


def test_little_that_is_sent_now_and_then_does_not_open_the_window() -> None:
    """What was never tried may not be there."""
    pace = Pace()
    now = 0
    for _ in range(100):
        assert pace.chunk_max()
        pace.sent(1000, now)
        pace.granted(1000, now + 50, now + 100)
        now += 1_000
    assert pace.window <= WINDOW_FIRST


def test_a_pause_is_forgotten() -> None:
    line = Line(100)
    line.run(1)
    line.pause(3600)
    used, longest = line.measure(1)
    assert used > 0.95
    assert longest < 3 * QUEUE_US


@pytest.mark.parametrize("count", [0, 1, 1 << 62])
def test_grants_that_nobody_honest_sends_are_survived(count: int) -> None:
    pace = Pace()
    pace.granted(count, 0, 0)
    pace.sent(10_000, 0)
    for arrived in (0, -(1 << 63), 1 << 63):
        pace.granted(count, arrived, 1)
    assert WINDOW_MIN <= pace.window <= WINDOW_MAX
    assert pace.chunk_max()
