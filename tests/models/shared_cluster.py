"""A scheduler that many programs use, wired to real nodes in simulated time: jobs take as long as they should."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from dispy.core import execution, scheduling
from dispy.core.execution.ids import ClientId as Caller
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Compute, Ended, FromNode, Job, ToNode
from dispy.protocol.worker import claim

SCHEDULER = Caller(b"s" * 16)

DELAY_S = 0.0002
"""Time that a message is on its way (seconds)."""


@dataclass
class Program:
    """A client with one computation, which always has jobs waiting from ``begin`` on; with ``count`` only so many."""

    client: int
    user: str
    job_s: float
    begin: float = 0.0
    count: int | None = None
    exclusive: bool = False
    ran: list[tuple[float, float]] = field(default_factory=list)
    """When each of its jobs began and ended."""
    told: list[float] = field(default_factory=list)
    """When the end of each of its jobs was told."""
    queued: int = 0
    submitted: int = 0


class SimulatedNode:
    """The execution machine, with workers that take the time of their jobs."""

    def __init__(self, cluster: SharedCluster, number: int, cpus: int) -> None:
        self.id = NodeId(number.to_bytes(16, "big"))
        self.machine = execution.Machine(cpus)
        self._cluster = cluster
        self._free_at: dict[execution.WorkerId, float] = {}
        self._at: dict[execution.WorkerId, tuple[int, float]] = {}
        self._dropped: set[int] = set()
        self._taken: dict[execution.WorkerId, list[execution.Offer]] = {}

    def handle(self, event: execution.Event) -> None:
        """Do what is decided."""
        cluster = self._cluster
        for action in self.machine.handle(event, cluster.now):
            match action:
                case execution.Tell(_, message):
                    cluster.after(DELAY_S, lambda message=message: cluster.receive(self, message))
                case execution.StartHost(key):
                    cluster.after(0.0, lambda key=key: self.handle(execution.HostReady(key)))
                case execution.Offer():
                    self._offer(action)
                case execution.Recall(worker):
                    cluster.after(0.0, lambda worker=worker: self._recall(worker))
                case execution.FlushSoon(after):
                    cluster.after(after, lambda: self.handle(execution.Flush()))
                case _:
                    pass

    def _offer(self, offer: execution.Offer) -> None:
        mine = self._taken.setdefault(offer.worker, [])
        mine.append(offer)
        if len(mine) == 1:
            self._begin(offer)

    def _begin(self, offer: execution.Offer) -> None:
        if offer.worker not in self.machine.state.workers:
            # Its computation was closed.
            return
        program = self._cluster.by_wire[self.machine.state.workers[offer.worker].computation.key[1]]
        now = self._cluster.now
        self._at[offer.worker] = (claim(offer.record.record, 0), now)
        self._cluster.after(program.job_s * len(offer.record.jobs), lambda: self._end(offer, program, now))

    def _end(self, offer: execution.Offer, program: Program, began: float) -> None:
        mine = self._taken[offer.worker]
        mine.remove(offer)
        if offer.worker not in self.machine.state.workers:
            self._at.pop(offer.worker, None)
            return
        ended = []
        for job in offer.record.jobs:
            program.ran.append((began, began + program.job_s))
            ended.append(Ended(job.number, job.attempt, FINISHED, began, began + program.job_s, b""))
            began += program.job_s
        del self._at[offer.worker]
        if mine:
            self._begin(mine[0])
        self.handle(execution.Ran(offer.worker, offer.record.record, len(ended), True, False, ended))

    def _recall(self, worker: execution.WorkerId) -> None:
        mine = self._taken.get(worker, [])
        back = mine[1:]
        del mine[1:]
        self.handle(execution.Recalled(worker, [offer.record.record for offer in back]))

    def tick(self) -> None:
        """Look where the workers are."""
        self.handle(execution.Tick(dict(self._at)))


class SharedCluster:
    """One scheduling machine, some nodes, some programs.

    Args:
        programs: Each is the only one of its client.
        weights: Weights of users; those that are missing have 1.
        nodes: CPUs of each node.
    """

    def __init__(
        self,
        programs: list[Program],
        nodes: list[int],
        policy: scheduling.Policy = scheduling.Policy.FAIR,
        weights: dict[str, float] | None = None,
    ) -> None:
        self.now = 0.0
        self.machine = scheduling.Machine(policy)
        self.programs = programs
        self.by_wire = {program.client: program for program in programs}
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._numbers = dict.fromkeys(self.by_wire, 0)
        self.nodes = {n.id: n for n in (SimulatedNode(self, i, cpus) for i, cpus in enumerate(nodes))}
        for user, weight in (weights or {}).items():
            self.handle(scheduling.LimitUser(user, weight))
        for each, cpus in zip(self.nodes.values(), nodes, strict=True):
            each.handle(execution.ClientAttached(SCHEDULER, "scheduler", 0))
            self.handle(scheduling.NodeUp(each.id, f"n{each.id[-1]}", cpus, False))
        for program in programs:
            self.after(program.begin, lambda program=program: self._open(program))
        self._tick()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._coming, (self.now + seconds, next(self._count), do))

    def run(self, until: float) -> None:
        """Let time go by."""
        while self._coming and self._coming[0][0] <= until:
            self.now, _, do = heapq.heappop(self._coming)
            do()
        self.now = until

    def handle(self, event: scheduling.Event) -> None:
        """Do what the scheduler decides."""
        for action in self.machine.handle(event, self.now):
            match action:
                case scheduling.Send(to, message):
                    self.after(DELAY_S, lambda to=to, message=message: self._deliver(to, message))
                case scheduling.TellEnded(client, _, _, ended):
                    program = self.by_wire[client]
                    program.queued -= len(ended)
                    program.told += [self.now] * len(ended)
                    self.fill(program)
                case _:
                    pass

    def receive(self, sender: SimulatedNode, message: FromNode) -> None:
        """Hear what a node says."""
        self.handle(scheduling.FromNodeEvent(sender.id, message))
        if type(message) is node.JobsEnded:
            self.after(DELAY_S, lambda: self._deliver(sender.id, node.Acknowledge(message.batch)))

    def _deliver(self, to: NodeId, message: ToNode) -> None:
        self.nodes[to].handle(execution.FromClient(SCHEDULER, message))

    def _open(self, program: Program) -> None:
        client = ClientId(program.client)
        self.handle(scheduling.AddClient(client, program.user, f"{program.user}.py"))
        # The same number at each client.
        compute = Compute(program.client, f"f{program.client}", b"")
        self.handle(scheduling.AddComputation(client, 1, compute, False, program.exclusive))
        for each in self.nodes.values():
            self.handle(scheduling.Allocate(client, 1, each.id, each.machine.state.cpus))
        self.fill(program)

    def fill(self, program: Program) -> None:
        """Give a program jobs, so that some always wait: numbers begin with 1 for each program."""
        most = program.count if program.count is not None else 1 << 60
        more = min(2000 - program.queued, most - program.submitted)
        if more > 0 and program.queued < 1000:
            first = self._numbers[program.client] + 1
            self._numbers[program.client] += more
            program.queued += more
            program.submitted += more
            jobs = [Job(number, 0, b"") for number in range(first, first + more)]
            self.handle(scheduling.SubmitJobs(ClientId(program.client), 1, jobs))

    def _tick(self) -> None:
        for each in self.nodes.values():
            each.tick()
        if round(self.now * 100) % 2 == 0:
            self.handle(scheduling.Tick())
        self.after(0.01, self._tick)

    def shares(self, begin: float, end: float) -> dict[str, float]:
        """Returns the part of the CPUs that each user had between two times, of what all had."""
        had: dict[str, float] = {}
        for program in self.programs:
            spans = [max(0.0, min(b, end) - max(a, begin)) for a, b in program.ran if b > begin and a < end]
            had[program.user] = had.get(program.user, 0.0) + sum(spans)
        return {user: seconds / sum(had.values()) for user, seconds in had.items()}
