"""A scheduler without sockets: the scheduling machine, links that break, and nodes that come and go.

``Cluster`` does what ``dispy.scheduler.service`` and its links do, over queues in memory: a message waits until a
test delivers it, and is lost with its connection. It keeps a slow and obvious account of every job, by which it
checks all that the machine says, and its state between any two events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from dispy.core import scheduling as core
from dispy.core.scheduling import Machine
from dispy.core.scheduling.ids import NodeId
from dispy.protocol.batches import Arrived
from dispy.protocol.node import (
    Acknowledge,
    Compute,
    FromNode,
    Job,
    JobsEnded,
    Printed,
    Reconciled,
    RunJobs,
    ToNode,
    Welcome,
)
from dispy.protocol.views import PlacementView
from tests.models import invariants


class Node(Protocol):
    """A node as a link sees it."""

    cpus: int

    def attach(self, received: int) -> bool:
        """A connection stands; returns whether the scheduler is known. Answers come by ``tell``."""

    def receive(self, message: ToNode) -> None:
        """The scheduler said something."""

    def silent(self) -> None:
        """The connection is gone."""

    def settle(self) -> bool:
        """Do all that can be done without faults; False if nothing moved."""


class Link:
    """One node, over successive connections."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.incarnation = 0
        self.node: Node | None = None
        self.is_up = False
        self.arrived = Arrived()
        self.to_node: deque[ToNode] = deque()
        self.to_scheduler: deque[FromNode] = deque()
        self.is_introduced = False
        """Whether the present connection has brought its ``Welcome``."""
        self.is_known = False
        """To the scheduler: introduced and not lost."""

    @property
    def id(self) -> NodeId:
        return NodeId(bytes([self.number, self.incarnation % 256, self.incarnation // 256]) + bytes(13))


class Model:
    """What is known of a computation without looking into the machine."""

    def __init__(self, key: core.Key, wire: int, is_reentrant: bool) -> None:
        self.key = key
        self.wire = wire
        """Number by which nodes know it."""
        self.is_reentrant = is_reentrant
        self.is_live = not is_reentrant
        """Whether the output of all its jobs is wanted."""
        self.compute = Compute(wire, f"c{wire}", b"", live=self.is_live)
        self.next_job = 1
        """Each computation has jobs 1, 2, 3."""
        self.open: dict[int, NodeId | None] = {}
        """Jobs that have not ended, and where they are pinned to."""
        self.final: dict[int, int] = {}
        """Status of jobs that have ended."""
        self.cancelled: set[int] = set()
        self.sent: dict[tuple[int, int], NodeId] = {}
        self.starts: dict[int, list[int]] = {}
        """Attempts that a node has begun, by job."""
        self.watched: set[int] = set()
        """Jobs whose output is wanted now."""
        self.ever_watched: set[int] = set()
        self.printed: dict[int, tuple[int, int]] = {}
        """By job: attempt, and how much of its output has come."""


TURNS_MAX = 10_000
"""Messages between one node and the scheduler until both have nothing more to say."""


class Cluster:
    """A scheduler, its links, and the account of its jobs."""

    def __init__(self, new_node: Callable[[Cluster, Link, int], Node]) -> None:
        self.machine = Machine()
        self.now = 0.0
        self.links: list[Link] = []
        self.models: dict[core.Key, Model] = {}
        """Computations by client and number."""
        self.by_wire: dict[int, Model] = {}
        """Computations by the number that nodes know."""
        self.wishes: dict[tuple[core.Key, int], int] = {}
        """CPUs that a computation may have of a node (by link number); kept over its losses."""
        self.comparing: set[NodeId] = set()
        """Nodes that have not answered ``Reconcile`` yet."""
        self.returns_at_once = True
        """Whether a computation that has left a node comes back in the same turn."""
        self.away: list[tuple[core.Key, Link]] = []
        """Those that have left, and are to come back."""
        self.views: dict[tuple[core.Key, NodeId], PlacementView] = {}
        """What the client was told last of each placement, without those that are gone."""
        self.unanswered: deque[core.AnswerPrinted] = deque()
        """What clients have not said yet about output that they were told."""
        self.answers_at_once = True
        """Whether they say it in the same turn."""
        self._new_node = new_node

    # The scheduler's service.

    def handle(self, event: core.Event) -> None:
        """Tell the machine something and do what it decides."""
        for action in self.machine.handle(event, self.now):
            match action:
                case core.Send(node, message):
                    self._send(node, message)
                case core.TellEnded():
                    self._on_ended(action)
                case core.TellEndedHere(client, number, jobs, status):
                    for job in jobs:
                        self._end(self.models[client, number], job, status)
                case core.TellStarted(client, number):
                    assert all(s.number in self.models[client, number].open for s in action.started)
                case core.TellRequeued(client, number):
                    assert set(action.numbers) <= set(self.models[client, number].open)
                case core.TellPrinted(client, number, node, pieces, serial):
                    for printed in pieces:
                        self._on_printed(self.models[client, number], printed)
                    self.unanswered.append(core.AnswerPrinted(client, number, node, serial))
                    if self.answers_at_once:
                        self.answer()
                case core.TellVacated(client, number, node):
                    self.on_vacated((client, number), node)
                case core.TellPlacement(client, number, node, view):
                    self._on_view((client, number), node, view)
                case core.TellNode() | core.TellValue():
                    pass

    def answer(self) -> None:
        """Clients have what they were told of output."""
        while self.unanswered:
            self.handle(self.unanswered.popleft())

    def _on_view(self, key: core.Key, node: NodeId, view: PlacementView) -> None:
        told = self.views.pop((key, node), None)
        if told is not None:
            told.assigned, told.started = view.assigned, view.started
        assert view != told, "nothing is told"
        if view.status is not core.Status.GONE:
            self.views[key, node] = view

    def _send(self, node_id: NodeId, message: ToNode) -> None:
        if type(message) is RunJobs:
            for job in message.jobs:
                self._check_sent(node_id, message.computation, job)
        for link in self.links:
            if link.id == node_id and link.is_up:
                link.to_node.append(message)

    def _check_sent(self, node_id: NodeId, wire: int, job: Job) -> None:
        model = self.by_wire[wire]
        is_again = (job.number, job.attempt) in model.sent
        before = model.sent.setdefault((job.number, job.attempt), node_id)
        assert before == node_id, f"{job.number} is sent to two nodes as the same attempt"
        assert job.number in model.open, f"{job.number} is sent after its end"
        assert model.open[job.number] in (None, node_id), f"{job.number} is sent where it must not run"
        assert is_again or job.number not in model.cancelled, f"{job.number} is sent though cancelled"
        if not is_again:
            placement = self.machine.state.computations[model.key].placements[node_id]
            link = next(link for link in self.links if link.id == node_id)
            assert link.is_up, "a job is sent to nobody"
            assert link.is_introduced, "a job is sent before both sides have met"
            assert placement.status is core.Status.READY
            assert len(placement.assigned) <= placement.slots + placement.backlog, "a node is overbooked"

    def _on_printed(self, model: Model, printed: Printed) -> None:
        number = printed.number
        assert number in model.open, f"{number} prints after its end"
        assert model.is_live or number in model.ever_watched, f"nobody wants to know what {number} prints"
        attempt, position = model.printed.get(number, (-1, 0))
        assert printed.attempt >= attempt, f"{number}: an old attempt prints"
        if printed.attempt > attempt:
            position = 0
        end = printed.stdout_at + len(printed.stdout)
        assert printed.stdout_at <= (0 if printed.begins else position), f"some output of {number} is lost"
        assert printed.stdout == bytes(i % 251 for i in range(printed.stdout_at, end))
        model.printed[number] = (printed.attempt, max(position, end))

    def _on_ended(self, action: core.TellEnded) -> None:
        model = self.models[action.client, action.computation]
        for ended in action.ended:
            latest = max(attempt for number, attempt in model.sent if number == ended.number)
            assert ended.attempt == latest, f"{ended.number} ends with the result of an old attempt"
            self._end(model, ended.number, ended.status)

    def _end(self, model: Model, job: int, status: int) -> None:
        assert job in model.open, f"{job} ends twice, or never was"
        del model.open[job]
        model.watched.discard(job)
        model.final[job] = status

    # What a user does.

    def add_computation(self, key: core.Key, is_reentrant: bool) -> None:
        """A computation comes."""
        model = self.models[key] = Model(key, len(self.models) + 1, is_reentrant)
        self.by_wire[model.wire] = model
        self.handle(core.AddComputation(*key, model.compute, is_reentrant))

    def submit(self, key: core.Key, count: int, link: Link | None = None) -> None:
        """Jobs come, perhaps for one node only."""
        model = self.models[key]
        jobs = [Job(model.next_job + i, 0, b"x") for i in range(count)]
        model.next_job += count
        node = None if link is None else link.id
        model.open.update((job.number, node) for job in jobs)
        self.handle(core.SubmitJobs(*key, jobs, node))

    def cancel(self, key: core.Key, jobs: list[int]) -> None:
        """Jobs are not wanted any more."""
        self.models[key].cancelled.update(jobs)
        self.handle(core.CancelJobs(*key, jobs))

    def watch(self, key: core.Key, jobs: list[int], is_wanted: bool) -> None:
        """Somebody wants to see what jobs print, or does not any more."""
        model = self.models[key]
        if is_wanted:
            model.watched.update(jobs)
            model.ever_watched.update(jobs)
        else:
            model.watched.difference_update(jobs)
        self.handle(core.WatchJobs(*key, jobs, is_wanted))

    def allocate(self, key: core.Key, link: Link, cpus: int, is_draining: bool = False) -> None:
        """A computation may use so much of a node."""
        self.wishes[key, link.number] = cpus
        if link.is_known:
            self.handle(core.Allocate(*key, link.id, cpus, is_draining))

    def vacate(self, key: core.Key, link: Link, terminate: bool, returns: bool) -> None:
        """A computation leaves a node, perhaps to come back."""
        if not returns:
            self.wishes[key, link.number] = 0
        if link.is_known:
            self.handle(core.Vacate(*key, link.id, terminate, returns))

    def on_vacated(self, key: core.Key, node: NodeId) -> None:
        """A computation has left a node: nothing of it runs there, and no result is on its way."""
        assert not self.machine.state.computations[key].placements[node].assigned, "it has jobs there"
        link = next(link for link in self.links if link.id == node)
        if self.returns_at_once:
            self.come_back(key, link)
        else:
            self.away.append((key, link))

    def come_back(self, key: core.Key, link: Link) -> None:
        """It is allocated what it may have of the node that it has left."""
        if link.is_known:
            self.handle(core.Allocate(*key, link.id, self.wishes.get((key, link.number), 2)))

    def limit(self, link: Link, cpus: int) -> None:
        """All computations together may use so much of a node."""
        if link.is_known:
            self.handle(core.LimitNode(link.id, cpus))

    def tick(self) -> None:
        """Time passes."""
        self.handle(core.Tick())

    # What happens to links.

    def connect(self, link: Link) -> None:
        """A connection comes to stand (again); who is there has still to arrive."""
        if link.node is None:
            link.node = self._new_node(self, link, 2)
        link.is_up = True
        link.to_scheduler.append(Welcome(link.id, "node", link.node.cpus, "", False))
        known = link.node.attach(link.arrived.attach())
        welcome = link.to_scheduler[0]
        assert type(welcome) is Welcome
        welcome.known = known

    def break_off(self, link: Link) -> None:
        """A connection breaks: what was under way is lost."""
        if link.is_up and link.node is not None:
            link.is_up = False
            link.to_node.clear()
            link.to_scheduler.clear()
            self.comparing.discard(link.id)
            link.is_introduced = False
            link.node.silent()
            if link.is_known:
                self.handle(core.NodeSilent(link.id))

    def lose(self, link: Link) -> None:
        """The scheduler gives a silent node up; the node does not know, and may be reached later."""
        if link.is_known:
            link.is_known = False
            link.arrived = Arrived()
            self.handle(core.NodeLost(link.id, "silent for too long"))

    def restart(self, link: Link) -> None:
        """A node dies with all it had; another incarnation can be reached at its address."""
        self.break_off(link)
        self.lose(link)
        link.node = None
        link.incarnation += 1

    def deliver_to_scheduler(self, link: Link) -> None:
        """One message arrives."""
        message = link.to_scheduler.popleft()
        if type(message) is Welcome:
            self._welcome(link, message)
            return
        if type(message) is JobsEnded:
            assert not link.arrived.has(message.batch), "a batch is told twice"
            link.arrived.arrive(message.batch)
            link.arrived.release(message.batch)
            self._send(link.id, Acknowledge(link.arrived.due()))
            link.arrived.tell(link.arrived.due())
        if type(message) is Reconciled:
            self.comparing.discard(link.id)
        self.handle(core.FromNodeEvent(link.id, message))

    def _welcome(self, link: Link, message: Welcome) -> None:
        # This model of a node does not say which batches it keeps: all that are not here.
        link.arrived = link.arrived.compare(0, [], is_known=message.known, is_same=True)
        link.is_introduced = True
        is_new = not link.is_known
        if message.known:
            self.comparing.add(link.id)
        link.is_known = True
        self.handle(core.NodeUp(link.id, message.name, message.cpus, message.known))
        if is_new or not message.known:
            for (key, at), cpus in self.wishes.items():
                if at == link.number and cpus:
                    self.handle(core.Allocate(*key, link.id, cpus))

    def deliver_to_node(self, link: Link) -> None:
        """One message arrives at a node."""
        assert link.node is not None
        link.node.receive(link.to_node.popleft())

    def tell(self, link: Link, message: FromNode) -> None:
        """A node says something."""
        if link.is_up:
            link.to_scheduler.append(message)

    def on_start(self, wire: int, number: int, attempt: int) -> None:
        """A node begins a job."""
        model = self.by_wire[wire]
        starts = model.starts.setdefault(number, [])
        assert attempt not in starts, f"attempt {attempt} of {number} is run twice"
        assert model.is_reentrant or not starts, f"{number} is run twice"
        starts.append(attempt)

    # Properties.

    def check(self) -> None:
        """What must hold between any two events."""
        state = self.machine.state
        assert not (wrong := invariants.find_in_scheduler(state)), wrong
        assert not (wrong := invariants.find_slowly_in_scheduler(state)), wrong
        for key, model in self.models.items():
            computation = state.computations[key]
            self._check_places(computation, model)
            told = {node for owner, node in self.views if owner == key}
            assert told == set(computation.placements), "a client knows of other nodes"
            for placement in computation.placements.values():
                self._check_view(placement, self.views[key, placement.node.id])
            assert computation.watched == model.watched

    def _check_places(self, computation: core.Computation, model: Model) -> None:
        """Every job that has not ended is in one place."""
        there = [job.number for job in computation.queue if job.number not in computation.cancelled]
        for placement in computation.placements.values():
            there += [job.number for job in placement.pinned]
            there += list(placement.assigned)
        assert sorted(there) == sorted(model.open), "a job is lost, or there twice"
        pinned = {number: node for number, node in model.open.items() if node is not None}
        assert computation.pinned == pinned

    def _check_view(self, placement: core.Placement, view: PlacementView) -> None:
        """A client knows all but the counts of jobs from what it was told."""
        assert view.status is placement.status
        assert view.reason == placement.reason
        assert view.shortage == (placement.shortage or placement.node.shortage)
        assert view.cpus_max == placement.cpus_max
        assert view.node_cpus_max == placement.node.cpus_max
        slots = min(placement.granted[0], placement.node.slots)
        assert view.slots == (slots if placement.status is core.Status.READY else 0)
        assert view.is_open == placement.is_open()
        assert view.returns == placement.returns
        assert view.is_connected == placement.node.is_connected
        assert (view.progress != "") == (placement.progress is not None)

    def settle(self) -> bool:
        """Deliver everything and let nodes do all they can; False if nothing moved."""
        moved = False
        for link in self.links:
            turns = 0
            while link.to_node or link.to_scheduler:
                moved = True
                turns += 1
                assert turns < TURNS_MAX, "node and scheduler talk for ever"
                if link.to_node:
                    self.deliver_to_node(link)
                if link.to_scheduler:
                    self.deliver_to_scheduler(link)
            if link.node is not None:
                moved |= link.node.settle()
        return moved

    def return_all(self) -> None:
        """Computations come back to the nodes that they have left, from now on at once."""
        self.returns_at_once = True
        while self.away:
            self.come_back(*self.away.pop())

    def quiesce(self) -> None:
        """Let everything happen that can, without faults."""
        still = 0
        self.return_all()
        for _ in range(300):
            moved = self.settle()
            self.check()
            self.now += 6.0
            self.tick()
            still = 0 if moved else still + 1
            if still > 3:
                return
        raise AssertionError("the cluster never comes to rest")
