"""The scheduling core alone: the whole life of a job in it, whatever the number of nodes, computations and jobs.

The machine is driven directly in one thread; only its own time counts, not the making of events.
All nodes have as many jobs as they take, and as many as named wait. A step submits a batch, which
waits, and ends the batch of the next node in turn, which frees the room for another one: so each
step sees a batch of jobs through, with messages of the same size in every case.

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
from dispy.core.scheduling.ids import NodeId
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Ended, Job, Started

SLOTS = 2
BATCH = 32
"""Jobs that a node takes, and jobs per batch."""

PLACES_MAX = 20_000
"""Placements in all: with many computations each of them has some of the nodes only."""

_PAYLOAD = b"x" * 40


def run(quick: bool) -> list[Row]:
    """Measure microseconds per job and per tick for few and many nodes, computations, jobs; and how flat that is."""
    many_jobs, steps, repeats = (5_000, 60, 2) if quick else (1_000_000, 10_000, 3)
    many_nodes, sizes = (50, [(50, 20)]) if quick else (10_000, [(100, 100), (1_000, 100), (10_000, 1_000)])
    cases = [(nodes, 1, queued) for nodes, queued in itertools.product((1, many_nodes), (1, many_jobs))]
    rows = []
    for nodes, computations, queued in cases + [(*size, many_jobs) for size in sizes]:
        driver = Driver(nodes, queued, computations)
        driver.run(steps // 5)
        samples = [driver.run(steps) for _ in range(repeats)]
        among = f", computations: {computations:,}" if computations > 1 else ""
        claim = f"life of a job in the scheduling core, nodes: {nodes:,}{among}, queued: {queued:,}"
        rows.append(median_row(claim, samples, "us", None, at_most(3)))
        del driver
    values = [row.value for row in rows]
    flatness = max(values) / min(values)
    rows.append(Row("largest / smallest of these", flatness, "x", at_most(1.5), None, values))
    for nodes, computations in [(1, 1), (many_nodes, 1), *sizes]:
        driver = Driver(nodes, 0, computations, is_idle=True)
        samples = [driver.tick(100) for _ in range(repeats)]
        claim = f"a tick with nothing to move, nodes: {nodes:,}, computations: {computations:,}"
        rows.append(median_row(claim, samples, "us", None, at_most(20)))
        del driver
    return rows


class Driver:
    """A machine with computations on nodes, and the events that keep it busy.

    Args:
        nodes: Each takes ``BATCH`` jobs of each computation.
        queued: Jobs that wait when every node has its fill.
        computations: Each has all nodes, or its share of ``PLACES_MAX``.
        is_idle: Every node runs one job of each computation, and could run another.
    """

    def __init__(self, nodes: int, queued: int, computations: int = 1, is_idle: bool = False) -> None:
        self._machine = Machine()
        self._now = 0.0
        self._spent_s = 0.0
        self._numbers = itertools.count(1)
        self._batches = itertools.count(1)
        self._held: dict[tuple[NodeId, int], deque[Job]] = {}
        """What each node has of a computation, in the order in which it came."""
        names = [NodeId(number.to_bytes(16, "big")) for number in range(nodes)]
        for name in names:
            self._handle(core.NodeUp(name, "node", SLOTS, False))
        share = min(nodes, max(1, PLACES_MAX // computations))
        places = itertools.cycle(names)
        for number in range(1, computations + 1):
            self._handle(core.AddComputation(core.EMBEDDED, number, node.Compute(number, "noop", b"")))
            for name in itertools.islice(places, share):
                self._held[name, number] = deque()
                self._handle(core.Allocate(core.EMBEDDED, number, name, SLOTS))
                self._handle(core.FromNodeEvent(name, node.ComputationReady(number)))
                self._handle(core.FromNodeEvent(name, node.Credit(number, SLOTS, BATCH - SLOTS)))
            self._fill(number, share if is_idle else share * BATCH + queued // computations)
        for (name, number), jobs in self._held.items() if is_idle else ():
            started = [Started(job.number, job.attempt, 0.0) for job in jobs]
            self._handle(core.FromNodeEvent(name, node.JobsStarted(number, started)))
        self._turns = itertools.cycle(self._held)

    def _fill(self, computation: int, left: int) -> None:
        while left:
            count = min(left, BATCH)
            self._submit(computation, count)
            left -= count

    def run(self, steps: int) -> float:
        """See so many batches of jobs through; returns microseconds per job in the machine."""
        self._spent_s = 0.0
        jobs = 0
        for _ in range(steps):
            name, computation = next(self._turns)
            self._submit(computation, BATCH)
            jobs += self._end(name, computation)
        return self._spent_s / jobs * 1e6

    def tick(self, count: int) -> float:
        """Let time pass so many times; returns microseconds per tick in the machine."""
        self._spent_s = 0.0
        for _ in range(count):
            self._now += 2.0
            self._handle(core.Tick())
        return self._spent_s / count * 1e6

    def _submit(self, computation: int, count: int) -> None:
        jobs = [Job(number, 0, _PAYLOAD) for number in itertools.islice(self._numbers, count)]
        self._handle(core.SubmitJobs(core.EMBEDDED, computation, jobs))

    def _end(self, name: NodeId, computation: int) -> int:
        """Have a node end what it holds (up to an eighth less than a batch: see ``placing.note_room``)."""
        held = self._held[name, computation]
        jobs = [held.popleft() for _ in range(min(BATCH, len(held)))]
        ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 0.0, b"") for job in jobs]
        self._handle(core.FromNodeEvent(name, node.JobsEnded(next(self._batches), computation, ended)))
        return len(jobs)

    def _handle(self, event: core.Event) -> None:
        self._now += 1e-6
        start = time.perf_counter()
        actions = self._machine.handle(event, self._now)
        self._spent_s += time.perf_counter() - start
        for action in actions:
            if type(action) is core.Send and type(action.message) is node.RunJobs:
                self._held[action.node, action.message.computation].extend(action.message.jobs)
