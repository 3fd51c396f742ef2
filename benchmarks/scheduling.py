"""The scheduling core alone: the whole life of a job in it, whatever the number of nodes and jobs.

The machine is driven directly in one thread; only its own time counts, not the making of events.
All nodes have as many jobs as they take, and as many as named wait. A step submits a batch, which
waits, and ends the batch of the next node in turn, which frees the room for another one: so each
step sees a batch of jobs through, with messages of the same size in every case.
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
from dispy.protocol.node import FINISHED, Ended, Job

SLOTS = 2
BATCH = 32
"""Jobs that a node takes, and jobs per batch."""

_PAYLOAD = b"x" * 40


def run(quick: bool) -> list[Row]:
    """Measure microseconds per job for few and many nodes and jobs, and how flat that is."""
    many_nodes, many_jobs, steps, repeats = (50, 5_000, 60, 2) if quick else (10_000, 1_000_000, 10_000, 3)
    rows = []
    for nodes, queued in itertools.product((1, many_nodes), (1, many_jobs)):
        driver = Driver(nodes, queued)
        driver.run(steps // 5)
        samples = [driver.run(steps) for _ in range(repeats)]
        claim = f"life of a job in the scheduling core, nodes: {nodes:,}, queued: {queued:,}"
        rows.append(median_row(claim, samples, "us", None, at_most(3)))
        del driver
    values = [row.value for row in rows]
    flatness = max(values) / min(values)
    return [*rows, Row("largest / smallest of these", flatness, "x", at_most(1.5), None, values)]


class Driver:
    """A machine with one computation on all nodes, and the events that keep it busy.

    Args:
        nodes: Each takes ``BATCH`` jobs.
        queued: Jobs that wait when every node has its fill.
    """

    def __init__(self, nodes: int, queued: int) -> None:
        self._machine = Machine()
        self._now = 0.0
        self._spent_s = 0.0
        self._numbers = itertools.count(1)
        self._batches = itertools.count(1)
        self._held: dict[NodeId, deque[Job]] = {}
        """What each node has, in the order in which it came."""
        self._handle(core.AddComputation(core.EMBEDDED, 1, node.Compute(1, "noop", b"")))
        for number in range(nodes):
            name = NodeId(number.to_bytes(16, "big"))
            self._held[name] = deque()
            self._handle(core.NodeUp(name, "node", SLOTS, False))
            self._handle(core.Allocate(core.EMBEDDED, 1, name, SLOTS))
            self._handle(core.FromNodeEvent(name, node.ComputationReady(1)))
            self._handle(core.FromNodeEvent(name, node.Credit(1, SLOTS, BATCH - SLOTS)))
        left = nodes * BATCH + queued
        while left:
            count = min(left, BATCH)
            self._submit(count)
            left -= count
        self._turns = itertools.cycle(self._held)

    def run(self, steps: int) -> float:
        """See so many batches of jobs through; returns microseconds per job in the machine."""
        self._spent_s = 0.0
        jobs = 0
        for _ in range(steps):
            self._submit(BATCH)
            jobs += self._end(next(self._turns))
        return self._spent_s / jobs * 1e6

    def _submit(self, count: int) -> None:
        jobs = [Job(number, 0, _PAYLOAD) for number in itertools.islice(self._numbers, count)]
        self._handle(core.SubmitJobs(core.EMBEDDED, 1, jobs))

    def _end(self, name: NodeId) -> int:
        """Have a node end what it holds (up to an eighth less than a batch: see ``placing.note_room``)."""
        held = self._held[name]
        jobs = [held.popleft() for _ in range(min(BATCH, len(held)))]
        ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 0.0, b"") for job in jobs]
        self._handle(core.FromNodeEvent(name, node.JobsEnded(next(self._batches), 1, ended)))
        return len(jobs)

    def _handle(self, event: core.Event) -> None:
        self._now += 1e-6
        start = time.perf_counter()
        actions = self._machine.handle(event, self._now)
        self._spent_s += time.perf_counter() - start
        for action in actions:
            if type(action) is core.Send and type(action.message) is node.RunJobs:
                self._held[action.node].extend(action.message.jobs)
