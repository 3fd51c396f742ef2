"""Nodes and jobs of clusters, as a shared scheduler has told them, to be read. On the loop."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from msgspec import structs

from dispy.protocol import shared
from dispy.protocol.views import NodeId, NodeInfo, PlacementStatus, PlacementView

if TYPE_CHECKING:
    from dispy.client.backend.scheduler_link import SchedulerLink

PAST_MAX = 256
"""Nodes that are gone whose descriptions are kept, for results that come after the news of their loss."""


class RemoteViews:
    """The views of a shared scheduler (``backend.Views``). ``Remote`` feeds them.

    Args:
        link: The link, by which questions are asked.
    """

    def __init__(self, link: SchedulerLink) -> None:
        self._link = link
        self._nodes: dict[NodeId, NodeInfo] = {}
        self._past: dict[NodeId, NodeInfo] = {}
        """Nodes that are gone, the newest last."""
        self._placed: dict[int, dict[NodeId, PlacementView]] = {}
        """View of each open cluster on each node."""
        self._running: dict[int, dict[NodeId, set[int]]] = {}
        """Numbers of jobs that run, as the scheduler has told: by cluster and node."""
        self._assumed: dict[tuple[int, NodeId], int] = {}
        """Number of the last command about a cluster on a node, while no view has come that has it in it."""
        self._standstills: dict[int, str] = {}
        """Which jobs of a cluster stand still, in words, as the scheduler has told, by cluster."""
        self.limits: dict[NodeId, int] = {}
        """Limits of CPUs that the program has set."""

    # Reading.

    def nodes(self, number: int) -> list[NodeInfo]:
        return list(self._nodes.values())

    def view(self, number: int) -> dict[NodeId, PlacementView]:
        placed = self._placed.get(number, {})
        for node, view in placed.items():
            view.started = view.assigned = len(self._running.get(number, {}).get(node, ()))
            limit, info = self.limits.get(node), self._nodes.get(node)
            if limit is not None:
                view.node_cpus_max = limit
                if info is not None and limit < info.cpus:
                    view.shortage = f"set_node_cpus allows {limit or 'none'} of its CPUs"
        return placed

    def running(self, number: int, node: NodeId) -> list[int]:
        return sorted(self._running.get(number, {}).get(node, ()))

    def ask_running(self, number: int, node: NodeId) -> Future[list[int]]:
        answer: Future[list[int]] = Future()

        def take(told: Future[shared.Answer]) -> None:
            if not told.cancelled() and answer.set_running_or_notify_cancel():
                answer.set_result(told.result().jobs)

        self._link.ask(shared.Question(number, node=node)).add_done_callback(take)
        return answer

    def ask_why(self, number: int, job: int) -> Future[tuple[str, list[str]]]:
        answer: Future[tuple[str, list[str]]] = Future()

        def take(told: Future[shared.Answer]) -> None:
            if not told.cancelled() and answer.set_running_or_notify_cancel():
                found = told.result()
                answer.set_result((found.error or found.where, found.silent))

        self._link.ask(shared.Question(number, job)).add_done_callback(take)
        return answer

    def stalled(self, number: int) -> str:
        # The link warns by itself while the scheduler is not reached.
        return self._standstills.get(number, "") if self._link.connection is not None else ""

    def count_listed(self, number: int) -> tuple[int, int]:
        return len(self._nodes), 0

    # Feeding.

    def find(self, node: NodeId) -> NodeInfo | None:
        """Returns the description of a node, also of one that is gone; None if it was never told."""
        return self._nodes.get(node) or self._past.get(node)

    def take(self, told: NodeInfo) -> NodeInfo:
        """Note a node as it is told now; returns its description, which is one object for as long as it is there."""
        info = self._nodes.get(told.node)
        if info is None:
            self._nodes[told.node] = told
            return told
        for name in ("name", "ip_addr", "port", "cpus", "platform", "shortage", "available", "aliases"):
            setattr(info, name, getattr(told, name))
        info.bytes_sent, info.bytes_received = told.bytes_sent, told.bytes_received
        return info

    def drop(self, node: NodeId) -> NodeInfo | None:
        """Note that a node is gone; returns its description."""
        info = self._nodes.pop(node, None)
        if info is not None:
            info.is_gone = True
            self._past[node] = info
            if len(self._past) > PAST_MAX:
                del self._past[next(iter(self._past))]
        for number, placed in self._placed.items():
            placed.pop(node, None)
            self._running[number].pop(node, None)
            self._assumed.pop((number, node), None)
        return info

    def open(self, number: int) -> None:
        """Note that a cluster is open."""
        self._placed[number] = {}
        self._running[number] = {}
        self._standstills.pop(number, None)

    def close(self, number: int) -> None:
        """Forget a cluster."""
        self._placed.pop(number, None)
        self._running.pop(number, None)
        self._standstills.pop(number, None)
        for known in [key for key in self._assumed if key[0] == number]:
            del self._assumed[known]

    def assume(
        self, number: int, node: NodeId, command: int, status: PlacementStatus, **changes: Any
    ) -> None:
        """Note what a command makes of a cluster on a node: until the scheduler has it, the view is what it will be.

        Args:
            number: The cluster.
            node: The node.
            command: Number of the command.
            status: The status then.
            changes: Other attributes of the view then.
        """
        placed = self._placed.get(number)
        if placed is not None:
            before = placed.get(node) or PlacementView(status)
            self.place(number, node, structs.replace(before, status=status, **changes), command)
            self._assumed[number, node] = command

    def place(self, number: int, node: NodeId, view: PlacementView, seen: int) -> None:
        """Note the view of a cluster on a node; one from before our last command about it is dropped."""
        placed = self._placed.get(number)
        if placed is None or seen < self._assumed.get((number, node), 0):
            return
        self._assumed.pop((number, node), None)
        if view.status is PlacementStatus.GONE:
            placed.pop(node, None)
            self._running[number].pop(node, None)
        else:
            placed[node] = view

    def start(self, number: int, node: NodeId, jobs: list[int]) -> None:
        """Note that jobs run on a node."""
        if number in self._running:
            self._running[number].setdefault(node, set()).update(jobs)

    def stand_still(self, number: int, reason: str) -> None:
        """Note which jobs of a cluster stand still, in words; empty: none."""
        self._standstills[number] = reason

    def end(self, number: int, jobs: list[int]) -> None:
        """Note that jobs do not run any more."""
        for running in self._running.get(number, {}).values():
            running.difference_update(jobs)

    def forget_all(self) -> list[NodeInfo]:
        """Forget all nodes: the scheduler was started anew. Returns their descriptions."""
        return [info for node in list(self._nodes) if (info := self.drop(node)) is not None]
