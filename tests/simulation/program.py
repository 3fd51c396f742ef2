"""A program that uses clusters: the real scheduler service, with what the client library does around it.

What ``client.engine.engine`` and ``client.cluster`` do with threads is played here in short: look for nodes, allocate
them, submit, cancel, put, close; and every word that the program is told goes into its account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import NodeId
from dispy.journal import rows
from dispy.net.dialing import Target
from dispy.protocol import node
from dispy.protocol.connection.heartbeat import TICKS
from dispy.protocol.files import replace_entries
from dispy.protocol.node import Compute, Ended, Job, NeedFiles
from dispy.protocol.views import NodeInfo
from dispy.scheduler.service import SchedulerService
from dispy.settings import PULSE_S, SILENT_PULSES

from . import checks
from .computer import PORT, SECRET, Computer
from .jobs import Account, Entry, Kind, Task, said_by
from .journals import Journal, Shelf
from .loop import Loop
from .show import show_event
from .turns import Turns
from .world import Party, World

if TYPE_CHECKING:
    from dispy.protocol.files import FileEntry

    from .network import Network

DISCOVER_S = 0.2
RETRY_S = 2.0
CLOSE_S = 2.0
"""These three as in ``client.engine.engine``, ``client.engine.node_discovery`` and ``client.cluster``."""

SILENT_S = PULSE_S * SILENT_PULSES - 0.5
"""A node that was heard of less long ago is not silent."""

LOOK_S = PULSE_S / TICKS
"""Each time that we stood still counts as much."""


class Object:
    """Something that was put."""

    __slots__ = ("is_referred_to", "uses")

    def __init__(self) -> None:
        self.uses = 0
        """Jobs that were given it and have not ended."""
        self.is_referred_to = True
        """The program holds a reference."""


class Cluster:
    """One computation."""

    __slots__ = (
        "chains", "computers", "cpus", "end_by", "files", "files_by_name", "grace_s", "hosts", "is_closing",
        "is_exclusive", "is_reentrant", "journal", "number", "objects", "options", "sending", "sent", "wishes",
    )  # fmt: skip

    def __init__(
        self, number: int, is_reentrant: bool, computers: list[Computer], grace_s: float, is_exclusive: bool
    ) -> None:
        self.number = number
        self.is_reentrant = is_reentrant
        self.computers = computers
        self.grace_s = grace_s
        self.is_exclusive = is_exclusive
        self.wishes: dict[str, int] = {}
        """CPUs of a computer that it wants, where that is not all."""
        self.chains: dict[int, int] = {}
        """Jobs that somebody waits for to submit another one, and how many more there will be."""
        self.objects: dict[int, Object] = {}
        self.files: list[FileEntry] = []
        self.files_by_name: dict[str, list[FileEntry]] = {}
        """Those of computers that have others."""
        self.sending: dict[tuple[NodeId, int], list[FileEntry]] = {}
        """What is being put on nodes, by request."""
        self.hosts: dict[NodeId, str] = {}
        """Addresses of those nodes."""
        self.sent: dict[str, list[FileEntry]] = {}
        """What was put there, by address: a node that comes back gets it again."""
        self.is_closing = False
        self.end_by: float | None = None
        """When jobs are given up that have not ended."""
        self.journal: Journal | None = None
        """Its own, a full one."""
        self.options = rows.Options(
            SECRET.fingerprint(),
            reentrant=is_reentrant,
            exclusive=is_exclusive,
            nodes=[(computer.host, PORT, 0) for computer in computers],
        )


class Program:
    """A process with some clusters.

    Args:
        world: Where it runs.
        network: What it dials into.
        ledger: Where its account goes.
        number: Its number.
        computers: Those it knows.
        shelf: Where its journals are; None: it has none.
        party: The process that it is in; None: one of its own.
        host: The address of its machine; None: one of its own.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        ledger: dict[bytes, Account],
        number: int,
        computers: list[Computer],
        shelf: Shelf | None = None,
        party: Party | None = None,
        host: str | None = None,
    ) -> None:
        self.world = world
        self.network = network
        self.name = f"program{number}" if party is None else f"{party.name}.{number}"
        self.host = host or f"10.0.1.{number}"
        self.account = Account(world, self.name)
        self.party = party or world.party(self.name)
        self.is_resuming = party is not None
        """It runs jobs of another one that is dead."""
        self.on_job_ended: Callable[[Ended], object] | None = None
        """Is told, too."""
        self.on_crash: Callable[[Program, str], object] | None = None
        """Is told that it has crashed, and how."""
        self.shelf = shelf
        self._journal: Journal | None = None
        """For clusters that have none of their own."""
        self._noted: set[int] = set()
        """Computations that are in it."""
        self.computers = computers
        self.identity = world.random.randbytes(16)
        ledger[self.identity] = self.account
        self.clusters: dict[int, Cluster] = {}
        self.limits: dict[str, int] = {}
        """How many CPUs of a computer it wants, where that was said."""
        self.is_leaving = False
        self.has_left = False
        self._by_host = {computer.host: computer for computer in computers}
        self._tried: dict[Target, float] = {}
        self._next_job = 1
        self._next_computation = 1
        self._next_object = 1
        self._next_request = 1
        self.printed: list[core.TellPrinted] = []
        """Output that was told and has not been answered."""
        self.answers_at_once = True
        """Whether output is answered as soon as it is told."""
        self.shipped = self.account.shipped
        self.read_s = 0.0001
        """How long it takes at most to read what a node asks for (seconds)."""
        self._reader = Turns(world, self.party, self._read_files, lambda: self.read_s * self.world.chance())
        """The thread that reads files."""
        network.machine(self.host)
        loop = self.party.loop or Loop(world, self.party, network, self.host)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            self.service = SchedulerService(self.identity, self.name, self, world)
        finally:
            asyncio._set_running_loop(before)
        checks.watch_scheduler(self, self.service.machine)
        self._targets = [(computer, Target(computer.host, PORT, SECRET.key)) for computer in computers]
        world.soon(self.party, self._discover)
        world.note(self.name, f"starts as {self.identity[:3].hex()}")

    def show(self, event: core.Event, actions: list[core.Action]) -> None:
        """Tell who reads the trace."""
        self.world.note(self.name, show_event(event, actions))

    @property
    def is_alive(self) -> bool:
        """Whether there is such a process."""
        return not self.party.is_dead

    def open_jobs(self) -> int:
        """Jobs that have not ended."""
        return sum(len(jobs) for jobs in self.account.open.values())

    def open_work_us(self) -> int:
        """What those jobs take one after another, roughly (microseconds)."""
        return sum(entry.task.duration_us for jobs in self.account.open.values() for entry in jobs.values())

    def longest_us(self) -> int:
        """What the longest of those jobs takes (microseconds)."""
        jobs = [entry for jobs in self.account.open.values() for entry in jobs.values()]
        return max((entry.task.duration_us for entry in jobs), default=0)

    # Nodes.

    def _discover(self) -> None:
        self.world.after(DISCOVER_S, self.party, self._discover)
        now = self.world.now
        wanted = {computer.name for cluster in self.clusters.values() for computer in cluster.computers}
        for computer, target in self._targets:
            if computer.name in wanted and target not in self.service.links.by_target:
                if now - self._tried.get(target, -RETRY_S) >= RETRY_S:
                    self._tried[target] = now
                    self.service.links.reach(target)

    def _allocate(self, cluster: Cluster, info: NodeInfo) -> None:
        computer = self._by_host[info.ip_addr]
        if computer in cluster.computers:
            cpus = cluster.wishes.get(computer.name, computer.cpus)
            if cpus > 0:
                self._note_node(cluster, info)
                if cluster.journal is None:
                    self._use(cluster, info, cpus)
                else:
                    # Not before it is written: whoever recovers the jobs has to know all who may have one.
                    cluster.journal.thread.after_note(partial(self._use, cluster, info, cpus))

    def _use(self, cluster: Cluster, info: NodeInfo, cpus: int) -> None:
        files = self._files_of(cluster, info.ip_addr)
        self.service.handle(core.Allocate(core.EMBEDDED, cluster.number, info.node, cpus, files=files))

    def _files_of(self, cluster: Cluster, host: str) -> list[FileEntry] | None:
        """The files that a computation is to have at an address; None: those that it has everywhere."""
        files = cluster.files_by_name.get(self._by_host[host].name)
        sent = cluster.sent.get(host)
        return replace_entries(cluster.files if files is None else files, sent) if sent else files

    # Journals, as in ``client.engine.engine``.

    def _note_node(self, cluster: Cluster, info: NodeInfo) -> None:
        where = cluster.journal
        if where is None:
            if self.shelf is None:
                return
            if self._journal is None:
                self._journal = self.shelf.make(self.party, is_full=False)
                self._journal.begin(self.identity, self.name)
            where = self._journal
            if cluster.number not in self._noted:
                self._noted.add(cluster.number)
                where.add_computation(cluster.number, self.name, cluster.options, b"")
        target = self.service.links.target_of(info.node)
        where.add_node(
            rows.NodeRow(
                info.node, target.host, target.port, target.name, info.name, False, SECRET.fingerprint()
            )
        )

    def _begin_journal(self, cluster: Cluster, code: bytes) -> None:
        assert self.shelf is not None
        cluster.journal = self.shelf.make(self.party, is_full=True)
        cluster.journal.begin(self.identity, self.name)
        cluster.journal.add_computation(cluster.number, self.name, cluster.options, code)

    def _journals(self) -> list[Journal]:
        own = [cluster.journal for cluster in self.clusters.values() if cluster.journal is not None]
        return own if self._journal is None else [*own, self._journal]

    def _after_note(self, told: Callable[[], None]) -> None:
        for cluster in self.clusters.values():
            if cluster.journal is not None:
                told = partial(cluster.journal.thread.after_note, told)
        told()

    def _end_journal(self, cluster: Cluster) -> None:
        self.service.on_send.pop(cluster.number, None)
        if not any(other.journal is not None for other in self.clusters.values()):
            self.service.links.after_note = None
        if cluster.journal is not None:
            cluster.journal.close(remove=True)
        if self._journal is not None and cluster.number in self._noted:
            self._noted.discard(cluster.number)
            if self._noted:
                self._journal.drop_computation(cluster.number)
            else:
                self._journal.end(remove=True)
                self._journal = None

    # What the service tells.

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself."""
        computer = self._by_host[found.ip_addr]
        if computer.name in self.limits:
            self.limit(computer, self.limits[computer.name])
        for cluster in self.clusters.values():
            self._allocate(cluster, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost: that must have been so."""
        self.world.note(self.name, reason)
        self.account.has_losses = True
        self._tried.pop(self.service.links.target_of(found.node), None)
        for journal in self._journals():
            journal.drop_node(found.node)
        service = self._by_host[found.ip_addr].service
        is_there = service is not None and service.incarnation == found.node and not service.is_ending
        if not is_there:
            return
        if "does not answer" not in reason and "given up" not in reason and "silent" not in reason:
            self.world.fail(f"{self.name}: a node that is there is taken for dead: {reason}")
        heard, stops = self.party.heard.get(found.ip_addr, (-1e9, 0))
        since = self.party.awake() - heard
        if since < SILENT_S - LOOK_S * (self.party.stops - stops):
            self.world.fail(
                f"{self.name}: a node is taken for dead {since:.3f} s after it was heard: {reason}"
            )

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """A node does not answer."""

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have ended on a node."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None and cluster.journal is not None:
            cluster.journal.ended(found.ip_addr, action.ended)
        self._end_all(action.computation, action.ended)

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have ended that are on no node."""
        status, reason = action.status, action.reason
        cluster = self.clusters.get(action.computation)
        if cluster is not None and cluster.journal is not None:
            cluster.journal.ended_here(action.numbers, status, reason)
        ended = [Ended(n, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for n in action.numbers]
        self._end_all(action.computation, ended)

    def _end_all(self, computation: int, jobs: list[Ended]) -> None:
        cluster = self.clusters.get(computation)
        if cluster is None:
            self.world.fail(f"{self.name}: ends are told of computation {computation}, which is closed")
            return
        for ended in jobs:
            self._end(cluster, ended)
        if cluster.is_closing and not self.account.open[cluster.number]:
            self.world.soon(self.party, self._close_if_done, cluster)

    def _end(self, cluster: Cluster, ended: Ended) -> None:
        number = ended.number
        self.account.on_told_ended(ended)
        if self.on_job_ended is not None:
            self.on_job_ended(ended)
        entry = self.account.entries[number]
        if entry.task.object:
            self._let_go(cluster, entry.task.object, 1)
        self.shipped.let_go(entry.files)
        left = cluster.chains.pop(number, None)
        if left and not cluster.is_closing and not self.is_leaving:
            delay = 20e-6 + 200e-6 * self.world.chance()
            self.world.after(delay, self.party, self._go_on_with_chain, cluster, left - 1)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running."""
        for started in action.started:
            self.account.on_told_started(started.number, started.attempt)

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait again."""
        for number in action.numbers:
            entry = self.account.entries[number]
            if entry.status:
                self.world.fail(f"{self.name}: job {number} waits again after its end")

    def answer_printed(self) -> None:
        """Say that all output that was told has arrived."""
        while self.printed:
            action = self.printed.pop(0)
            self.service.handle(
                core.AnswerPrinted(action.client, action.computation, action.node, action.serial)
            )

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job sent a provisional result."""
        self.account.on_told_value(action.value)
        value = action.value
        told = node.AcknowledgeProvisional(value.computation, value.number, value.attempt, value.serial)
        self.service.handle(core.AnswerValue(action.client, found.node, told))

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs have printed something."""
        self.printed.append(action)
        if self.answers_at_once:
            self.answer_printed()
        for printed in action.printed:
            said = said_by(printed.number, printed.attempt)
            at = printed.stdout_at
            if printed.stdout != said[at : at + len(printed.stdout)]:
                self.world.fail(
                    f"{self.name}: job {printed.number} is told to have printed what another has"
                )
            if self.account.entries[printed.number].status:
                self.world.fail(f"{self.name}: job {printed.number} is told to print after its end")

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node became usable for a cluster, or ceased to be."""
        if action.is_usable:
            computation = self.service.state.computations.get((core.EMBEDDED, action.computation))
            if computation is None or action.node not in computation.placements:
                self.world.fail(f"{self.name}: a node is said to be usable that is not there")

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A computation has left a node, and may come back to it now, or a little later."""
        for entry in self.account.open[action.computation].values():
            is_there = entry.attempt in entry.starts and entry.attempt not in entry.died
            if entry.node == action.node and is_there:
                self.world.fail(f"{self.name}: a node is left while job {entry.number} is there")
        cluster = self.clusters[action.computation]
        if self.world.chance() < 0.5:
            self._return(cluster, found)
        else:
            self.world.after(0.01 * self.world.chance(), self.party, self._return, cluster, found)

    def _return(self, cluster: Cluster, info: NodeInfo) -> None:
        computer = self._by_host[info.ip_addr]
        cpus = cluster.wishes.get(computer.name, computer.cpus)
        if cluster.number in self.clusters:
            self._use(cluster, info, cpus)

    def on_placement(self, action: core.TellPlacement, found: NodeInfo) -> None:
        """Something of a computation on a node has changed."""

    def on_files_needed(self, client: core.ClientId, message: NeedFiles, found: NodeInfo) -> None:
        """A node wants pieces of files."""
        if message.computation in self.clusters:
            self._reader.put((message, found.node))

    def _read_files(self) -> None:
        message, asker = self._reader.get()
        pieces, unreadable = self.shipped.answer(message)
        if pieces:
            self.world.soon(
                self.party, self.service.send_pieces, asker, core.EMBEDDED, message.computation, pieces
            )
        for item in unreadable:
            self.world.soon(self.party, self.service.send_unreadable, asker, core.EMBEDDED, item)
        if not self._reader.empty():
            self._reader.wake(self.read_s * self.world.chance())

    def on_files(self, action: core.TellFiles) -> None:
        """Files have been put somewhere, or not: of each request one is told, once."""
        cluster = self.clusters.get(action.computation)
        if cluster is None:
            return
        entries = cluster.sending.pop((action.node, action.request), None)
        if entries is None:
            self.world.fail(f"{self.name}: it is told twice what came of files that were sent")
            return
        self.shipped.let_go(entries)
        reason = action.reason
        host = cluster.hosts[action.node]
        there = self.account.sent.setdefault((action.computation, host), {})
        for entry in () if reason else entries:
            there[entry.path] = {entry.digest}
        if not reason:
            self._hold(cluster, entries)
            cluster.sent[host] = replace_entries(cluster.sent.get(host, ()), entries)
        known = entries + self.account.files[cluster.number]
        if " cannot be " in reason and not any(entry.path in reason for entry in known):
            self.world.fail(f"{self.name}: a file cannot be sent, and it is not told which: {reason}")

    def on_cpus(self, found: NodeInfo) -> None:
        """A node may offer another number of CPUs."""

    def on_available(self, found: NodeInfo) -> None:
        """A node says what it has to spare."""

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        """Nobody asks."""

    # What the program does; on its own process.

    def open_cluster(
        self,
        is_reentrant: bool,
        computers: list[Computer],
        grace_s: float,
        code_size: int,
        is_live: bool,
        is_exclusive: bool = False,
        is_durable: bool = False,
        journal: Journal | None = None,
        files: list[FileEntry] | None = None,
        setup_timeout_s: float = 0.0,
        is_setup_per_worker: bool = False,
    ) -> Cluster:
        """Create a cluster; with a full journal, a new one or that of a program that is dead."""
        number = self._next_computation
        self._next_computation += 1
        cluster = self.clusters[number] = Cluster(number, is_reentrant, computers, grace_s, is_exclusive)
        self.account.open[number] = {}
        self.account.files[number] = []
        self._hold(cluster, files or [])
        cluster.files = files or []
        code = b"c" * code_size
        if is_durable:
            self._begin_journal(cluster, code)
        elif journal is not None:
            cluster.journal = journal
            journal.add_computation(number, self.name, cluster.options, code)
        if cluster.journal is not None:
            assert cluster.journal.mark is not None
            self.service.on_send[number] = cluster.journal.mark.note
            self.service.links.after_note = self._after_note
        compute = Compute(
            number,
            "f",
            code,
            grace_s=grace_s,
            live=is_live,
            exclusive=is_exclusive,
            setup_per_worker=is_setup_per_worker,
            setup_timeout_s=setup_timeout_s,
            files=cluster.files,
        )
        self.service.handle(core.AddComputation(core.EMBEDDED, number, compute, is_reentrant))
        for info in self.service.links.nodes():
            self._allocate(cluster, info)
        return cluster

    def submit(self, cluster: Cluster, tasks: list[Task], pinned: NodeId | None = None) -> list[int]:
        """Submit some jobs; returns their numbers."""
        jobs = [self._accept(cluster, task, pinned) for task in tasks]
        numbers = [job.number for job in jobs]
        if cluster.journal is not None:
            cluster.journal.submitted(jobs, is_pinned=pinned is not None)
        if pinned is not None:
            for job in jobs:
                self.service.handle(core.SubmitJobs(core.EMBEDDED, cluster.number, [job], pinned))
        else:
            self.service.submit(core.SubmitJobs(core.EMBEDDED, cluster.number, jobs))
            self.service.schedule_tick()
        return numbers

    def submit_with_files(
        self, cluster: Cluster, task: Task, pinned: NodeId | None, files: list[FileEntry]
    ) -> None:
        """Submit a job that brings files."""
        job = self._accept(cluster, task, pinned)
        self.account.entries[job.number].files = files
        self.shipped.hold(files)
        self.service.handle(
            core.SubmitJobs(core.EMBEDDED, cluster.number, [job], pinned, {job.number: files})
        )
        self.service.schedule_tick()

    def _hold(self, cluster: Cluster, files: list[FileEntry]) -> None:
        """A cluster has these files as long as it is open."""
        self.account.files[cluster.number] += files
        self.shipped.hold(files)

    def give_files(self, cluster: Cluster, computer: Computer, files: list[FileEntry]) -> None:
        """When a computer is used next, it has these beside those of all."""
        self._hold(cluster, files)
        names = {entry.path for entry in files}
        cluster.files_by_name[computer.name] = [e for e in cluster.files if e.path not in names] + files

    def send_files(self, cluster: Cluster, files: list[FileEntry], computer: Computer | None) -> None:
        """Put files into working directories, of all computers or one; who did that waits before doing so again."""
        if cluster.sending:
            return
        placements = self.service.state.computations[core.EMBEDDED, cluster.number].placements
        hosts = {info.node: info.ip_addr for info in self.service.links.nodes()}
        for found, placement in list(placements.items()):
            if placement.is_open() and (computer is None or hosts.get(found) == computer.host):
                request = self._next_request
                self._next_request += 1
                cluster.sending[found, request] = files
                self.shipped.hold(files)
                cluster.hosts[found] = hosts[found]
                there = self.account.sent.get((cluster.number, hosts[found]), {})
                for entry in files:
                    if entry.path in there:
                        there[entry.path].add(entry.digest)
                message = node.PlaceFiles(cluster.number, request, files)
                self.service.handle(core.SendFiles(core.EMBEDDED, found, message))

    def _accept(self, cluster: Cluster, task: Task, pinned: NodeId | None) -> Job:
        number = self._next_job
        self._next_job += 1
        if task.object:
            cluster.objects[task.object].uses += 1
        self.account.submit(Entry(number, cluster.number, task, cluster.is_reentrant, pinned))
        if task.kind in (Kind.HANGS, Kind.DEAF):
            delay = 0.05 + 3.0 * self.world.chance() ** 2
            self.world.after(delay, self.party, self.cancel, cluster, [number])
        return Job(number, 0, task.encode(number))

    def start_chain(self, cluster: Cluster, task: Task, length: int) -> None:
        """Submit a job, wait for it, submit the next one, and so on."""
        if cluster.is_closing:
            return
        job = self._accept(cluster, task, None)
        if length > 1:
            cluster.chains[job.number] = length
        if cluster.journal is not None:
            cluster.journal.submitted([job])
        if cluster.journal is not None or not self.service.try_submit(core.EMBEDDED, cluster.number, job):
            self.service.submit(core.SubmitJobs(core.EMBEDDED, cluster.number, [job]))
            self.service.schedule_tick()

    def _go_on_with_chain(self, cluster: Cluster, left: int) -> None:
        if not cluster.is_closing and not self.is_leaving:
            self.start_chain(cluster, Task(int(200 * self.world.chance())), left)

    def cancel(self, cluster: Cluster, numbers: list[int]) -> None:
        """Cancel jobs, those that have not ended."""
        jobs = self.account.open.get(cluster.number, {})
        numbers = [number for number in numbers if number in jobs]
        for number in numbers:
            jobs[number].is_cancelled = True
        if numbers:
            self.service.handle(core.CancelJobs(core.EMBEDDED, cluster.number, numbers))

    def cancel_all(self, cluster: Cluster) -> None:
        """Cancel all jobs of a cluster."""
        self.cancel(cluster, list(self.account.open.get(cluster.number, ())))

    def allocate(self, cluster: Cluster, computer: Computer, cpus: int | None, is_draining: bool) -> None:
        """Use more or less of a computer; None: all of it."""
        if cpus is None:
            cluster.wishes.pop(computer.name, None)
        else:
            cluster.wishes[computer.name] = cpus
        for info in self.service.links.nodes():
            if info.ip_addr == computer.host:
                if cpus == 0:
                    self.account.has_losses = True
                wanted = computer.cpus if cpus is None else cpus
                computation = self.service.state.computations.get((core.EMBEDDED, cluster.number))
                placement = computation.placements.get(info.node) if computation is not None else None
                if wanted and placement is not None and placement.status is core.Status.LEAVING:
                    # As ``allocate_node`` does: what is being left is come back to.
                    self.service.handle(core.Vacate(core.EMBEDDED, cluster.number, info.node, returns=True))
                else:
                    files = self._files_of(cluster, computer.host)
                    self.service.handle(
                        core.Allocate(
                            core.EMBEDDED, cluster.number, info.node, wanted, is_draining, files=files
                        )
                    )

    def vacate(self, cluster: Cluster, computer: Computer, terminate: bool, returns: bool) -> None:
        """Leave a computer when what runs there has ended (``close_node``), and come back (``resetup_node``)."""
        for info in self.service.links.nodes():
            if info.ip_addr == computer.host:
                self.account.has_losses = True
                self.service.handle(
                    core.Vacate(core.EMBEDDED, cluster.number, info.node, terminate, returns)
                )

    def limit(self, computer: Computer, cpus: int) -> None:
        """Use no more than so many CPUs of a computer, with all clusters together (``set_node_cpus``)."""
        for info in self.service.links.nodes():
            if info.ip_addr == computer.host:
                self.limits[computer.name] = cpus
                self.service.handle(core.LimitNode(info.node, cpus))

    def pin(self, cluster: Cluster) -> NodeId | None:
        """A node that jobs of a cluster can be pinned to."""
        placements = self.service.state.computations[core.EMBEDDED, cluster.number].placements
        nodes = list(placements)
        return nodes[int(self.world.chance() * len(nodes))] if nodes else None

    def put(self, cluster: Cluster, size: int) -> int:
        """Put an object; returns its number."""
        number = self._next_object
        self._next_object += 1
        data = b"o" * size
        cluster.objects[number] = Object()
        if cluster.journal is not None:
            cluster.journal.put_object(number, data)
        self.service.handle(core.PutObject(core.EMBEDDED, node.PutObject(cluster.number, number, data)))
        return number

    def resume(
        self, cluster: Cluster, put: list[tuple[int, memoryview]], jobs: list[Job], was: list[Entry]
    ) -> None:
        """Run jobs of a program that is dead; of each there is what was known of it."""
        for number, data in put:
            cluster.objects[number] = Object()
            self.service.handle(
                core.PutObject(core.EMBEDDED, node.PutObject(cluster.number, number, bytes(data)))
            )
        for job, before in zip(jobs, was, strict=True):
            entry = Entry(job.number, cluster.number, before.task, cluster.is_reentrant, None)
            entry.runs = before.runs
            if entry.task.object:
                cluster.objects[entry.task.object].uses += 1
            self.account.submit(entry)
        self.service.submit(core.SubmitJobs(core.EMBEDDED, cluster.number, jobs))
        self.service.schedule_tick()

    def drop(self, cluster: Cluster, number: int) -> None:
        """Let go of a reference."""
        cluster.objects[number].is_referred_to = False
        self._let_go(cluster, number, 0)

    def _let_go(self, cluster: Cluster, number: int, uses: int) -> None:
        there = cluster.objects.get(number)
        if there is None:
            return
        there.uses -= uses
        if not there.uses and not there.is_referred_to:
            del cluster.objects[number]
            self.world.soon(self.party, self._drop, cluster, number)

    def _drop(self, cluster: Cluster, number: int) -> None:
        if cluster.journal is not None and cluster.number in self.clusters:
            cluster.journal.drop_objects([number])
        self.service.handle(core.DropObjects(core.EMBEDDED, cluster.number, [number]))

    # Ending.

    def close(self, cluster: Cluster, terminate: bool) -> None:
        """Close a cluster: when its jobs have ended, or cancel them and wait for a bounded time."""
        if not cluster.is_closing:
            cluster.is_closing = True
            if terminate:
                self._terminate(cluster)
            else:
                self._close_if_done(cluster)

    def _terminate(self, cluster: Cluster) -> None:
        self.cancel_all(cluster)
        self.world.after(cluster.grace_s + CLOSE_S, self.party, self._give_up, cluster)
        self._close_if_done(cluster)

    def _give_up(self, cluster: Cluster) -> None:
        """What has not ended in time is ended here."""
        if cluster.number not in self.clusters:
            return
        for entry in list(self.account.open[cluster.number].values()):
            self.account.give_up(entry)
            self.shipped.let_go(entry.files)
        self._close_if_done(cluster)

    def _close_if_done(self, cluster: Cluster) -> None:
        if cluster.number in self.clusters and not self.account.open[cluster.number]:
            del self.clusters[cluster.number]
            del self.account.open[cluster.number]
            self.shipped.let_go(self.account.files[cluster.number])
            for files in cluster.sending.values():
                self.shipped.let_go(files)
            self.service.handle(core.CloseComputation(core.EMBEDDED, cluster.number))
            self._end_journal(cluster)

    def leave(self) -> None:
        """Exit in good order."""
        if not self.has_left:
            self.has_left = True
            self.service.close()
            self.world.after(1e-4, self.party, self._exit)

    def _exit(self) -> None:
        self.world.note(self.name, "exits")
        self.party.kill()
        self.network.drop(self.party, "end")

    def crash(self, how: str) -> None:
        """It is gone in the middle of anything; what it has left behind is for a recovery, if it has journals."""
        self.world.note(self.name, f"crashes ({how})")
        self.party.kill()
        self.network.drop(self.party, how)
        if how == "silent":
            self.network.machine(self.host).is_up = False
        if self.shelf is not None:
            self.shelf.crash(how)
        if self.on_crash is not None:
            self.on_crash(self, how)
