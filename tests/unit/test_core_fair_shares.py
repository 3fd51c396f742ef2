"""Shares of CPU time over simulated minutes, and what a client can count on."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import pytest

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Compute, Ended, Job
from dispy.protocol.worker import claim

A, B, C = (ClientId(name * 16) for name in (b"a", b"b", b"c"))


@dataclass
class Program:
    """A client that always has jobs waiting from ``begin`` to ``end``."""

    client: ClientId
    job_s: float
    begin: float = 0.0
    end: float = 1e9
    computation: int = 1
    limit: int = 0


@dataclass
class Simulation:
    """A node whose jobs take as long as they should, to the microsecond."""

    cpus: int
    programs: list[Program]
    now: float = 0.0
    had: Counter[ClientId] = field(default_factory=Counter)
    """CPU seconds of jobs that have ended."""
    had_by_key: Counter[core.Key] = field(default_factory=Counter)
    told: list[tuple[float, ClientId, node.FromNode]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = Machine(self.cpus)
        self._number = 1
        self._running: list[tuple[float, int, core.Offer, Program]] = []
        self._at: dict[core.WorkerId, tuple[int, float]] = {}
        self._by_key = {(program.client, program.computation): program for program in self.programs}
        for client in dict.fromkeys(program.client for program in self.programs):
            self.handle(core.ClientAttached(client, client[:1].decode(), 0))
        for program in self.programs:
            compute = Compute(program.computation, "f", b"")
            self.handle(core.FromClient(program.client, compute))
            self.handle(core.HostReady((program.client, program.computation)))
            if program.limit:
                self.handle(core.FromClient(program.client, node.LimitCpus(program.limit)))

    def handle(self, event: core.Event) -> None:
        """Do what is decided."""
        for action in self.machine.handle(event, self.now):
            if isinstance(action, core.Tell):
                self.told.append((self.now, action.client, action.message))
            elif isinstance(action, core.Offer):
                self._offer(action)
            elif isinstance(action, core.Recall):
                self._recall(action.worker)

    def _offer(self, offer: core.Offer) -> None:
        program = self._by_key[self.machine.state.workers[offer.worker].computation.key]
        if offer.worker in self._at:
            free_at = max(end for end, _, other, _ in self._running if other.worker == offer.worker)
        else:
            free_at = self.now
            self._at[offer.worker] = (claim(offer.record.record, 0), free_at)
        self._number += 1
        item = (free_at + program.job_s * len(offer.record.jobs), self._number, offer, program)
        heapq.heappush(self._running, item)

    def _recall(self, worker: core.WorkerId) -> None:
        mine = [item for item in self._running if item[2].worker == worker]
        untaken = mine[1:] if len(mine) > 1 else []
        self._running = [item for item in self._running if item not in untaken]
        heapq.heapify(self._running)
        self.handle(core.Recalled(worker, [item[2].record.record for item in untaken]))

    def fill(self) -> None:
        """Every program has some jobs waiting."""
        for program in self.programs:
            computation = self.machine.state.computations[program.client, program.computation]
            if program.begin <= self.now < program.end and len(computation.ready) < 300:
                numbers = range(self._number, self._number + 600)
                self._number += 600
                jobs = [Job(number, 0, b"") for number in numbers]
                self.handle(core.FromClient(program.client, node.RunJobs(program.computation, jobs)))

    def run(self, until: float) -> Counter[ClientId]:
        """Let time go by; returns the CPU seconds that each client has had meanwhile."""
        before = Counter(self.had)
        tick = self.now
        while self.now < until:
            self.fill()
            ends = self._running[0][0] if self._running else math.inf
            if tick <= ends:
                self.now = max(self.now, tick)
                self.handle(core.Tick(dict(self._at)))
                tick += 0.01
                continue
            self.now = ends
            _, _, offer, program = heapq.heappop(self._running)
            follow = [item for item in self._running if item[2].worker == offer.worker]
            if follow:
                self._at[offer.worker] = (claim(follow[0][2].record.record, 0), self.now)
            else:
                del self._at[offer.worker]
            jobs = offer.record.jobs
            self.had[program.client] += program.job_s * len(jobs)
            self.had_by_key[program.client, program.computation] += program.job_s * len(jobs)
            ended = [Ended(job.number, job.attempt, FINISHED, 0.0, program.job_s, b"") for job in jobs]
            self.handle(core.Ran(offer.worker, offer.record.record, len(jobs), True, False, ended))
        self.had.subtract(before)
        gained, self.had = self.had, before + self.had
        return gained


def share(gained: Counter[ClientId], client: ClientId) -> float:
    return gained[client] / sum(gained.values())


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
@pytest.mark.parametrize("seconds", [0.01, 0.0005, 0.3])
def test_two_programs_have_halves(cpus: int, seconds: float) -> None:
    """Of jobs of 10 ms, within the first second; of others, too, whatever the other's jobs take."""
    simulation = Simulation(cpus, [Program(A, 0.01), Program(B, seconds)])
    length = max(1.0, 20 * seconds)
    for second in (1, 2, 3):
        assert share(simulation.run(second * length), A) == pytest.approx(0.5, abs=0.05)


def test_three_programs_have_thirds() -> None:
    simulation = Simulation(2, [Program(A, 0.01), Program(B, 0.02), Program(C, 0.005)])
    gained = simulation.run(3.0)
    assert [share(gained, client) for client in (A, B, C)] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_program_has_no_more_for_having_more_clusters() -> None:
    simulation = Simulation(2, [Program(A, 0.01), Program(A, 0.01, computation=2), Program(B, 0.01)])
    assert share(simulation.run(2.0), B) == pytest.approx(0.5, abs=0.05)


def test_clusters_of_a_program_share_what_it_has() -> None:
    """The second comes later; it has no claim for the time before."""
    programs = [Program(A, 0.01), Program(A, 0.02, computation=2, begin=20.0), Program(B, 0.01)]
    simulation = Simulation(1, programs)
    simulation.run(20.0)
    before = Counter(simulation.had_by_key)
    gained = simulation.run(24.0)
    first = simulation.had_by_key[A, 1] - before[A, 1]
    assert first / gained[A] == pytest.approx(0.5, abs=0.1)
    assert share(gained, A) == pytest.approx(0.5, abs=0.05)


def test_clusters_of_a_program_owe_each_other_nothing() -> None:
    """One works for a while, then the other, then both."""
    programs = [Program(A, 0.01, end=7.0), Program(A, 0.01, computation=2, begin=17.0)]
    simulation = Simulation(1, programs)
    simulation.run(18.0)
    programs[0].end = 1e9
    simulation.run(18.1)
    before = Counter(simulation.had_by_key)
    gained = simulation.run(19.1)
    assert (simulation.had_by_key[A, 1] - before[A, 1]) / gained[A] == pytest.approx(0.5, abs=0.05)


def test_long_jobs_take_no_more_cpus_than_their_share() -> None:
    """Though A has had less, and those of B end all the time, and so free CPUs all the time."""
    simulation = Simulation(4, [Program(A, 100.0, limit=1), Program(B, 0.01)])
    simulation.run(5.0)
    simulation.handle(core.FromClient(A, node.LimitCpus(9)))
    simulation.run(6.0)
    assert simulation.machine.state.clients[A].busy == 2


@pytest.mark.parametrize("cpus", [1, 2])
def test_who_was_alone_owes_nothing(cpus: int) -> None:
    """B comes after A has had the node for 20 s: halves from now on, not B alone for as long."""
    simulation = Simulation(cpus, [Program(A, 0.01), Program(B, 0.01, begin=20.0)])
    simulation.run(20.0)
    assert share(simulation.run(21.0), A) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("cpus", [1, 2])
def test_who_was_away_has_no_claim(cpus: int) -> None:
    """A goes, B has the node for a while, A comes back: halves from now on."""
    programs = [Program(A, 0.01, end=1.0), Program(B, 0.01)]
    simulation = Simulation(cpus, programs)
    simulation.run(20.0)
    programs[0].end = 1e9
    simulation.run(20.1)
    assert share(simulation.run(21.1), A) == pytest.approx(0.5, abs=0.05)


def test_who_used_an_idle_node_owes_nothing_to_who_was_never_there() -> None:
    """A works for a while and goes; B comes to an empty node, then A comes back."""
    programs = [Program(A, 0.01, end=7.0), Program(B, 0.01, begin=17.0)]
    simulation = Simulation(1, programs)
    simulation.run(17.0)
    assert not simulation.machine.state.computations[A, 1].open
    simulation.run(18.0)
    programs[0].end = 1e9
    simulation.run(18.1)
    assert share(simulation.run(19.1), A) == pytest.approx(0.5, abs=0.05)


def test_a_long_job_counts_while_it_runs() -> None:
    """B comes in the ninth second of a job of ten: A has its next turn a second after that, not nine."""
    simulation = Simulation(1, [Program(A, 10.0), Program(B, 0.01, begin=9.0)])
    simulation.run(10.5)
    assert simulation.machine.state.clients[B].busy == 1
    simulation.run(11.5)
    assert simulation.machine.state.clients[A].busy == 1


def test_a_limited_program_leaves_the_rest() -> None:
    simulation = Simulation(4, [Program(A, 0.01, limit=1), Program(B, 0.01)])
    assert share(simulation.run(2.0), A) == pytest.approx(0.25, abs=0.02)


def credit(simulation: Simulation, client: ClientId) -> tuple[int, int]:
    """Slots, and jobs that may wait for others, as last told."""
    said = [
        message for _, to, message in simulation.told if to == client and type(message) is node.NodeCredit
    ]
    return said[-1].slots, said[-1].waiting


def test_credit_is_a_share_where_others_have_jobs() -> None:
    """And all of the node half a second after they have none."""
    simulation = Simulation(4, [Program(A, 0.01), Program(B, 0.01, begin=1.0, end=2.0)])
    simulation.run(0.9)
    assert credit(simulation, A)[0] == 4
    simulation.run(1.5)
    assert credit(simulation, A)[0] == credit(simulation, B)[0] == 2
    simulation.run(6.0)
    assert credit(simulation, A)[0] == 4


def test_what_others_hold_for_long_cannot_be_counted_on() -> None:
    """All CPUs run long jobs of A's: B's would have to wait, so those that it can run elsewhere do."""
    simulation = Simulation(4, [Program(A, 100.0), Program(B, 0.01, begin=1.0)])
    simulation.run(2.0)
    slots, waiting = credit(simulation, B)
    assert slots == 0
    assert waiting >= 2, "too few of its jobs are here to use its share when CPUs become free"


def test_shares_are_told_ten_times_a_second_at_most() -> None:
    """However fast what the others want goes up and down."""
    simulation = Simulation(8, [Program(A, 0.01), Program(B, 0.001, begin=1e9)])
    for step in range(200):
        jobs = [Job(1_000_000 + 10 * step + i, 0, b"") for i in range(8 if step % 2 else 1)]
        simulation.handle(core.FromClient(B, node.RunJobs(1, jobs)))
        simulation.run(simulation.now + 0.015)
    said = [
        message.slots for _, to, message in simulation.told if to == A and type(message) is node.NodeCredit
    ]
    changes = sum(before != after for before, after in itertools.pairwise(said))
    assert 2 <= changes <= 32


def test_jobs_that_go_back_leave_no_segment() -> None:
    simulation = Simulation(1, [Program(A, 1.0, begin=1e9)])
    jobs = [Job(number, 0, b"", node.Segment(number)) for number in (1, 2, 3)]
    machine = simulation.machine
    machine.handle(core.FromClient(A, node.RunJobs(1, jobs)), 0.0)
    actions = machine.handle(core.CpusChanged(0), 0.0)
    assert [action.segments for action in actions if isinstance(action, core.Release)] == [[2, 3]]


def test_those_who_wait_are_told_for_whom_now() -> None:
    """The second in the line of exclusive ones becomes the first: C hears the new name."""
    simulation = Simulation(1, [Program(C, 1.0, begin=1e9)])
    for client in (A, B):
        simulation.handle(core.ClientAttached(client, client[:1].decode(), 0))
        simulation.handle(core.FromClient(client, Compute(1, "f", b"", exclusive=True)))
    simulation.handle(core.FromClient(A, node.CloseComputation(1)))
    reasons = [m.reason for _, to, m in simulation.told if to == C and type(m) is node.Credit]
    assert reasons == ["", *(f"used exclusively by cluster f of {name}" for name in "ab")]
