"""What this machine has to spare: CPU, memory, disk and swap."""

from __future__ import annotations

import os
import warnings

import psutil

from dispy.protocol.node import Available
from dispy.system.clock import Clock

FRESH_S = 1.0
"""A reading is used for so long: it costs 0.2 ms, and CPU time is measured between two."""


class Gauge:
    """Reads what is there, seldom enough that it costs nothing.

    Args:
        path: Where working directories are.
        clock: What it goes by.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._read_at = clock.monotonic()
        psutil.cpu_percent(None)  # from here on
        # Nothing has been measured yet; what waited for CPUs in the last minute tells much of it.
        load = psutil.getloadavg()[0] / (os.cpu_count() or 1)
        self._last = self._read(min(100.0, 100.0 * load))

    def read(self) -> Available:
        """What there is now, or was a moment ago."""
        now = self._clock.monotonic()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._last = self._read(psutil.cpu_percent(None))
        return self._last

    def _read(self, busy: float) -> Available:
        try:
            free = psutil.disk_usage(self._path).free
        except OSError:  # it may have been removed
            free = 0
        with warnings.catch_warnings():
            # In some containers it cannot tell what was swapped in and out, which is not asked for.
            warnings.simplefilter("ignore", RuntimeWarning)
            swap = psutil.swap_memory()
        return Available(
            round(min(100.0, max(0.0, 100.0 - busy)), 1),
            psutil.virtual_memory().available,
            free,
            round(min(100.0, max(0.0, 100.0 - swap.percent)), 1),
        )
