"""A program that uses clusters: the shipped client, whose engine is played, and a user who does what seeds want.

Sessions, engine, backend and scheduler are the real ones (``threads``, ``news``, ``shipped`` have what is played of
them). What the user does is a call of the client each time, as a step of the loop; ``close``, which waits, is a
thread of its own. All that the program is told goes into its account; what its user is told is compared with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING, Any

from dispy import config, payload
from dispy.client.allocation import node_choice, placements
from dispy.client.backend.backend import Access, Wishes
from dispy.client.job import DispyJob
from dispy.client.nodes import NodeAllocate, NodeNames
from dispy.client.recovery.journaling import note_computation
from dispy.client.session import cancellation, files, objects, shutdown
from dispy.client.session.startup import Callbacks, make_session, open_session
from dispy.client.session.state import Options
from dispy.client.session.submission import adopt
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import EMBEDDED, ClientId, NodeId
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Ended, Job, PutObject
from dispy.security.tls import Tls
from dispy.settings import PULSE_S

from . import checks
from .computer import PORT, SECRET, Computer
from .jobs import Account, Entry, Kind, Task
from .journals import Journal, Shelf
from .loop import Loop
from .news import Output, PlayedNews
from .shipped import PlayedShipped
from .show import show_event
from .threads import PlayedEngine, UserThread
from .told import Told
from .world import Party, World

if TYPE_CHECKING:
    from dispy.client.backend.remote import Remote
    from dispy.client.session.state import Session
    from dispy.core.scheduling.state import Computation
    from dispy.scheduler.service import SchedulerService

    from .network import Network
    from .shared_scheduler import SharedScheduler

ACCESS = Access(SECRET, Tls(wanted=False))
"""How nodes are dialed."""


class Object:
    """Something that was put."""

    __slots__ = ("is_referred_to", "uses")

    def __init__(self) -> None:
        self.uses = 0
        """Jobs that were given it and have not ended."""
        self.is_referred_to = True
        """The program holds a reference."""


class Code:
    """The computation of a cluster, as ``code.Computation``: so many bytes, and no function.

    Args:
        code: What nodes load.
    """

    name = "f"
    is_program = adapts = False
    method = None
    known = payload.NOTHING

    def __init__(self, code: bytes) -> None:
        self.code = code

    def code_for(self, python: str, setup_args: tuple[Any, ...]) -> bytes:
        """All nodes get the common code."""
        return b""

    def meet(self, python: str) -> None:
        """All nodes have our version of Python."""

    def waits_for(self, python: str) -> bool:
        """No job has code of one version alone."""
        return False

    def noted(self) -> bytes:
        """As of computations: what a journal keeps."""
        return payload.pack_code(payload.Noted(payload.HERE, self.code, b""))


class Cluster:
    """One computation, as its user has it.

    Attributes:
        session: The real one.
        told: What the user is told.
    """

    __slots__ = (
        "chains", "computers", "is_closing", "is_exclusive", "is_reentrant", "next_job", "number", "objects",
        "session", "shipped", "told",
    )  # fmt: skip

    session: Session

    def __init__(
        self,
        number: int,
        is_reentrant: bool,
        computers: list[Computer],
        is_exclusive: bool,
        account: Account,
    ) -> None:
        self.number = number
        self.is_reentrant = is_reentrant
        self.computers = computers
        self.is_exclusive = is_exclusive
        self.shipped = PlayedShipped(account.shipped)
        self.told = Told(account, number)
        self.next_job = 1
        """Number of the next job."""
        self.chains: dict[int, int] = {}
        """Jobs that somebody waits for to submit another one, and how many more there will be."""
        self.objects: dict[int, Object] = {}
        self.is_closing = False

    @property
    def sending(self) -> bool:
        """Whether files are being put on nodes."""
        return bool(self.session.sent.under_way)


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
        scheduler: The shared scheduler that it uses; None: it has one of its own.
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
        scheduler: SharedScheduler | None = None,
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
        self.computers = computers
        self.identity = world.random.randbytes(16)
        ledger[self.identity] = self.account
        self.clusters: dict[int, Cluster] = {}
        self.limited: set[NodeId] = set()
        """Nodes whose CPUs were limited for all clusters together."""
        self.is_leaving = False
        self.has_left = False
        self._by_host = {computer.host: computer for computer in computers}
        self._next_id = 1
        self._next_object = 1
        self.seeks = False
        """Whether clusters that may use all nodes look for them, and name none."""
        self.printed: list[Output] = []
        """Output that was told and has not been answered."""
        self.answers_at_once = True
        """Whether output is answered as soon as it is told."""
        self.shipped = self.account.shipped
        self.read_s = 0.0001
        """How long it takes at most to read what a node asks for (seconds)."""
        network.machine(self.host)
        loop = self.party.loop or Loop(world, self.party, network, self.host)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            self.engine = PlayedEngine(
                world, self.party, self.identity, self.name, partial(PlayedNews, program=self),
                self._new_journal, lambda: self.read_s * self.world.chance(),
                network.air.of(self.party, self.host),
            )  # fmt: skip
        finally:
            asyncio._set_running_loop(before)
        self.scheduler = scheduler
        self.remote: Remote | None = None
        """Its link to the shared scheduler; None before the first, and if it has one of its own."""
        if scheduler is None:
            checks.watch_scheduler(self, self.engine.backend.service.machine)
        else:
            self.account.tag = number
        world.note(self.name, f"starts as {self.identity[:3].hex()}")

    def show(self, event: core.Event, actions: list[core.Action]) -> None:
        """Tell who reads the trace."""
        self.world.note(self.name, show_event(event, actions))

    @property
    def is_alive(self) -> bool:
        """Whether there is such a process."""
        return not self.party.is_dead

    # Whom it has its jobs run by.

    @property
    def service(self) -> SchedulerService | None:
        """The scheduler; None: it is not there."""
        if self.scheduler is None:
            return self.engine.backend.service
        return self.scheduler.hub.service if self.scheduler.hub is not None else None

    @property
    def backend(self) -> Any:
        """The scheduler, as sessions have it."""
        return self.remote or self.engine.backend

    @property
    def seen_as(self) -> bytes:
        """How nodes know whoever sends its jobs."""
        return self.identity if self.scheduler is None else self.scheduler.identity

    @property
    def client(self) -> ClientId | None:
        """Its number at the scheduler; None: that does not know it."""
        if self.scheduler is None:
            return EMBEDDED
        identity = self.remote.identity if self.remote is not None else b""
        return self.scheduler.client_of(identity)

    def computation(self, number: int) -> Computation | None:
        """A computation at the scheduler; None if that has not got it."""
        service, client = self.service, self.client
        if service is None or client is None:
            return None
        return service.state.computations.get((client, number))

    def open_at_scheduler(self, number: int) -> Container[int] | None:
        """Jobs of a cluster that its shared scheduler has; None: it has one of its own."""
        if self.scheduler is None or self.scheduler.hub is None or self.client is None:
            return None if self.scheduler is None else ()
        cluster = self.scheduler.hub.programs[self.client].clusters.get(number)
        return cluster.open if cluster is not None else ()

    def can_open(self) -> bool:
        """Whether its scheduler is there for a new cluster; if it is not, it is dialed."""
        if self.scheduler is None:
            return True
        if self.remote is None or not self.remote.is_usable:
            self.remote = self.engine.schedulers.at(self.scheduler.address)
            self.scheduler.accounts_by_identity[self.remote.identity] = self.account
        return self.remote.link.attached.done()

    def account_of(self, client: ClientId) -> Account:
        """As of owners of schedulers."""
        return self.account

    def of(self, computation: int) -> tuple[Account, int]:
        """As of owners of schedulers."""
        return self.account, computation

    def accounts(self) -> list[Account]:
        """As of owners of schedulers."""
        return [self.account]

    def computer_at(self, host: str) -> Computer:
        """The computer that has an address."""
        return self._by_host[host]

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

    def _new_journal(self) -> Journal | None:
        """A journal for clusters that have none of their own."""
        if self.shelf is None:
            return None
        journal = self.shelf.make(self.party, is_full=False)
        journal.begin(self.identity, self.name)
        return journal

    # What it is told.

    def on_ended(self, number: int, jobs: list[Ended]) -> None:
        """Jobs have ended, and the session knows."""
        cluster = self.clusters[number]
        for ended in jobs:
            if self.on_job_ended is not None:
                self.on_job_ended(ended)
            entry = self.account.entries[number, ended.number]
            if entry.task.object:
                self._let_go(cluster, entry.task.object, 1)
            left = cluster.chains.pop(ended.number, None)
            if left and not cluster.is_closing and not self.is_leaving:
                delay = 20e-6 + 200e-6 * self.world.chance()
                self.world.after(delay, self.party, self._go_on_with_chain, cluster, left - 1)

    def on_files(self, number: int, node: NodeId, entries: list[FileEntry], reason: str) -> None:
        """Files were put on a node, or not."""
        info = placements.info(self.clusters[number].session, node) if number in self.clusters else None
        known = entries + self.account.files[number]
        if " cannot be " in reason and not any(entry.path in reason for entry in known):
            self.world.fail(f"{self.name}: a file cannot be sent, and it is not told which: {reason}")
        if info is not None and not reason:
            there = self.account.sent.setdefault((number, info.ip_addr), {})
            for entry in entries:
                there[entry.path] = {entry.digest}

    def on_closed(self, number: int) -> None:
        """A cluster is closed."""
        cluster = self.clusters.pop(number)
        for entry in list(self.account.open[number].values()):
            self.account.give_up(entry)
        del self.account.open[number]
        cluster.shipped.close()

    # What its user does.

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
        number = self.engine.new_number()
        cluster = self.clusters[number] = Cluster(
            number, is_reentrant, computers, is_exclusive, self.account
        )
        self.account.open[number] = {}
        self.account.files[number] = list(files or ())
        code: Any = Code(b"c" * code_size)
        entries, held = cluster.shipped.take([cluster.shipped.name(files)] if files else [])
        options = Options(
            access=ACCESS, secret_file=None, owner=b"", computation=code, files=entries, seed=0,
            seeding=payload.random_generators.UNSEEDED, dest_path="", keeps_files=False, isolate=False,
            setup_per="worker" if is_setup_per_worker else "node", setup_timeout=setup_timeout_s or None,
            exclusive=is_exclusive, is_plain=False, reentrant=is_reentrant, pulse_s=PULSE_S, queued_max=1 << 30,
        )  # fmt: skip
        named = [NodeAllocate(computer.host, PORT) for computer in computers]
        is_all = self.seeks and len(computers) == len(self.computers)
        wishes = Wishes([NodeAllocate("10.0.0.*")] if is_all else named, wants_private=False)
        told = cluster.told
        callbacks = Callbacks(told.on_job, told.on_cluster, told.on_output if is_live else None)
        if journal is not None:
            callbacks = Callbacks()  # a recovery has none
        session = cluster.session = make_session(
            options,
            wishes,
            cluster.shipped,
            held,
            self.engine,
            self.backend,
            number,
            cluster,
            callbacks,
        )
        if is_durable:
            assert self.shelf is not None
            journal = self.shelf.make(self.party, is_full=True)
            journal.begin(self.identity, self.name)
        if journal is not None:
            session.journal = journal
            note_computation(session, journal)
        before, config.CancelGrace = config.CancelGrace, grace_s
        open_session(session, False, self.engine.add)
        config.CancelGrace = before
        return cluster

    def submit(self, cluster: Cluster, tasks: list[Task], pinned: NodeId | None = None) -> list[int]:
        """Submit some jobs; returns their numbers."""
        return [self._submit(cluster, task, pinned) for task in tasks]

    def submit_with_files(
        self, cluster: Cluster, task: Task, pinned: NodeId | None, files: list[FileEntry]
    ) -> None:
        """Submit a job that brings files."""
        self._submit(cluster, task, pinned, files)

    def _submit(
        self, cluster: Cluster, task: Task, pinned: NodeId | None, files: list[FileEntry] | None = None
    ) -> int:
        number = cluster.next_job
        cluster.next_job += 1
        entry = Entry(number, cluster.number, task, cluster.is_reentrant, pinned)
        if task.object:
            cluster.objects[task.object].uses += 1
        named: dict[str, Any] = {}
        if files:
            entry.files = files
            named["dispy_job_depends"] = [cluster.shipped.name(files)]
        self.account.submit(entry)
        session = cluster.session
        job = session.submit(session, self._next_id, pinned, (task.encode(entry.mark),), named)
        self._next_id += 1
        if job.number != number:
            self.world.fail(
                f"{self.name}: job {number} of computation {cluster.number} is job {job.number}"
            )
        cluster.told.jobs[number] = job
        if task.kind in (Kind.HANGS, Kind.DEAF):
            delay = 0.05 + 3.0 * self.world.chance() ** 2
            self.world.after(delay, self.party, self.cancel, cluster, [number])
        return number

    def give_files(self, cluster: Cluster, computer: Computer, files: list[FileEntry]) -> None:
        """When a computer is used next, it has these beside those of all."""
        names = {entry.path for entry in cluster.session.options.files}
        files = [entry for entry in files if entry.path not in names]
        if files and not cluster.is_closing:
            self.account.files[cluster.number] += files
            wanted = NodeAllocate(computer.host, PORT)
            wanted.depends = [cluster.shipped.name(files)]
            self._want(cluster, computer, wanted)

    def _want(self, cluster: Cluster, computer: Computer, wanted: NodeAllocate) -> None:
        """Use a computer as is said, and no more as was said before (``allocate_node``)."""
        wishes = cluster.session.wishes
        wishes.allocations = [known for known in wishes.allocations if known.host != computer.host]
        node_choice.allocate_more(cluster.session, [wanted])

    def send_files(self, cluster: Cluster, files: list[FileEntry], computer: Computer | None) -> None:
        """Put files into working directories, of all computers or one; who did that waits before doing so again."""
        session = cluster.session
        if cluster.sending or cluster.is_closing:
            return
        names = None if computer is None else NodeNames(computer.host, session.known_nodes)
        hosts = {info.node: info.ip_addr for info in session.known_nodes()}
        for node in placements.all_open(session):
            there = self.account.sent.get((cluster.number, hosts[node]), {})
            for entry in files if computer is None or hosts[node] == computer.host else ():
                if entry.path in there:
                    there[entry.path].add(entry.digest)
        self.account.files[cluster.number] += files
        entries, held = cluster.shipped.take([cluster.shipped.name(files)])
        _send_files(session, names, entries, held)

    def start_chain(self, cluster: Cluster, task: Task, length: int) -> None:
        """Submit a job, wait for it, submit the next one, and so on."""
        if not cluster.is_closing:
            if length > 1:
                cluster.chains[cluster.next_job] = length
            self._submit(cluster, task, None)

    def _go_on_with_chain(self, cluster: Cluster, left: int) -> None:
        if not cluster.is_closing and not self.is_leaving:
            self.start_chain(cluster, Task(int(200 * self.world.chance())), left)

    def cancel(self, cluster: Cluster, numbers: list[int]) -> None:
        """Cancel jobs, those that have not ended."""
        if not cluster.session.is_closed:
            jobs = cluster.told.jobs
            for number in numbers if self.scheduler is not None else ():
                self.account.entries[cluster.number, number].asked_to_end = True
            cancellation.cancel(cluster.session, [jobs[number] for number in numbers])

    def cancel_all(self, cluster: Cluster) -> None:
        """Cancel all jobs of a cluster."""
        self.cancel(cluster, list(self.account.open.get(cluster.number, ())))

    def _info(self, cluster: Cluster, computer: Computer) -> NodeId | None:
        """The node of a computer, if it is in use."""
        session = cluster.session
        if session.is_closed:
            return None
        return placements.find(session, NodeNames(computer.host, session.known_nodes))

    def allocate(self, cluster: Cluster, computer: Computer, cpus: int | None, is_draining: bool) -> None:
        """Use more or less of a computer; None: all of it."""
        if cluster.session.is_closed:
            return
        if cpus == 0:
            node = self._info(cluster, computer)
            if node is not None:
                self.account.has_losses = True
                if is_draining:
                    node_choice.deallocate(cluster.session, node)
                else:
                    node_choice.leave(cluster.session, node, terminate=True)
        else:
            self._want(cluster, computer, NodeAllocate(computer.host, PORT, cpus or 0))

    def vacate(self, cluster: Cluster, computer: Computer, terminate: bool, returns: bool) -> None:
        """Leave a computer when what runs there has ended (``close_node``), and come back (``resetup_node``)."""
        node = self._info(cluster, computer)
        if node is not None:
            self.account.has_losses = True
            if returns:
                node_choice.set_up_again(cluster.session, node, terminate, None)
            else:
                node_choice.leave(cluster.session, node, terminate)

    def limit(self, computer: Computer, cpus: int) -> None:
        """Use no more than so many CPUs of a computer, with all clusters together (``set_node_cpus``)."""
        for cluster in list(self.clusters.values())[:1]:
            for info in cluster.session.known_nodes():
                if info.ip_addr == computer.host:
                    self.limited.add(info.node)
                    self.backend.limit(info.node, cpus)

    def lift_limits(self) -> None:
        """Let all clusters together use every CPU of the nodes that were limited, also of those that are away."""
        most = max(computer.cpus for computer in self.computers)
        for node in sorted(self.limited):
            self.backend.limit(node, most)

    def pin(self, cluster: Cluster) -> NodeId | None:
        """A node that jobs of a cluster can be pinned to."""
        nodes = placements.all_open(cluster.session)
        return nodes[int(self.world.chance() * len(nodes))] if nodes else None

    def put(self, cluster: Cluster, size: int) -> int:
        """Put an object; returns its number."""
        number = self._next_object
        self._next_object += 1
        cluster.objects[number] = Object()
        _put(cluster.session, PutObject(cluster.number, number, b"o" * size))
        return number

    def resume(
        self, cluster: Cluster, put: list[tuple[int, memoryview]], jobs: list[DispyJob], messages: list[Job],
        was: list[Entry],
    ) -> None:  # fmt: skip
        """Run jobs of a program that is dead; of each there is what was known of it."""
        backend = self.engine.backend
        for number, data in put:
            cluster.objects[number] = Object()
            backend.put(PutObject(cluster.number, number, bytes(data)))
        for job, before in zip(jobs, was, strict=True):
            entry = Entry(job.number, cluster.number, before.task, cluster.is_reentrant, None)
            entry.runs = before.runs
            if entry.task.object:
                cluster.objects[entry.task.object].uses += 1
            self.account.submit(entry)
        adopt(cluster.session, jobs)
        backend.submit(cluster.number, messages)

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
            cluster.session.dropped.append(number)
            self.engine.post(objects.drop_refs, cluster.session)

    # Ending.

    def close(self, cluster: Cluster, terminate: bool) -> None:
        """Close a cluster: when its jobs have ended, or cancel them and wait for a bounded time."""
        if not cluster.is_closing:
            cluster.is_closing = True
            for entry in self.account.open[cluster.number].values():
                entry.asked_to_end = entry.asked_to_end or terminate
            UserThread(self.world, self.party, self._close, cluster, terminate)

    def _close(self, cluster: Cluster, terminate: bool) -> None:
        if not shutdown.close(cluster.session, None, terminate):
            self.world.fail(f"{self.name}: cluster {cluster.number} is not closed")
        cluster.told.check_closed()

    def leave(self) -> None:
        """Exit in good order."""
        if not self.has_left:
            self.has_left = True
            self.engine.stop()
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


# The user's calls would wait for the loop, whose step this is.
_send_files = files._send_files
_put = objects._put
