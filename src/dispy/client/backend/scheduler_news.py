"""News of the scheduler in the program's process, passed on to the program as plain arguments."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import DispyError
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from dispy.client.backend.backend import Listener
    from dispy.client.backend.node_discovery import Discovery
    from dispy.client.backend.open_clusters import OpenCluster
    from dispy.client.backend.payload_memory import PayloadMemory
    from dispy.client.backend.program_journal import ProgramJournal
    from dispy.net.dialing import Target
    from dispy.protocol.node import JobsListed, NeedFiles
    from dispy.protocol.views import NodeInfo
    from dispy.scheduler.service import SchedulerService

logger = logging.getLogger("dispy.client")

SWEEP_S = 0.5
"""Seconds from the loss of a node to removing its files in shared memory: its hosts and workers end meanwhile."""


class SchedulerNews:
    """The observer of the scheduler (``scheduler.observer.Observer``). On the loop.

    News of clusters that are closed is dropped.

    Args:
        listener: The program.
        opened: Open clusters by number; shared with the backend, which changes it.
    """

    _service: SchedulerService
    _discovery: Discovery
    _journal: ProgramJournal
    _memory: PayloadMemory

    def __init__(self, listener: Listener, opened: dict[int, OpenCluster]) -> None:
        self._listener = listener
        self._opened = opened
        self._asked: dict[int, Future[list[int]]] = {}
        """Futures, by the serial of a question to a node, for the numbers of its running jobs."""
        self._last_asked = 0
        """Serial of the last question to a node; the answer repeats it. 0 before the first."""

    def begin(
        self,
        service: SchedulerService,
        discovery: Discovery,
        journal: ProgramJournal,
        memory: PayloadMemory,
    ) -> None:
        """Take the other parts of the backend, which are made after this one. No news comes before that."""
        self._service = service
        self._discovery = discovery
        self._journal = journal
        self._memory = memory

    def on_closed(self, number: int) -> None:
        self._listener.on_closed(number)

    # Nodes.

    def offer(self, cluster: OpenCluster, found: NodeInfo) -> None:
        """Offer a node to a cluster, if the cluster may use it."""
        if self._discovery.may_use(cluster, found):
            self._listener.on_offer(cluster.number, found)

    def on_node_known(self, found: NodeInfo) -> None:
        for cluster in list(self._opened.values()):
            self.offer(cluster, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        self._discovery.forget(self._service.links.target_of(found.node))
        self._journal.drop_node(found.node)
        self._listener.on_node_gone(found, reason)
        if self._memory.is_shared and is_loopback(found.ip_addr):
            # If the node is dead: its processes have gone by then.
            asyncio.get_running_loop().call_later(SWEEP_S, self._memory.sweep)

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """Tell the clusters with the address's secret. A node that is listed there is doubted if we are refused."""
        address = f"{target.host}:{target.port}"
        logger.debug("no node at %s: %s", address, error)
        is_refusal = isinstance(error, DispyError)
        numbers = [cluster.number for cluster in self._opened.values() if cluster.keys.overlap(target.keys)]
        self._listener.on_unreachable(numbers, address, str(error), is_refusal)
        if is_refusal:
            self._discovery.doubt(target)

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        cluster = self._opened.get(action.computation)
        if cluster is not None:
            if action.is_usable:
                cluster.usable.add(action.node)
            else:
                cluster.usable.discard(action.node)
            self._listener.on_usable(action.computation, found, action.is_usable, action.reason)

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        cluster = self._opened.get(action.computation)
        if cluster is None:
            return
        if self._discovery.may_use(cluster, found):
            self._listener.on_offer(action.computation, found)
        else:  # it does not come back: jobs for this node alone must not wait for ever
            self._service.handle(core.Allocate(EMBEDDED, action.computation, action.node, 0))

    def on_placement(self, action: core.TellPlacement, found: NodeInfo) -> None:
        self._listener.on_changed(action.computation, found)

    def on_cpus(self, found: NodeInfo) -> None:
        for cluster in list(self._opened.values()):
            if self._discovery.may_use(cluster, found):
                self._listener.on_cpus(cluster.number, found)
            else:  # it may use it still, for jobs that run there
                self._listener.on_changed(cluster.number, found)

    def on_limited(self, node: core.NodeId) -> None:
        """Tell all clusters that the limit of a node has changed: those that use it show other CPUs."""
        found = next((info for info in self._service.links.nodes() if info.node == node), None)
        if found is not None:
            for cluster in list(self._opened.values()):
                self._listener.on_changed(cluster.number, found)

    def on_available(self, found: NodeInfo) -> None:
        self._listener.on_available(found)

    # Jobs.

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        self._listener.on_ended(action.computation, action.ended, found)

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        self._listener.on_ended_here(action.computation, action.numbers, action.status, action.reason)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        self._listener.on_started(action.computation, action.started, found)

    def on_requeued(self, action: core.TellRequeued) -> None:
        self._listener.on_requeued(action.computation, action.numbers)

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        self._listener.on_value(action.computation, action.value, found)

    def on_printed(self, action: core.TellPrinted) -> None:
        self._listener.on_printed(action.computation, action.printed, action.node, action.serial)

    # Files and questions.

    def on_files_needed(self, client: core.ClientId, message: NeedFiles, found: NodeInfo) -> None:
        self._listener.on_files_needed(message.computation, message, found.node)

    def on_files(self, action: core.TellFiles) -> None:
        self._listener.on_files(action.computation, action.node, action.request, action.reason)

    def expect(self, answer: Future[list[int]]) -> int:
        """Returns the serial of a question to a node about its jobs; ``answer`` gets their numbers later."""
        self._asked = {serial: other for serial, other in self._asked.items() if not other.done()}
        self._last_asked += 1
        self._asked[self._last_asked] = answer
        return self._last_asked

    def on_jobs_listed(self, found: NodeInfo, message: JobsListed) -> None:
        """Set the future of a question to the numbers of the jobs; they are dropped if the asker has given up."""
        answer = self._asked.pop(message.serial, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result([attempt.number for attempt in message.attempts])
