"""A limit on the CPUs that a cluster uses together, over all its nodes: ``max_workers`` of an executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from dispy.client.nodes import NodeAllocate, parse_nodes


class CpuLimit:
    """CPUs that are left of a limit, and how many each node was given.

    Args:
        cpus_max: CPUs that all nodes together may give.
    """

    def __init__(self, cpus_max: int) -> None:
        self._cpus_max = cpus_max
        self._guard = threading.Lock()
        self._given: dict[bytes, int] = {}
        """CPUs by identity of the node that was asked for them."""

    def give(self, node: bytes, wanted: int, there: set[bytes]) -> int:
        """Returns how many of the wanted CPUs a node may give; 0 if none is left. Its former answer is forgotten.

        Args:
            node: Identity of the node.
            wanted: CPUs of it that the cluster would use.
            there: Identities of the nodes that are connected now: what others were to give is free again.
        """
        with self._guard:
            self._given = {key: cpus for key, cpus in self._given.items() if key in there and key != node}
            cpus = max(0, min(wanted, self._cpus_max - sum(self._given.values())))
            if cpus:
                self._given[node] = cpus
            return cpus


class LimitedNodes(NodeAllocate):
    """An element of ``nodes`` that uses nodes as another element does, within a limit.

    Args:
        inner: The other element.
        limit: The limit, which all elements of a cluster share.
    """

    def __init__(self, inner: NodeAllocate, limit: CpuLimit) -> None:
        vars(self).update(vars(inner))
        self._inner = inner
        self._limit = limit

    def allocate(self, *args: Any, **kwargs: Any) -> int:
        """Returns how many CPUs of a node the other element wants."""
        wanted = self._inner.allocate(*args, **kwargs)
        self.depends, self.setup_args = self._inner.depends, self._inner.setup_args
        return wanted

    def limit_cpus(self, node: bytes, cpus: int, connected: Callable[[], Iterable[bytes]]) -> int:
        """Returns as many of the wanted CPUs as are left."""
        return self._limit.give(node, cpus, set(connected()))


def limited(nodes: Any, cpus_max: int) -> list[NodeAllocate]:
    """Returns ``nodes``, in any form that clusters take, as elements that use so many CPUs together at most.

    Raises:
        UsageError: ``nodes`` cannot be used.
    """
    limit = CpuLimit(cpus_max)
    return [LimitedNodes(element, limit) for element in parse_nodes(nodes)]
