"""Costs of events of the execution machine: those of what they move, not of what is there.

Counted in lines that are run, which are the same on every machine. ``benchmarks execution`` has the microseconds.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId, Key
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Compute, Ended, Job
from dispy.protocol.worker import claim

CPUS = 8
CLIENTS = 4


class Node:
    """A node of which each computation has had jobs, and has idle workers."""

    def __init__(self, count: int, live: bool = False) -> None:
        self.machine = Machine(CPUS)
        self.now = 0.0
        self.lines = 0
        self.numbers = itertools.count(1)
        self.offers: deque[core.Offer] = deque()
        clients = [ClientId(bytes([number]) * 16) for number in range(CLIENTS)]
        for client in clients:
            self.handle(core.ClientAttached(client, "client", 0))
        self.keys: list[Key] = [(clients[number % CLIENTS], number) for number in range(count)]
        for key in self.keys:
            self.open(key, live=live)
            self.run(key, CPUS)
            self.end(CPUS)

    def handle(self, event: core.Event) -> None:
        """Tell the machine an event, and count the lines that it runs."""

        def trace(frame: FrameType, what: str, _: Any) -> Any:
            self.lines += what == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            actions = self.machine.handle(event, self.now)
        finally:
            sys.settrace(before)
        for action in actions:
            if isinstance(action, core.Offer):
                self.offers.append(action)
            elif isinstance(action, core.Tell) and isinstance(action.message, node.JobsEnded):
                acknowledged = node.Acknowledge(action.message.batch)
                self.machine.handle(core.FromClient(action.client, acknowledged), self.now)

    def open(self, key: Key, live: bool = False, exclusive: bool = False) -> None:
        message = Compute(key[1], "f", b"", live=live, exclusive=exclusive)
        self.handle(core.FromClient(key[0], message))
        self.handle(core.HostReady(key))

    def close(self, key: Key) -> None:
        self.handle(core.FromClient(key[0], node.CloseComputation(key[1])))

    def run(self, key: Key, count: int) -> None:
        jobs = [Job(number, 0, b"x") for number in itertools.islice(self.numbers, count)]
        self.handle(core.FromClient(key[0], node.RunJobs(key[1], jobs)))

    def end(self, count: int) -> None:
        """Workers end so many records, the oldest first."""
        for _ in range(count):
            offer = self.offers.popleft()
            ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 0.5, b"") for job in offer.record.jobs]
            self.handle(core.Ran(offer.worker, offer.record.record, len(ended), True, False, ended))

    def tick(self) -> None:
        self.now += 0.01
        running = self.machine.state.running.values()
        self.handle(core.Tick({w.id: (claim(w.records[0].record, 0), 0.0) for w in running}))


def one_after_another(count: int) -> Node:
    """Jobs of one computation come and end."""
    there = Node(count)
    there.lines = 0
    for _ in range(20):
        there.run(there.keys[0], 1)
        there.end(1)
    return there


def used_exclusively(count: int) -> Node:
    """Jobs come and end of a computation that has the node to itself."""
    there = Node(count)
    there.close(there.keys[0])
    there.open(there.keys[0], exclusive=True)
    there.run(there.keys[0], 1)
    there.end(1)
    there.lines = 0
    for _ in range(20):
        there.run(there.keys[0], 1)
        there.end(1)
    return there


def beside_a_closed_door(count: int) -> Node:
    """Jobs of one computation come and end; another client has said that none of its jobs may run here."""
    there = Node(count)
    there.handle(core.FromClient(there.keys[1][0], node.LimitCpus(0)))
    there.lines = 0
    for _ in range(20):
        there.run(there.keys[0], 1)
        there.end(1)
    return there


def in_turn(count: int) -> Node:
    """All computations have jobs waiting; those that end are followed by others."""
    there = Node(count)
    for key in there.keys:
        there.run(key, 3)
    there.run(there.keys[0], 10 * CPUS)
    there.end(CPUS)
    there.lines = 0
    for _ in range(20):
        key = there.machine.state.workers[there.offers[0].worker].computation.key
        there.end(1)
        there.run(key, 1)
    return there


def ticking(count: int) -> Node:
    """Long jobs of one computation run, while all of it is watched."""
    there = Node(count, live=True)
    there.run(there.keys[0], CPUS)
    there.tick()
    there.now += 1.0
    there.tick()  # the others do not count any more when CPUs are shared out
    there.lines = 0
    for _ in range(20):
        there.tick()
    return there


def coming_and_going(count: int) -> Node:
    """A computation is opened, loaded and closed."""
    there = Node(count)
    there.lines = 0
    for _ in range(20):
        there.open((there.keys[0][0], 100_000))
        there.close((there.keys[0][0], 100_000))
    return there


def flushing(count: int) -> Node:
    """Results that have waited are sent, and there are none."""
    there = Node(count)
    there.lines = 0
    for _ in range(20):
        there.handle(core.Flush())
    return there


@pytest.mark.parametrize(
    "case",
    [
        one_after_another,
        used_exclusively,
        beside_a_closed_door,
        in_turn,
        ticking,
        coming_and_going,
        flushing,
    ],
)
def test_an_event_costs_what_it_moves(case: Callable[[int], Node]) -> None:
    """The same with twenty times as many computations."""
    few, many = case(2 * CLIENTS).lines, case(40 * CLIENTS).lines
    assert many <= 1.2 * few, f"{many / 20:g} lines each, and with few computations {few / 20:g}"
