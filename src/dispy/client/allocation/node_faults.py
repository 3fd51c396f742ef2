"""Reasons against the nodes of one cluster: addresses without a node, nodes that are not used, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispy.protocol.views import NodeInfo


class NodeFaults:
    """The faults of one cluster's nodes, as ``why`` and warnings tell them. On the loop.

    Attributes:
        unreachable: Last error of each address that could not be reached, by host and port, as text with both. The
            entry goes when the node there becomes usable.
        failures: Reasons why nodes that were found are not used, by the node's name. The entry goes when the node
            becomes usable.
    """

    def __init__(self) -> None:
        self.unreachable: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self._warned: set[str] = set()
        """Texts of warnings from nodes that were logged: each text is logged once, however many nodes send it."""

    def on_unreachable(self, address: str, text: str) -> bool:
        """Note why an address (host and port) has no node. True if that is news."""
        is_news = self.unreachable.get(address) != text
        self.unreachable[address] = text
        return is_news

    def on_failure(self, name: str, reason: str) -> None:
        """Note why a node, by its name, is not used; empty: nothing speaks against it any more."""
        if reason:
            self.failures[name] = reason
        else:
            self.failures.pop(name, None)

    def on_usable(self, info: NodeInfo, warning: str) -> bool:
        """Forget what spoke against a node that has become usable.

        Returns:
            True if its warning (empty: none) is to be logged, as it is new.
        """
        self.unreachable.pop(f"{info.ip_addr}:{info.port}", None)
        self.failures.pop(info.name, None)
        if not warning or warning in self._warned:
            return False
        self._warned.add(warning)
        return True
