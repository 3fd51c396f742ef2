"""Run times of the jobs of a computation: a histogram that forgets, with its 99 % quantile and its mean.

The execution core uses it to decide how many short jobs go into one record (a batch of jobs for one worker), how many
jobs may wait on the node (the backlog), and whether results wait to share a message.
"""

from __future__ import annotations

from collections.abc import Iterable

_BUCKETS = 48
"""Number of buckets. Bucket ``i`` counts durations from 2**(i-1) to below 2**i microseconds, bucket 0 durations of 0,
and the last one all from 2.2 years on."""
_SAMPLES_MAX = 2048
"""Number of run times in the histogram above which all counts are halved, so that older run times count less. As
many of the shortest jobs take some tenths of a second, so a function that becomes slow is noticed soon."""


class RunTimes:
    """A histogram of run times of jobs, one bucket for each power of two of a microsecond; recent ones count more.

    Attributes:
        samples: Number of run times in the histogram. Halved with the counts, so fewer than were ever added.
    """

    __slots__ = ("_buckets", "_high_us", "_stale_at", "_sum_us", "samples")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        """Number of run times in each bucket, shortest bucket first (see ``_BUCKETS``)."""
        self.samples = 0
        self._sum_us = 0
        """Sum of the run times in the histogram (microseconds), halved with the counts. Serves for the mean."""
        self._high_us = 0
        """99 % quantile of the run times as last searched for (microseconds); returned until ``_stale_at``."""
        self._stale_at = 0
        """Number of ``samples`` from which on ``_high_us`` is searched again; 0: at the next call."""

    def add(self, durations_us: Iterable[int]) -> None:
        """Add run times of jobs to the histogram (whole microseconds). Negative ones, from a clock that was set back,
        count as 0."""
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
        """Returns the run time to plan with for one of many jobs (microseconds, at least 1; 1 without samples).

        Callers divide an amount of work by it to get a number of jobs.

        Args:
            most_us: Time that a job may wait behind another (microseconds). If at most one job in a hundred runs
                longer, the mean is returned; otherwise the 99 % quantile (``high_us``), so that no job is planned to
                wait behind a long one.
        """
        high_us = self.high_us()
        if high_us > most_us:
            return high_us
        return max(1, self._sum_us // max(1, self.samples))

    def high_us(self) -> int:
        """Returns a run time that at most one job in a hundred exceeds (microseconds); 0 without samples.

        A power of two. New samples may change it only once they are a sixteenth of all, or the counts were halved.
        """
        if self.samples >= self._stale_at:
            self._high_us = self._find_high_us()
            # A search takes 3 us and this is called for every batch: search again once a sixteenth more is known.
            self._stale_at = self.samples + 1 + self.samples // 16
        return self._high_us

    def _find_high_us(self) -> int:
        """Returns the upper bound of the bucket in which the 99 % quantile lies (microseconds); 0 without samples."""
        above = self.samples // 100
        for index in range(_BUCKETS - 1, -1, -1):
            above -= self._buckets[index]
            if above < 0 and self._buckets[index]:
                return 1 << index
        return 0
