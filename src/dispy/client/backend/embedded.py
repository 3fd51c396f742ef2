"""The scheduler in the program's own process, as a ``Backend``: events for the core, and views of its state.

Its parts: ``embedded_views`` shows nodes and jobs, ``node_discovery`` finds and dials nodes, ``program_journal``
notes them, ``payload_memory`` has large payloads where nodes of this machine take them by name, ``scheduler_news``
passes on what the scheduler tells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dispy import config
from dispy.client.backend.embedded_views import EmbeddedViews
from dispy.client.backend.local_nodes import Listed
from dispy.client.backend.node_discovery import Discovery
from dispy.client.backend.open_clusters import OpenCluster
from dispy.client.backend.payload_memory import PayloadMemory
from dispy.client.backend.program_journal import ProgramJournal, make_journal
from dispy.client.backend.scheduler_news import SchedulerNews
from dispy.client.logger import is_debugging
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import EMBEDDED
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.protocol.views import NodeId, NodeInfo, PlacementStatus
from dispy.scheduler.service import SchedulerService
from dispy.scheduler.tracing import set_tracing
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from dispy.client.backend.backend import Access, ClusterSpec, Listener, Wishes
    from dispy.client.engine.threads import Threads
    from dispy.client.nodes import NodeAllocate
    from dispy.journal.writer import Journal
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import (
        AcknowledgeProvisional,
        FilePiece,
        FileUnreadable,
        Job,
        PlaceFiles,
        PutObject,
    )


class Embedded:
    """The scheduler of a program that has it in its own process. Made on the loop.

    Args:
        thread: The thread with the loop.
        listener: The object that is told what happens.
        identity: 16 random bytes that name the scheduler to nodes.
        name: Name of the program, as nodes show it.
        origin: User and machine of the program, for the logs of nodes.
        listed: List of this machine's nodes, not read yet; None: that of the user's state directory.
        new_journal: Makes the program's journal (``program_journal``); None: in the user's state directory.
        new_network: Makes the sockets of the search for nodes of other machines.
    """

    def __init__(
        self,
        thread: Threads,
        listener: Listener,
        identity: bytes,
        name: str,
        origin: str,
        listed: Listed | None = None,
        new_journal: Callable[[], Journal | None] | None = None,
        new_network: NewNetwork = Sockets,
    ) -> None:
        self.identity = identity
        self.name = name
        self._thread = thread
        self._opened: dict[int, OpenCluster] = {}
        """Open clusters, by their number."""
        self._waiting: dict[tuple[int, NodeId], core.Allocate] = {}
        """Nodes that a cluster uses as soon as its journal has noted them on disk, by cluster and node."""
        self._news = SchedulerNews(listener, self._opened)
        self.service = SchedulerService(identity, name, self._news, thread.clock)
        """The scheduler, with the links to all nodes."""
        self.service.links.origin = origin
        self.memory = PayloadMemory(self.service.links)
        """Large payloads of the program in shared memory."""
        self._journal = ProgramJournal(
            self.service, self._opened, new_journal or partial(make_journal, identity, name, thread.post)
        )
        self.noted = self._journal.noted
        self.discovery = Discovery(
            self.service,
            self._opened,
            thread.post,
            self._news.offer,
            self._news.on_unreachable,
            listed or Listed(thread.post),
            thread.clock,
            new_network,
        )
        self.views = EmbeddedViews(self.service, self._opened, self.discovery, self._news, self._journal)
        """Nodes and jobs, to be read."""
        self._news.begin(self.service, self.discovery, self._journal, self.memory)

    # Clusters.

    def prepare(self, access: Access, wishes: Wishes, journal: Journal | None) -> None:
        """As ``Backend.prepare``: also, large payloads go to shared memory if nodes of this machine may be used."""
        if config.SharedMemory and any(
            a.ip_addr is None or is_loopback(a.ip_addr) for a in wishes.allocations
        ):
            self.memory.share()
        self.discovery.prepare(access, wishes)
        self.warn_blind(access, wishes.allocations)

    def warn_blind(self, access: Access, nodes: list[NodeAllocate]) -> None:
        if any(item.ip_addr is None for item in nodes):
            linked = self._thread.call(self.service.links.nodes)
            known = {address for info in linked for address in info.addresses()}
            self.discovery.warn_blind(access, nodes, known)

    def open(self, spec: ClusterSpec) -> None:
        set_tracing(self.service, is_debugging())
        cluster = OpenCluster(spec)
        self._opened[cluster.number] = cluster
        self._journal.begin(cluster)
        self._set_pulse()
        self.service.handle(core.AddComputation(EMBEDDED, cluster.number, spec.compute, spec.is_reentrant))
        for info in self.service.links.nodes():
            self._news.offer(cluster, info)
        self.discovery.begin(cluster)

    def close(self, number: int) -> None:
        cluster = self._opened.pop(number, None)
        self._set_pulse()
        self.service.handle(core.CloseComputation(EMBEDDED, number))
        if cluster is not None:
            self._journal.forget(cluster)
            self.discovery.end()
        self._news.on_closed(number)

    def _set_pulse(self) -> None:
        """Set the heartbeat interval of all links to the smallest that an open cluster wants: links are shared."""
        if self._opened:
            self.service.links.set_pulse(min([cluster.spec.pulse_s for cluster in self._opened.values()]))

    # Jobs.

    def submit(
        self, number: int, jobs: list[Job], node: NodeId | None = None, files: list[FileEntry] | None = None
    ) -> None:
        if node is None and files is None:
            self.service.submit(core.SubmitJobs(EMBEDDED, number, jobs))
        else:
            by_number = {} if files is None else {jobs[0].number: files}
            self.service.handle(core.SubmitJobs(EMBEDDED, number, jobs, node, by_number))
        self.service.schedule_tick()

    def try_submit(self, number: int, job: Job) -> bool:
        return self.service.try_submit(EMBEDDED, number, job)

    def cancel(self, number: int, jobs: list[int]) -> None:
        self.service.handle(core.CancelJobs(EMBEDDED, number, jobs))

    def watch(self, number: int, jobs: list[int], is_wanted: bool) -> None:
        self.service.handle(core.WatchJobs(EMBEDDED, number, jobs, is_wanted))

    def answer(self, node: NodeId, message: AcknowledgeProvisional) -> None:
        self.service.handle(core.AnswerValue(EMBEDDED, node, message))

    def answer_printed(self, number: int, node: NodeId, serial: int) -> None:
        self.service.handle(core.AnswerPrinted(EMBEDDED, number, node, serial))

    # Objects and files.

    def put(self, message: PutObject) -> None:
        self.service.handle(core.PutObject(EMBEDDED, message))

    def drop(self, number: int, objects: list[int]) -> None:
        """As ``Backend.drop``: unused files in shared memory are removed, too, as an object may have been large."""
        self.service.handle(core.DropObjects(EMBEDDED, number, objects))
        if self.service.links.memory is not None:
            self.service.links.memory.trim()

    def place_files(self, node: NodeId, message: PlaceFiles) -> None:
        self.service.handle(core.SendFiles(EMBEDDED, node, message))

    def send_files(
        self, node: NodeId, number: int, pieces: list[FilePiece], unreadable: list[FileUnreadable]
    ) -> None:
        if pieces:
            self.service.send_pieces(node, EMBEDDED, number, pieces)
        for item in unreadable:
            self.service.send_unreadable(node, EMBEDDED, item)

    # Nodes.

    def discover(self, number: int, nodes: list[NodeAllocate]) -> None:
        cluster = self._opened.get(number)
        if cluster is not None:
            self.discovery.discover(cluster, nodes)

    def allocate(
        self,
        number: int,
        node: NodeId,
        cpus: int,
        *,
        code: bytes = b"",
        files: list[FileEntry] | None = None,
        is_draining: bool = False,
    ) -> None:
        """As ``Backend.allocate``: a node that is new to the cluster is noted in a journal first.

        A full journal has the note on disk before the node may get jobs: a recovery has to know all nodes that may
        have one.
        """
        cluster, info = self._opened.get(number), self.views.find(node)
        wanted = core.Allocate(EMBEDDED, number, node, cpus, is_draining, code, files)
        self._waiting.pop((number, node), None)
        placement = self.views.placement(number, node)
        is_there = placement is not None and placement.status is not PlacementStatus.LEFT
        if cluster is None or info is None or is_there or cpus <= 0:
            self.service.handle(wanted)
            return
        self._journal.note_node(cluster, info, is_private=self.discovery.private_of(info) is not None)
        if cluster.spec.journal is None:
            self._use(cluster, info, wanted)
        else:
            self._waiting[number, node] = wanted
            cluster.spec.journal.thread.after_note(partial(self._use_noted, cluster, info, wanted))

    def _use_noted(self, cluster: OpenCluster, info: NodeInfo, wanted: core.Allocate) -> None:
        """Use a node that a full journal has on disk now, unless it is lost or not wanted any more."""
        if self._waiting.get((cluster.number, info.node)) is wanted:
            del self._waiting[cluster.number, info.node]
            if not info.is_gone:
                self._use(cluster, info, wanted)

    def _use(self, cluster: OpenCluster, info: NodeInfo, wanted: core.Allocate) -> None:
        """Tell the scheduler that a cluster uses a node: it opens the computation there."""
        self.service.handle(wanted)
        self.discovery.on_used(cluster, info)

    def vacate(self, number: int, node: NodeId, *, terminate: bool = False, returns: bool = False) -> None:
        self._waiting.pop((number, node), None)
        self.service.handle(core.Vacate(EMBEDDED, number, node, terminate, returns))

    def limit(self, node: NodeId, cpus: int) -> None:
        self.service.handle(core.LimitNode(node, cpus))
        self._news.on_limited(node)

    # The end.

    def keep_results(self) -> None:
        self._journal.hold()

    def stop(self, *, is_leaving: bool) -> None:
        """End the links, as the first part of the end; ``discovery.stop`` and ``wait`` follow. On the loop.

        ``is_leaving``: nodes keep jobs and results, for a recovery.
        """
        self.service.close(forget=not is_leaving)

    def wait(self, *, is_leaving: bool) -> None:
        """Wait for private nodes and journals, when the loop has ended. On a thread of the program."""
        self.discovery.wait()
        self._journal.close(is_leaving=is_leaving)
        self.memory.close()
