"""Gauge of what this machine has to spare: CPU, memory, disk and swap, for clients that show or use it."""

from __future__ import annotations

import os
import warnings

import psutil

from dispy.protocol.node import Available
from dispy.system.clock import Clock

FRESH_S = 1.0
"""Seconds for which a reading is used again. A new one costs 0.2 ms, and its CPU time is the average since the one
before."""


class Gauge:
    """Reads what the machine has to spare, at most once in ``FRESH_S`` seconds.

    Args:
        path: Directory on the file system whose free space counts: that of working directories.
        clock: Source of the time.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._read_at = clock.monotonic()
        """Time of the last reading (monotonic, seconds); the next is made at least ``FRESH_S`` later."""
        psutil.cpu_percent(None)  # the next call measures from here on
        # The first reading has no interval to measure CPU time in. The load of the last minute stands in for it.
        load = psutil.getloadavg()[0] / (os.cpu_count() or 1)
        self._last = self._read(min(100.0, 100.0 * load))
        """The last reading (``_read`` has its units), which ``read`` returns until it is ``FRESH_S`` old."""

    def read(self) -> Available:
        """Returns idle CPU and free swap (percent), available memory and free disk (bytes) of the machine.

        The values are of now, or were read up to ``FRESH_S`` seconds ago.
        """
        now = self._clock.monotonic()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._last = self._read(psutil.cpu_percent(None))
        return self._last

    def _read(self, busy: float) -> Available:
        """Returns a new reading: idle CPU and free swap (percent), available memory and free disk (bytes).

        Free disk is 0 if the directory was removed.

        Args:
            busy: CPU time in use, as measured by the caller (percent).
        """
        try:
            free = psutil.disk_usage(self._path).free
        except OSError:  # the directory may have been removed
            free = 0
        with warnings.catch_warnings():
            # In some containers psutil warns that it cannot read swap traffic, which is not used here.
            warnings.simplefilter("ignore", RuntimeWarning)
            swap = psutil.swap_memory()
        return Available(
            round(min(100.0, max(0.0, 100.0 - busy)), 1),
            psutil.virtual_memory().available,
            free,
            round(min(100.0, max(0.0, 100.0 - swap.percent)), 1),
        )
