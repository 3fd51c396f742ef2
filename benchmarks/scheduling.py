"""The scheduling core alone: the whole life of a job in it, whatever the number of nodes, programs and jobs.

The machine is driven directly in one thread; only its own time counts, not the making of events.
All nodes have as many jobs as they take, and as many as named wait. A step submits a batch, which
waits, and ends the batch of the next node in turn, which frees the room for another one: so each
step sees a batch of jobs through, with messages of the same size in every case. Programs belong to
ten users, and all of them wait for the nodes that they may use; one alone is an embedded scheduler.

A tick looks for jobs that could start elsewhere. It is measured where there are none, though every
node has an idle CPU: nothing is to be done, and that 50 times a second.
"""

from __future__ import annotations

import itertools
import time
from collections import deque

from benchmarks.harness import Row, at_most, median_row
from dispy.core import scheduling as core
from dispy.core.scheduling import Machine
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Ended, Job, Started

SLOTS = 2
BATCH = 32
"""Jobs that a node takes in all, and jobs per batch."""

JOB_US = 250
"""Run time of a job as nodes tell it: a turn is a batch then."""

USERS = 10

PLACES_MAX = 20_000
"""Placements in all: with many programs each of them has some of the nodes only."""

_PAYLOAD = b"x" * 40


SIZES = [(1, 10), (1, 1_000), (100, 100), (1_000, 100), (1_000, 1_000), (10_000, 100), (10_000, 1_000)]
"""Nodes and programs."""


def run(quick: bool) -> list[Row]:
    """Measure microseconds per job and per tick for few and many nodes, programs, jobs; and how flat that is."""
    many_jobs, steps, repeats = (5_000, 60, 2) if quick else (1_000_000, 10_000, 3)
    many_nodes, sizes = (50, [(50, 20)]) if quick else (10_000, SIZES)
    cases = [(nodes, 1, queued) for nodes, queued in itertools.product((1, many_nodes), (1, many_jobs))]
    rows = []
    for nodes, programs, queued in cases + [(*size, many_jobs) for size in sizes]:
        driver = Driver(nodes, queued, programs)
        driver.run(steps // 5)
        samples = [driver.run(steps) for _ in range(repeats)]
        among = f", programs: {programs:,}" if programs > 1 else ""
        claim = f"life of a job in the scheduling core, nodes: {nodes:,}{among}, queued: {queued:,}"
        rows.append(median_row(claim, samples, "us", None, at_most(3)))
        del driver
    # One program is embedded, and has no turns.
    for kind, values in (
        ("one program", [row.value for row in rows[: len(cases)]]),
        ("several programs", [row.value for row in rows[len(cases) :]]),
    ):
        flatness = max(values) / min(values)
        rows.append(Row(f"largest / smallest of these, {kind}", flatness, "x", at_most(1.5), None, values))
    for nodes, programs in [(1, 1), (many_nodes, 1), *sizes]:
        driver = Driver(nodes, 0, programs, is_idle=True)
        samples = [driver.tick(100) for _ in range(repeats)]
        claim = f"a tick with nothing to move, nodes: {nodes:,}, programs: {programs:,}"
        rows.append(median_row(claim, samples, "us", None, at_most(20)))
        del driver
    return rows


class Driver:
    """A machine with programs on nodes, and the events that keep it busy.

    Args:
        nodes: Each takes ``BATCH`` jobs.
        queued: Jobs that wait when every node has its fill.
        programs: Each has one computation on all nodes, or on its share of ``PLACES_MAX``.
        is_idle: Every node runs one job of each computation, and could run another.
    """

    def __init__(self, nodes: int, queued: int, programs: int = 1, is_idle: bool = False) -> None:
        self._machine = Machine()
        self._now = 0.0
        self._spent_s = 0.0
        self._numbers = itertools.count(1)
        self._batches = itertools.count(1)
        self._held: dict[NodeId, deque[node.RunJobs]] = {}
        """Batches that each node has, in the order in which they came."""
        names = [NodeId(number.to_bytes(16, "big")) for number in range(nodes)]
        share = min(nodes, max(1, PLACES_MAX // programs))
        # Idle nodes have a slot more than all that run there.
        slots = SLOTS if not is_idle else -(-programs * share // nodes) + 1
        for name in names:
            self._held[name] = deque()
            self._handle(core.NodeUp(name, "node", SLOTS, False))
            self._handle(core.FromNodeEvent(name, node.NodeCredit(slots if is_idle else 0)))
        places = itertools.cycle(names)
        for number in range(programs):
            if programs > 1:
                self._handle(core.AddClient(ClientId(number), f"user {number % USERS}"))
            self._handle(core.AddComputation(ClientId(number), 1, node.Compute(number, "noop", b"")))
            for name in itertools.islice(places, share):
                self._handle(core.Allocate(ClientId(number), 1, name, SLOTS))
                self._handle(core.FromNodeEvent(name, node.ComputationReady(number)))
                self._handle(
                    core.FromNodeEvent(name, node.Credit(number, SLOTS, BATCH - SLOTS, "", JOB_US))
                )
        for number in range(programs):
            self._fill(number, share if is_idle else (nodes * BATCH + queued) // programs)
        for name, batches in self._held.items():
            if not is_idle:
                # One after the other, so that each is filled with a batch of one program.
                self._handle(core.FromNodeEvent(name, node.NodeCredit(slots)))
                continue
            for batch in batches:
                started = [Started(job.number, job.attempt, 0.0) for job in batch.jobs]
                self._handle(core.FromNodeEvent(name, node.JobsStarted(batch.computation, started)))
        self._turns = itertools.cycle(self._held)

    def _fill(self, program: int, left: int) -> None:
        while left:
            count = min(left, BATCH)
            self._submit(program, count)
            left -= count

    def run(self, steps: int) -> float:
        """See so many batches of jobs through; returns microseconds per job in the machine."""
        self._spent_s = 0.0
        jobs = 0
        for _ in range(steps):
            jobs += self._step(next(self._turns))
        return self._spent_s / jobs * 1e6

    def tick(self, count: int) -> float:
        """Let time pass so many times; returns microseconds per tick in the machine."""
        self._spent_s = 0.0
        for _ in range(count):
            self._now += 2.0
            self._handle(core.Tick())
        return self._spent_s / count * 1e6

    def _submit(self, program: int, count: int) -> None:
        jobs = [Job(number, 0, _PAYLOAD) for number in itertools.islice(self._numbers, count)]
        self._handle(core.SubmitJobs(ClientId(program), 1, jobs))

    def _step(self, name: NodeId) -> int:
        """Submit a batch, and have a node end what it was sent first, of the same program."""
        held = self._held[name]
        if not held:
            return 0
        batch = held.popleft()
        self._submit(batch.computation, len(batch.jobs))
        ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 0.0, b"") for job in batch.jobs]
        used_us = JOB_US * len(ended)
        message = node.JobsEnded(next(self._batches), batch.computation, ended, used_us)
        self._handle(core.FromNodeEvent(name, message))
        return len(ended)

    def _handle(self, event: core.Event) -> None:
        self._now += 1e-6
        start = time.perf_counter()
        actions = self._machine.handle(event, self._now)
        self._spent_s += time.perf_counter() - start
        for action in actions:
            if type(action) is core.Send and type(action.message) is node.RunJobs:
                self._held[action.node].append(action.message)
