"""Gauge of what this machine has to spare: CPU, memory, disk and swap, for clients that show or use it.

The numbers are those of ``psutil``, read from the kernel's files: importing ``psutil`` would be a tenth of a node's
start.
"""

from __future__ import annotations

import os

from dispy.protocol.node import Available
from dispy.system.clock import Clock

FRESH_S = 1.0
"""Seconds for which a reading is used again. A new one costs 0.1 ms, and its CPU time is the average since the one
before."""

_IDLE = (3, 4)
"""Positions of idle time and of time that waits for disks, among the times in ``stat``."""

_COUNTED_TWICE = (8, 9)
"""Positions of the time of guests (virtual machines), which is part of other times, too."""


class Gauge:
    """Reads what the machine has to spare, at most once in ``FRESH_S`` seconds.

    Args:
        path: Directory on the file system whose free space counts: that of working directories.
        clock: Source of the time.
        proc: Directory with the kernel's files; another than ``/proc`` in tests.
    """

    def __init__(self, path: str, clock: Clock, proc: str = "/proc") -> None:
        self._path = path
        self._clock = clock
        self._proc = proc
        self._read_at = clock.monotonic()
        """Time of the last reading (monotonic, seconds); the next is made at least ``FRESH_S`` later."""
        self._times = self._cpu_times()
        """CPU time of the machine at the last reading: all of it, and what was idle (seconds times a constant)."""
        # The first reading has no interval to measure CPU time in. The load of the last minute stands in for it.
        load = float((self._file("loadavg").split() or ["0"])[0]) / (os.cpu_count() or 1)
        self._last = self._read(min(1.0, load))
        """The last reading (``_read`` has its units), which ``read`` returns until it is ``FRESH_S`` old."""

    def read(self) -> Available:
        """Returns idle CPU and free swap (percent), available memory and free disk (bytes) of the machine.

        The values are of now, or were read up to ``FRESH_S`` seconds ago.
        """
        now = self._clock.monotonic()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._last = self._read(self._busy())
        return self._last

    def _busy(self) -> float:
        """Returns the share of CPU time in use since the last reading, from 0 to 1; counters may jump back."""
        before, self._times = self._times, self._cpu_times()
        total, idle = self._times[0] - before[0], self._times[1] - before[1]
        return min(1.0, max(0.0, 1.0 - idle / total)) if total > 0 else 0.0

    def _cpu_times(self) -> tuple[float, float]:
        """Returns the CPU time of all CPUs since the start of the machine, and what was idle of it."""
        times = [float(text) for text in self._file("stat").partition("\n")[0].split()[1:]]
        total = sum(time for place, time in enumerate(times) if place not in _COUNTED_TWICE)
        return total, sum(times[place] for place in _IDLE if place < len(times))

    def _read(self, busy: float) -> Available:
        """Returns a new reading: idle CPU and free swap (percent), available memory and free disk (bytes).

        Free disk is 0 if the directory was removed.

        Args:
            busy: Share of CPU time in use, from 0 to 1.
        """
        try:
            status = os.statvfs(self._path)
            free = status.f_bavail * status.f_frsize
        except OSError:  # the directory may have been removed
            free = 0
        memory = self._memory()
        swap = memory.get("SwapTotal", 0)
        return Available(
            round(100.0 * (1.0 - busy), 1),
            memory.get("MemAvailable", memory.get("MemFree", 0)),
            free,
            round(100.0 * memory.get("SwapFree", 0) / swap, 1) if swap else 100.0,
        )

    def _memory(self) -> dict[str, int]:
        """Returns the kernel's account of memory: bytes by name, such as ``MemAvailable``."""
        found = {}
        for line in self._file("meminfo").splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdecimal():
                found[name] = int(words[0]) * 1024
        return found

    def _file(self, name: str) -> str:
        """Returns the text of one of the kernel's files; empty if it cannot be read, as in some containers."""
        try:
            with open(f"{self._proc}/{name}") as file:
                return file.read()
        except OSError:
            return ""
