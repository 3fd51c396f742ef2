"""Processes that the node starts for itself: they are children of the node, and no strays that a job has left."""

from __future__ import annotations

import threading


class Spared:
    """Pids of such processes, and the lock that goes with them. Any thread may use them.

    Attributes:
        starting: Held while a process is started and put into ``pids``. The loop holds it while it kills or reaps
            children: it would otherwise take a process that has just started for a stray.
        pids: Pids of the processes, which the node must neither kill nor reap as strays.
    """

    def __init__(self) -> None:
        self.starting = threading.Lock()
        self.pids: set[int] = set()
