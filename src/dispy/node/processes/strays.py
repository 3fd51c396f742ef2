"""Processes that jobs have left: children of the node that are neither hosts nor its own, to be killed or reaped."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dispy.node.processes.spared import Spared
from dispy.system.processes import children, kill_strays, reap


class Strays:
    """The node's view of its descendants: which are strays.

    Args:
        spared: Processes that the node starts for itself.
        found: Pids of children that this process had before it became a node, such as those of a container's entry
            script. They are reaped when they end, but not killed as strays.
    """

    def __init__(self, spared: Spared, found: Iterable[int]) -> None:
        self._spared = spared
        self._found = set(found)
        """Pids in ``found`` of children that have not been reaped."""

    def kill(self, keep: set[int]) -> None:
        """Kill the processes that jobs have left: all descendants of this process not in or below ``keep``.

        ``keep`` has the pids of hosts.

        Called after a host has ended, and at the node's end. Spared are children that were there before the node, and
        processes that the node has started for itself.
        """
        with self._spared.starting:
            kill_strays(keep | self._found | self._spared.pids)

    def reap(self, own: set[int]) -> None:
        """Reap dead children that are not hosts: those found at the start and, as process 1 of a container, orphans.

        Called once a second; otherwise dead children would stay as zombies.

        Args:
            own: Pids of all hosts.
        """
        if self._found or os.getpid() == 1:
            with self._spared.starting:
                for pid in children(os.getpid()):
                    if pid not in own and pid not in self._spared.pids and reap(pid):
                        self._found.discard(pid)
