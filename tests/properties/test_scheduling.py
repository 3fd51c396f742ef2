"""The scheduling machine against plain nodes: lists of jobs that run when they are told to."""

from __future__ import annotations

from collections import deque

from cluster_rules import INDEX, ClusterRules
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dispy.protocol import node as protocol
from dispy.protocol.node import CANCELLED, FINISHED, TERMINATED, Attempt, Ended, Job, Started, ToNode
from tests.models.scheduler import Cluster, Link


def attempts_of(jobs: list[Job]) -> list[Attempt]:
    """Names of attempts."""
    return [Attempt(job.number, job.attempt) for job in jobs]


class Place:
    """A computation on a plain node."""

    def __init__(self, compute: protocol.Compute) -> None:
        self.compute = compute
        self.is_ready = False
        self.credit = (0, 0)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.is_told = True
        """Whether the scheduler was told what runs: real nodes see to that by themselves."""

    def jobs(self) -> list[Job]:
        return self.running + list(self.waiting)


class PlainNode:
    """A node that keeps to the protocol in the simplest way."""

    def __init__(self, cluster: Cluster, link: Link, cpus: int) -> None:
        self.cpus = cpus
        self.cpus_max = 9
        self.backlog = 2
        self.places: dict[int, Place] = {}
        self.batches: list[protocol.JobsEnded] = []
        self.next_batch = 1
        self.is_attached = False
        self.is_frozen = False
        """Whether running jobs go on for ever."""
        self._cluster = cluster
        self._link = link

    def tell(self, message: protocol.FromNode) -> None:
        self._cluster.tell(self._link, message)

    # The scheduler.

    def attach(self, received: int) -> bool:
        """A connection stands."""
        known = self.is_attached
        self.is_attached = True
        for place in self.places.values():
            place.is_told = False
        self.batches = [batch for batch in self.batches if batch.batch > received]
        for batch in self.batches:
            self.tell(batch)
        return known

    def silent(self) -> None:
        """The connection is gone."""

    def forget(self) -> None:
        """The lease of the scheduler ends."""
        self.places.clear()
        self.batches.clear()
        self.next_batch = 1
        self.is_attached = False
        self.cpus_max = 9

    def receive(self, message: ToNode) -> None:
        """The scheduler said something."""
        match message:
            case protocol.Compute(number):
                place = self.places.get(number)
                if place is None or place.compute.life != message.life:
                    self.places[number] = Place(message)
                elif place.is_ready:
                    self.load(number)
            case protocol.RunJobs(number, jobs):
                self._run(number, jobs)
            case protocol.CancelJobs(number, attempts):
                if number in self.places:
                    self._cancel(number, {(a.number, a.attempt) for a in attempts})
            case protocol.TakeBack(number, count):
                back: list[Job] = []
                while number in self.places and self.places[number].waiting and len(back) < count:
                    back.insert(0, self.places[number].waiting.pop())
                self.tell(protocol.JobsReturned(number, attempts_of(back)))
            case protocol.CloseComputation(number):
                self.places.pop(number, None)
            case protocol.Acknowledge(batch):
                self.batches = [kept for kept in self.batches if kept.batch > batch]
            case protocol.WatchJobs() | protocol.AcknowledgePrinted():
                pass
            case protocol.LimitCpus(cpus):
                self.cpus_max = cpus
                for number in [number for number, place in self.places.items() if place.is_ready]:
                    self.grant(number)
            case protocol.Reconcile(attempts, computations):
                self._reconcile(attempts, computations)
            case _:
                raise AssertionError(f"unexpected {message}")

    def _run(self, number: int, jobs: list[Job]) -> None:
        place = self.places.get(number)
        if place is None:
            self.tell(protocol.JobsReturned(number, attempts_of(jobs), "computation not known here"))
            return
        for job in jobs:
            assert job.number not in {held.number for held in place.jobs()}, "a job is sent twice"
            place.waiting.append(job)

    def _cancel(self, number: int, attempts: set[tuple[int, int]]) -> None:
        place = self.places[number]
        hits = [job for job in place.jobs() if (job.number, job.attempt) in attempts]
        self._end(number, hits, CANCELLED)

    def _reconcile(self, attempts: list[protocol.HeldJobs], computations: dict[int, int]) -> None:
        wanted = {(jobs.computation, a.number, a.attempt) for jobs in attempts for a in jobs.attempts}
        held = {(batch.computation, e.number, e.attempt) for batch in self.batches for e in batch.ended}
        for number in list(self.places):
            if computations.get(number) != self.places[number].compute.life:
                del self.places[number]
                continue
            place = self.places[number]
            place.waiting = deque(j for j in place.waiting if (number, j.number, j.attempt) in wanted)
            place.running = [job for job in place.running if (number, job.number, job.attempt) in wanted]
            held |= {(number, job.number, job.attempt) for job in place.jobs()}
            if place.is_ready:
                self.load(number)
        unknown = [
            protocol.HeldJobs(number, [Attempt(job, attempt)])
            for number, job, attempt in sorted(wanted - held)
        ]
        self.tell(protocol.Reconciled(unknown, [n for n in computations if n not in self.places]))

    # What happens on it.

    def load(self, number: int) -> None:
        """A computation is loaded."""
        self.places[number].is_ready = True
        self.tell(protocol.ComputationReady(number, self.places[number].compute.life))
        self.grant(number)

    def grant(self, number: int) -> None:
        """Credit is granted, to all computations together and to this one."""
        self.tell(protocol.NodeCredit(min(self.cpus, self.cpus_max)))
        self.tell(protocol.Credit(number, self.cpus, self.backlog))

    def hold_off(self, number: int) -> None:
        """Somebody else has the node for himself: what has not begun goes back."""
        place = self.places[number]
        back = list(place.waiting)
        place.waiting.clear()
        self.tell(protocol.Credit(number, 0, 0, "used exclusively"))
        self.tell(protocol.JobsReturned(number, attempts_of(back)))

    def fail(self, number: int) -> None:
        """A host dies, or cannot load: what ran ends, what did not is given back."""
        self._end(number, list(self.places[number].running), TERMINATED)
        place = self.places.pop(number)
        waiting = list(place.waiting)
        self.tell(protocol.ComputationFailed(number, "no such module", place.compute.life))
        if waiting:
            self.tell(protocol.JobsReturned(number, attempts_of(waiting), "no such module"))

    def start(self, number: int) -> bool:
        """As many jobs as there are CPUs for begin."""
        place = self.places[number]
        moved = False
        while place.is_ready and place.waiting and len(place.running) < self.cpus:
            job = place.waiting.popleft()
            place.running.append(job)
            self._cluster.on_start(number, job.number, job.attempt)
            place.is_told = False
            moved = True
        return moved

    def tell_started(self, number: int) -> None:
        """Running jobs are reported."""
        self.places[number].is_told = True
        running = [Started(job.number, job.attempt, 0.0) for job in self.places[number].running]
        self.tell(protocol.JobsStarted(number, running))

    def finish(self, number: int, count: int) -> bool:
        """Jobs end."""
        jobs = self.places[number].running[:count]
        self._end(number, jobs, FINISHED)
        return bool(jobs)

    def _end(self, number: int, jobs: list[Job], status: int) -> None:
        place = self.places[number]
        gone = {job.number for job in jobs}
        place.running = [job for job in place.running if job.number not in gone]
        place.waiting = deque(job for job in place.waiting if job.number not in gone)
        if jobs:
            ended = [Ended(job.number, job.attempt, status, 0.0, 0.0, b"") for job in jobs]
            self.batches.append(protocol.JobsEnded(self.next_batch, number, ended))
            self.next_batch += 1
            self.tell(self.batches[-1])

    def settle(self) -> bool:
        """Do all that can be done."""
        moved = False
        for number in list(self.places):
            if not self.places[number].is_ready:
                self.load(number)
                moved = True
            moved |= self.start(number)
            if not self.places[number].is_told:
                self.tell_started(number)
                moved = True
            moved |= not self.is_frozen and self.finish(number, self.cpus)
        return moved


class Scheduling(ClusterRules):
    """Plain nodes."""

    def new_node(self, cluster: Cluster, link: Link, cpus: int) -> PlainNode:
        return PlainNode(cluster, link, cpus)

    def nodes(self) -> list[PlainNode]:
        nodes = [link.node for link in self.cluster.links]
        return [node for node in nodes if isinstance(node, PlainNode)]

    def places(self, is_ready: bool) -> list[tuple[PlainNode, int]]:
        return [
            (node, number)
            for node in self.nodes()
            for number, place in node.places.items()
            if place.is_ready is is_ready
        ]

    def start_jobs(self) -> None:
        """Load what is not, begin what can."""
        for node, number in self.places(False):
            node.load(number)
        for node, number in self.places(True):
            if node.start(number):
                node.tell_started(number)

    @precondition(lambda self: self.places(False))
    @rule(index=INDEX, is_good=st.sampled_from([True, True, False]))
    def load(self, index: int, is_good: bool) -> None:
        """A computation is loaded, or cannot be."""
        places = self.places(False)
        node, number = places[index % len(places)]
        if is_good:
            node.load(number)
        else:
            node.fail(number)

    @precondition(lambda self: self.places(True))
    @rule(index=INDEX, is_told=st.booleans())
    def start(self, index: int, is_told: bool) -> None:
        """Jobs begin."""
        places = self.places(True)
        node, number = places[index % len(places)]
        node.start(number)
        if is_told:
            node.tell_started(number)

    @precondition(lambda self: self.places(True))
    @rule(index=INDEX, count=st.integers(1, 3))
    def finish(self, index: int, count: int) -> None:
        """Jobs end."""
        places = self.places(True)
        node, number = places[index % len(places)]
        node.finish(number, count)

    @precondition(lambda self: self.nodes())
    @rule(
        kind=st.sampled_from(["grant", "grant", "hold off", "fail", "forget"]),
        index=INDEX,
        cpus=st.integers(0, 4),
        backlog=st.integers(0, 4),
    )
    def change(self, kind: str, index: int, cpus: int, backlog: int) -> None:
        """A node grants more or less, a host dies, a scheduler that was silent for long is forgotten."""
        node = self.nodes()[index % len(self.nodes())]
        loaded = [number for number, place in node.places.items() if place.is_ready]
        if kind == "grant":
            node.cpus, node.backlog = cpus, backlog
            node.tell(protocol.NodeCpus(cpus))
            for number in loaded:
                node.grant(number)
        elif kind == "hold off":
            for number in loaded:
                node.hold_off(number)
        elif kind == "fail" and loaded:
            node.fail(loaded[index % len(loaded)])
        elif kind == "forget" and not any(link.is_up and link.node is node for link in self.cluster.links):
            node.forget()

    def teardown(self) -> None:
        """Long jobs hold up nobody; no node stays without CPUs."""
        for node in self.nodes():
            node.cpus = max(1, node.cpus)
            node.is_frozen = True
            for number, place in node.places.items():
                if place.is_ready:
                    node.grant(number)
        for link in self.links(is_up=False):
            self.cluster.connect(link)
        self.cluster.quiesce()
        for key, computation in self.cluster.machine.state.computations.items():
            model = self.cluster.models[key]
            number = model.wire
            waiting = [
                job.number
                for link in self.cluster.links
                if isinstance(link.node, PlainNode) and link.id not in computation.free
                for job in (link.node.places[number].waiting if number in link.node.places else ())
                if model.open.get(job.number, link.id) is None
            ]
            assert not (waiting and computation.free), f"{waiting} wait though a CPU is idle elsewhere"
        for node in self.nodes():
            node.is_frozen = False
        super().teardown()


TestScheduling = Scheduling.TestCase
