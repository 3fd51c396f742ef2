"""Nodes and jobs of clusters, as the scheduler in the program's process knows them, to be read. On the loop."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from dispy.core.scheduling.explain import find_stall, why_open
from dispy.core.scheduling.ids import EMBEDDED
from dispy.protocol.views import NodeId, NodeInfo, PlacementView
from dispy.system.wording import named

if TYPE_CHECKING:
    from dispy.client.backend.node_discovery import Discovery
    from dispy.client.backend.open_clusters import OpenCluster
    from dispy.client.backend.program_journal import ProgramJournal
    from dispy.client.backend.scheduler_news import SchedulerNews
    from dispy.core import scheduling as core
    from dispy.scheduler.service import SchedulerService


class EmbeddedViews:
    """The views of a scheduler (``backend.Views``).

    Args:
        service: The scheduler.
        opened: Open clusters by number; shared with the backend, which changes it.
        discovery: The search for nodes, which knows those that are listed.
        news: News of the scheduler, among which answers of nodes come.
        journal: The journals of the program.
    """

    def __init__(
        self,
        service: SchedulerService,
        opened: dict[int, OpenCluster],
        discovery: Discovery,
        news: SchedulerNews,
        journal: ProgramJournal,
    ) -> None:
        self._service = service
        self._opened = opened
        self._discovery = discovery
        self._news = news
        self._journal = journal

    def statistics(self) -> dict[str, int]:
        """Returns the numbers of the scheduler, of journals (``journal_``) and of shared memory (``memory_``)."""
        memory = self._service.links.memory
        found = self._service.statistics() | named("journal", self._journal.statistics())
        return found | named("memory", memory.statistics() if memory is not None else {})

    def nodes(self, number: int) -> list[NodeInfo]:
        cluster = self._opened.get(number)
        linked = self._service.links.nodes()
        return [
            info
            for info in linked
            if cluster is not None and self._service.links.is_opened_by(info.node, cluster.keys)
        ]

    def view(self, number: int) -> dict[NodeId, PlacementView]:
        return self._service.view(EMBEDDED, number)

    def running(self, number: int, node: NodeId) -> list[int]:
        placement = self._placements(number).get(node)
        if placement is None:
            return []
        return [job for job in placement.assigned if job in placement.started]

    def ask_running(self, number: int, node: NodeId) -> Future[list[int]]:
        answer: Future[list[int]] = Future()
        self._service.ask_jobs(node, EMBEDDED, number, self._news.expect(answer))
        return answer

    def ask_why(self, number: int, job: int) -> Future[tuple[str, list[str]]]:
        computation = self._service.state.computations[EMBEDDED, number]
        silent = []
        for info in self._service.links.nodes():
            silent_s = self._service.links.silent_s(info.node)
            if info.node in computation.placements and silent_s > 2 * self._service.links.pulse_s:
                silent.append(f"node {info.name} has said nothing for {silent_s:g} s")
        answer: Future[tuple[str, list[str]]] = Future()
        answer.set_result((why_open(computation, job), silent))
        return answer

    def stalled(self, number: int) -> str:
        """As ``Backend.stalled``; empty, too, while a large payload is on its way: that is no standstill."""
        computations = self._service.state.computations
        if any(self._service.links.is_sending(node) for node in self._opened[number].usable):
            return ""
        return find_stall(computations[EMBEDDED, number])

    def count_listed(self, number: int) -> tuple[int, int]:
        fingerprint = self._opened[number].spec.access.secret.fingerprint()
        return len(self._discovery.listed.of(fingerprint)), self._discovery.listed.count_others(fingerprint)

    # For the backend itself.

    def find(self, node: NodeId) -> NodeInfo | None:
        """Returns the description of a node; None if it is gone."""
        return next((info for info in self._service.links.nodes() if info.node == node), None)

    def placement(self, number: int, node: NodeId) -> core.Placement | None:
        """Returns the core's record of a cluster on a node; None if it is not there."""
        return self._placements(number).get(node)

    def _placements(self, number: int) -> dict[NodeId, core.Placement]:
        """Returns the core's records of a cluster on nodes; empty if it is closed."""
        computation = self._service.state.computations.get((EMBEDDED, number))
        return computation.placements if computation is not None else {}
