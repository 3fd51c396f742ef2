"""Both machines wired together: each job has one final status, and runs once unless it may run again."""

from __future__ import annotations

from checked_node import CheckedNode
from cluster_rules import INDEX, ClusterRules
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId
from dispy.core.execution.live_output import LOOK_S
from dispy.protocol.node import Compute, Detach, FromNode, Job, RunJobs, ToNode
from tests.models.node import RunKey, SimulatedWorker
from tests.models.scheduler import Cluster, Link
from tests.models.worker import Phase

SCHEDULER = ClientId(b"s" * 16)
RIVAL = ClientId(b"r" * 16)
"""Somebody else's scheduler, which uses the same nodes."""

LEASE_S = 1000.0


class RealNode(CheckedNode):
    """The execution machine at the other end of a link."""

    def __init__(self, cluster: Cluster, link: Link, cpus: int) -> None:
        super().__init__(cpus, LEASE_S, self._on_tell)
        self.cpus = cpus
        self._cluster = cluster
        self._link = link
        self._next_rival = 1

    def _on_tell(self, client: ClientId, message: FromNode) -> None:
        if client == SCHEDULER:
            self._cluster.tell(self._link, message)

    def on_start(self, run: RunKey) -> None:
        super().on_start(run)
        if run[0] == SCHEDULER:
            self._cluster.on_start(run[1], run[2], run[3])

    def rival(self, kind: str) -> None:
        """A rival comes and brings jobs, perhaps exclusive ones; goes; is gone without a word."""
        if kind == "goes":
            self.handle(core.FromClient(RIVAL, Detach()))
        elif kind == "dies" and RIVAL in self.silent_since:
            pass  # its connection broke before
        elif kind == "dies":
            self.handle(core.ClientSilent(RIVAL))
        else:
            self.handle(core.ClientAttached(RIVAL, "rival", 0))
            number = self._next_rival
            self._next_rival += 2
            compute = Compute(number, "f", b"", exclusive=kind == "comes alone")
            self.handle(core.FromClient(RIVAL, compute))
            jobs = [Job(number, 0, b""), Job(number + 1, 0, b"")]
            self.handle(core.FromClient(RIVAL, RunJobs(number, jobs)))

    def attach(self, received: int) -> bool:
        """A connection stands."""
        known = SCHEDULER in self.machine.state.clients
        self.handle(core.ClientAttached(SCHEDULER, "scheduler", received))
        return known

    def receive(self, message: ToNode) -> None:
        """The scheduler said something."""
        self.handle(core.FromClient(SCHEDULER, message))

    def silent(self) -> None:
        """The connection is gone."""
        self.handle(core.ClientSilent(SCHEDULER))

    def settle(self, seconds: float = 0.02) -> bool:
        """Do all that can be done, and look where the workers are."""
        for worker in self.workers.values():
            worker.is_blocked = False
        moved = super().settle(seconds)
        self.now += 6.0
        self.tick()
        self.check()
        return moved


class Both(ClusterRules):
    """Real nodes."""

    def new_node(self, cluster: Cluster, link: Link, cpus: int) -> RealNode:
        return RealNode(cluster, link, cpus)

    def nodes(self) -> list[RealNode]:
        nodes = [link.node for link in self.cluster.links]
        return [node for node in nodes if isinstance(node, RealNode)]

    def steppable(self) -> list[SimulatedWorker]:
        return [worker for node in self.nodes() for worker in node.workers.values() if worker.can_work()]

    def start_jobs(self) -> None:
        """Load what is not, begin what can."""
        self.load(is_good=True)
        self.start_all(is_blocked=False)
        for node in self.nodes():
            node.now += 0.01
            node.tick()
            node.tick()

    @precondition(
        lambda self: any(not all(host.is_loaded for host in node.hosts.values()) for node in self.nodes())
    )
    @rule(is_good=st.sampled_from([True, True, True, False]))
    def load(self, is_good: bool) -> None:
        """Hosts answer."""
        for node in self.nodes():
            for key, host in list(node.hosts.items()):
                if not host.is_loaded:
                    if is_good:
                        node.load(key)
                    else:
                        node.fail_load(key)

    @precondition(lambda self: self.steppable())
    @rule(is_blocked=st.booleans())
    def start_all(self, is_blocked: bool) -> None:
        """Every worker goes on until it runs a job."""
        for worker in self.steppable():
            while worker.phase is not Phase.RUNNING and worker.can_work():
                worker.work()
            worker.is_blocked = is_blocked and worker.phase is Phase.RUNNING

    @precondition(lambda self: self.steppable())
    @rule(
        index=INDEX, steps=st.integers(1, 20), seconds=st.sampled_from([2e-6, 0.01]), is_late=st.booleans()
    )
    def work(self, index: int, steps: int, seconds: float, is_late: bool) -> None:
        """A worker goes on."""
        workers = self.steppable()
        worker = workers[index % len(workers)]
        while steps and worker.can_work():
            worker.work(seconds, is_late)
            steps -= 1

    @precondition(lambda self: self.steppable() or self.running())
    @rule(
        index=INDEX,
        size=st.integers(1, 400),
        is_watched=st.booleans(),
        is_lost=st.booleans(),
        is_slow=st.booleans(),
    )
    def print_something(
        self, index: int, size: int, is_watched: bool, is_lost: bool, is_slow: bool
    ) -> None:
        """Jobs print; somebody wants to see that, at once or late; the connection may break when it was told."""
        self.cluster.answers_at_once = not is_slow
        self.start_all(is_blocked=True)
        for worker in self.running():
            worker.print_more(size)
            model = self.cluster.by_wire[worker.key[1]]
            if is_watched and worker.job.number in model.open:
                self.cluster.watch(model.key, [worker.job.number], is_wanted=True)
        for link in self.links(is_up=True) if is_lost else ():
            assert isinstance(link.node, RealNode)
            link.node.now += LOOK_S
            link.node.tick()
            self.cluster.break_off(link)

    @rule()
    def see_everything(self) -> None:
        """After a few looks all is known that watched jobs have printed, on nodes that can be reached."""
        self.cluster.answers_at_once = True
        self.cluster.answer()
        for _ in range(4):
            for _ in range(3):
                self.deliver_all()
            for node in self.nodes():
                node.now += LOOK_S
                node.tick()
        self.deliver_all()
        self.deliver_all()
        for link in self.cluster.links:
            if (
                link.is_introduced
                and isinstance(link.node, RealNode)
                and link.id not in self.cluster.comparing
            ):
                self.check_seen(link, link.node)

    def check_seen(self, link: Link, node: RealNode) -> None:
        for worker in node.workers.values():
            if worker.key[0] != SCHEDULER:
                continue
            model = self.cluster.by_wire[worker.key[1]]
            placement = self.cluster.machine.state.computations[model.key].placements.get(link.id)
            if worker.phase is not Phase.RUNNING or placement is None:
                continue
            job = worker.job
            held = placement.assigned.get(job.number)
            is_wanted = model.is_live or job.number in model.watched
            if is_wanted and held is not None and held.attempt == job.attempt:
                assert not worker.buffered, f"{job.number} prints into a buffer"
                told = model.printed.get(job.number, (job.attempt, 0))
                assert told == (job.attempt, len(worker.channels.printed)), (
                    f"not all that {job.number} printed is known"
                )

    def running(self) -> list[SimulatedWorker]:
        workers = [worker for node in self.nodes() for worker in node.workers.values()]
        return [w for w in workers if w.phase is Phase.RUNNING and w.key[0] == SCHEDULER]

    @precondition(lambda self: any(node.workers for node in self.nodes()))
    @rule()
    def read_packets(self) -> None:
        """Daemons read what their workers sent."""
        for node in self.nodes():
            for worker in list(node.workers.values()):
                while worker.packets and worker.id in node.workers:
                    node.read_packet(worker)

    @precondition(lambda self: self.steppable())
    @rule(seconds=st.sampled_from([2e-6, 2e-6, 0.02]))
    def work_all(self, seconds: float) -> None:
        """Everything runs that can."""
        for node in self.nodes():
            CheckedNode.settle(node, seconds)

    @rule(seconds=st.sampled_from([0.01, 0.01, 6.0]), count=st.integers(1, 3))
    def tick_nodes(self, seconds: float, count: int) -> None:
        """Time passes on nodes."""
        for node in self.nodes():
            for worker in node.workers.values():
                if worker.has_signal:
                    worker.take_signal(obeys=True)
            for _ in range(count):
                node.now += seconds
                node.tick()

    @precondition(lambda self: self.nodes())
    @rule(
        kind=st.sampled_from(["worker", "worker", "host", "lease", "cpus", "drain"]),
        index=INDEX,
        cpus=st.integers(0, 3),
    )
    def change(self, kind: str, index: int, cpus: int) -> None:
        """A worker dies, or a host; a silent scheduler is forgotten; a node offers other CPUs."""
        node = self.nodes()[index % len(self.nodes())]
        workers = list(node.workers.values())
        hosts = [key for key, host in node.hosts.items() if host.is_loaded]
        client = node.machine.state.clients.get(SCHEDULER)
        if kind == "worker" and workers:
            worker = workers[index % len(workers)]
            node.kill(worker)
            node.reap(worker)
        elif kind == "host" and hosts:
            node.fail_host(hosts[index % len(hosts)])
        elif kind == "lease" and client is not None and not client.is_connected:
            node.now += LEASE_S + 1
            node.tick()
        elif kind == "cpus":
            node.cpus = cpus
            node.handle(core.CpusChanged(cpus))
        elif kind == "drain":
            node.handle(core.Drain())

    @precondition(lambda self: self.nodes())
    @rule(kind=st.sampled_from(["comes", "comes alone", "goes", "dies"]), index=INDEX)
    def rival(self, kind: str, index: int) -> None:
        """Somebody else uses a node."""
        self.nodes()[index % len(self.nodes())].rival(kind)

    def teardown(self) -> None:
        """No node stays without CPUs, or another's for ever."""
        for node in self.nodes():
            node.rival("goes")
            if node.cpus == 0 or node.machine.state.is_draining:
                node.cpus = max(1, node.cpus)
                node.handle(core.CpusChanged(node.cpus))
        super().teardown()


TestBoth = Both.TestCase
