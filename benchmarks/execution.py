"""The execution core alone: what events of one computation cost, whatever the number of others on the node.

The machine is driven directly in one thread; only its own CPU time counts, not the making of events. A node of 64
CPUs has computations of several clients, with 64 workers each; jobs come and end in one of them. Each case is
measured with 1, 100 and 1,000 computations: an event should cost what it moves, so the last figure of a case should
be that of the first.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable

from benchmarks.harness import Row, at_most, median_row
from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Compute, Ended, Job
from dispy.protocol.worker import claim

CPUS = 64
"""CPUs of the node, and workers of each computation."""

PER_CLIENT = 10
"""Computations of each client."""

TICK_S = 0.01
"""Seconds from one tick to the next, as in a node with running jobs."""

_PAYLOAD = b"x" * 40


def run(quick: bool) -> list[Row]:
    """Measure microseconds per event for few and many computations, and how flat that is."""
    counts, steps, repeats = ((1, 20), 20, 2) if quick else ((1, 100, 1000), 1000, 5)
    rows = []
    for name, (make, measure, unit) in CASES.items():
        medians = []
        for count in counts:
            driver = make(count)
            measure(driver, max(steps // 10, 4))
            samples = [measure(driver, steps) for _ in range(repeats)]
            rows.append(median_row(f"{name}, computations: {count:,}", samples, unit))
            medians.append(statistics.median(samples))
            del driver
        rows.append(Row(f"{name}: most / one", medians[-1] / medians[0], "x", at_most(2.0), None, medians))
    return rows


class Driver:
    """A machine with computations that are loaded, and have a worker for each CPU.

    Args:
        count: Number of computations.
        live: Whether output of all their jobs is watched.
    """

    def __init__(self, count: int, live: bool = False) -> None:
        self.machine = Machine(CPUS)
        self.now = 0.0
        self.spent_s = 0.0
        self._numbers = itertools.count(1)
        self.busy: deque[tuple[WorkerId, core.Offer]] = deque()
        """Records that workers were offered, in this order."""
        self.keys: list[Key] = []
        for number in range(count):
            client = ClientId((number // PER_CLIENT).to_bytes(16, "big"))
            if number % PER_CLIENT == 0:
                self.handle(core.ClientAttached(client, f"client {number // PER_CLIENT}", 0))
            key = (client, number)
            self.keys.append(key)
            self.open(key, live)
            self.submit(key, CPUS)
            self.end(CPUS)

    def handle(self, event: core.Event) -> None:
        """Tell the machine an event, and count the time that takes."""
        start = time.thread_time()
        actions = self.machine.handle(event, self.now)
        self.spent_s += time.thread_time() - start
        for action in actions:
            if type(action) is core.Offer:
                self.busy.append((action.worker, action))
            elif type(action) is core.Recall:
                self._recall(action.worker)
            elif type(action) is core.Tell and type(action.message) is node.JobsEnded:
                self.machine.handle(
                    core.FromClient(action.client, node.Acknowledge(action.message.batch)), self.now
                )

    def _recall(self, worker: WorkerId) -> None:
        """Give back the second record of a worker."""
        mine = [offer for at, offer in self.busy if at == worker][1:]
        for offer in mine:
            self.busy.remove((worker, offer))
        self.handle(core.Recalled(worker, [offer.record.record for offer in mine]))

    def open(self, key: Key, live: bool = False) -> None:
        """Open a computation, whose host loads it at once."""
        self.handle(core.FromClient(key[0], Compute(key[1], "noop", b"", live=live)))
        self.handle(core.HostReady(key))

    def close(self, key: Key) -> None:
        """Close a computation."""
        self.handle(core.FromClient(key[0], node.CloseComputation(key[1])))

    def submit(self, key: Key, count: int) -> None:
        """Send jobs to a computation."""
        jobs = [Job(number, 0, _PAYLOAD) for number in itertools.islice(self._numbers, count)]
        self.handle(core.FromClient(key[0], node.RunJobs(key[1], jobs)))

    def end(self, records: int) -> None:
        """Have workers end so many records, the oldest first; each job took half a second."""
        for _ in range(records):
            worker, offer = self.busy.popleft()
            self.now += 1e-5
            ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 0.5, b"") for job in offer.record.jobs]
            self.handle(core.Ran(worker, offer.record.record, len(ended), True, False, ended))

    def positions(self) -> dict[WorkerId, tuple[int, float]]:
        """Returns where workers are, as the node's service tells it."""
        return {
            worker.id: (claim(worker.records[0].record, 0), 0.0)
            for worker in self.machine.state.running.values()
        }

    def per(self, count: int) -> float:
        """Returns the microseconds spent for each of so many steps, and begins to count anew."""
        spent, self.spent_s = self.spent_s, 0.0
        return spent / count * 1e6


def jobs_alone(driver: Driver, steps: int) -> float:
    """One job after another; nothing else runs."""
    driver.per(1)
    for _ in range(steps):
        driver.submit(driver.keys[0], 1)
        driver.end(1)
    return driver.per(steps)


def with_long(count: int, live: bool = False) -> Driver:
    """A node on which one computation runs a long job on each CPU."""
    driver = Driver(count, live)
    driver.submit(driver.keys[0], CPUS)
    return driver


def crowded(count: int) -> Driver:
    """A node on which all computations have more jobs than they get CPUs for."""
    driver = Driver(count)
    for key in driver.keys:
        driver.submit(key, 4)
    driver.submit(driver.keys[0], 20 * CPUS)
    return driver


def jobs_in_turn(driver: Driver, steps: int) -> float:
    """Jobs end, and others of whom it is the turn of begin; as many are sent again to where they ended."""
    driver.per(1)
    state = driver.machine.state
    for _ in range(steps):
        worker, offer = driver.busy[0]
        key = state.workers[worker].computation.key
        driver.end(1)
        driver.submit(key, len(offer.record.jobs))
    return driver.per(steps)


def held_off(count: int) -> Driver:
    """A node that the computation which jobs come for has to itself."""
    driver = Driver(count)
    key = driver.keys[0]
    driver.close(key)
    driver.handle(core.FromClient(key[0], Compute(key[1], "noop", b"", exclusive=True)))
    driver.handle(core.HostReady(key))
    return driver


def ticks(driver: Driver, steps: int) -> float:
    """Ticks while long jobs run."""
    driver.per(1)
    for _ in range(steps):
        driver.now += TICK_S
        driver.handle(core.Tick(driver.positions()))
    return driver.per(steps)


def stays(driver: Driver, steps: int) -> float:
    """A computation is opened, loaded and closed."""
    driver.per(1)
    key = (driver.keys[0][0], 1 << 20)
    for _ in range(steps):
        driver.open(key)
        driver.close(key)
    return driver.per(steps)


def flushes(driver: Driver, steps: int) -> float:
    """Results that have waited for others are sent."""
    driver.per(1)
    for _ in range(steps):
        driver.handle(core.Flush())
    return driver.per(steps)


CASES: dict[str, tuple[Callable[[int], Driver], Callable[[Driver, int], float], str]] = {
    "a job comes and ends": (Driver, jobs_alone, "us/job"),
    "a job comes and ends, node used exclusively": (held_off, jobs_alone, "us/job"),
    "a job comes and ends, all have jobs waiting": (crowded, jobs_in_turn, "us/job"),
    "a tick, 64 jobs run": (with_long, ticks, "us/tick"),
    "a tick, 64 jobs run, output watched": (lambda count: with_long(count, live=True), ticks, "us/tick"),
    "a flush": (Driver, flushes, "us/flush"),
    "a computation comes and goes": (Driver, stays, "us"),
}
"""Name of each case; function that makes the node, function that measures, unit."""
