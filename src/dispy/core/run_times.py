"""How long the jobs of a computation run: a histogram that forgets, its high quantile and its mean."""

from __future__ import annotations

from collections.abc import Iterable

_BUCKETS = 48  # powers of two of a microsecond: up to nine years
_SAMPLES_MAX = 2048
"""Samples kept before all are halved: some tenths of a second of the shortest jobs, so that a
function that turns slow is noticed soon."""


class RunTimes:
    """Durations in powers of two of a microsecond."""

    __slots__ = ("_buckets", "_high_us", "_stale_at", "_sum_us", "samples")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self.samples = 0
        self._sum_us = 0
        self._high_us = 0
        self._stale_at = 0

    def add(self, durations_us: Iterable[int]) -> None:
        """Count durations (whole microseconds; negative ones, from a set-back clock, count as 0)."""
        buckets = self._buckets
        added = total = 0
        for duration in durations_us:
            buckets[min(duration.bit_length(), _BUCKETS - 1) if duration > 0 else 0] += 1
            total += duration if duration > 0 else 0
            added += 1
        self._sum_us += total
        self.samples += added
        if self.samples > _SAMPLES_MAX:
            self._buckets = [count // 2 for count in buckets]
            self._sum_us = self._sum_us * sum(self._buckets) // self.samples
            self.samples = sum(self._buckets)
            self._stale_at = 0

    def expected_us(self, most_us: int) -> int:
        """What to reckon with for one of many jobs (microseconds, at least 1).

        Args:
            most_us: What a job may wait behind another. Where at most one in a hundred runs longer,
                the mean is what counts; elsewhere the high quantile, so that nothing is planned to
                wait behind the long ones.
        """
        high_us = self.high_us()
        if high_us > most_us:
            return high_us
        return max(1, self._sum_us // max(1, self.samples))

    def high_us(self) -> int:
        """A duration that at most one job in a hundred exceeds (microseconds); 0 without samples."""
        if self.samples >= self._stale_at:
            self._high_us = self._find_high_us()
            # Looked up for every batch: 3 us, so not before a sixteenth more is known.
            self._stale_at = self.samples + 1 + self.samples // 16
        return self._high_us

    def _find_high_us(self) -> int:
        above = self.samples // 100
        for index in range(_BUCKETS - 1, -1, -1):
            above -= self._buckets[index]
            if above < 0 and self._buckets[index]:
                return 1 << index
        return 0
