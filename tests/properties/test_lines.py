"""Turns at a node for which many programs wait, against a slow model of each policy that looks at all of them.

All programs number their computations and jobs alike. The jobs are long, so each turn gives one job, and few wait on
the node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy.core import scheduling as core
from dispy.core.scheduling import Machine, Policy
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.core.scheduling.lines.parties import ADVANCE_S
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Attempt, Compute, Ended, Job
from tests.models import invariants

NODE = NodeId(b"n" * 16)

WEIGHTS = {"alice": 1.0, "bob": 2.0, "eve": 0.5}


@dataclass
class Line:
    """A program with one computation: what waits, with the number of its arrival, and what runs."""

    user: str
    waiting: list[tuple[int, int]] = field(default_factory=list)
    running: dict[int, int] = field(default_factory=dict)
    """Attempt by number."""
    used_s: float = 0.0
    last_turn: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    next_number: int = 1


class Model:
    """Programs of three users, a node of some CPUs, and the scheduling machine."""

    def __init__(
        self,
        policy: Policy,
        programs: int,
        slots: int,
        limits: dict[str, int] | None = None,
        of_one: bool = False,
    ) -> None:
        self.policy = policy
        self.of_one = of_one
        """True: all computations are of one client. False: each has its own."""
        self.quota = 1 << 30
        """Limit of CPUs of this client at the node."""
        self.slots = slots
        self.limits = limits or {}
        self.now = 0.0
        self.machine = Machine(policy)
        self.lines: dict[int, Line] = {}
        self.arrivals = self.turns = self.batches = 0
        for user, weight in WEIGHTS.items():
            self.handle(core.LimitUser(user, weight, self.limits.get(user)))
        self.handle(core.NodeUp(NODE, "n", slots, False))
        for client in range(1, programs + 1):
            user = list(WEIGHTS)[client % 3]
            self.lines[client] = Line(user)
            owner, number = self.name(client)
            self.handle(core.AddClient(owner, user))
            # Nodes know it by another number than its client does.
            self.handle(core.AddComputation(owner, number, Compute(client, "f", b"")))
            self.handle(core.Allocate(owner, number, NODE, slots))
            self.say(node.ComputationReady(client))
            self.say(node.Credit(client, slots, 0, "", 10_000_000))
        self.say(node.NodeCredit(0))

    def name(self, line: int) -> tuple[ClientId, int]:
        """Client and number of a computation."""
        return (ClientId(1), line) if self.of_one else (ClientId(line), 1)

    def limit(self, cpus: int) -> None:
        """The client of all computations may use so many CPUs of the node."""
        self.quota = cpus if cpus < self.slots else 1 << 30
        self.handle(core.LimitClient(ClientId(1), NODE, cpus))

    def say(self, message: node.FromNode) -> None:
        """The node says something."""
        self.handle(core.FromNodeEvent(NODE, message))

    def handle(self, event: core.Event) -> None:
        """Follow what is sent, and check whose turn it was each time."""
        actions = self.machine.handle(event, self.now)
        for action in actions:
            if isinstance(action, core.Send) and isinstance(action.message, node.RunJobs):
                for job in action.message.jobs:
                    self.check_turn(action.message.computation, job)
        if self.lines:
            running = sum(len(line.running) for line in self.lines.values())
            slots = self.machine.state.nodes[NODE].slots
            assert running >= slots or not self.eligible(), "a CPU is free, and somebody waits"
        assert not (wrong := invariants.find_in_scheduler(self.machine.state)), wrong

    def eligible(self) -> list[int]:
        """Who waits, and may run one more."""
        return [
            client
            for client, line in self.lines.items()
            if line.waiting
            and len(line.running) < self.slots
            and sum(len(each.running) for each in self.lines.values() if each.user == line.user)
            < self.limits.get(line.user, 1 << 30)
            and sum(len(each.running) for each in self.lines.values()) < self.quota
        ]

    def key(self, client: int) -> tuple[float, ...]:
        """The smallest has the turn."""
        line = self.lines[client]
        if self.policy is Policy.FIFO:
            return (line.waiting[0][1],)
        if self.policy is Policy.ROUND_ROBIN:
            return (line.last_turn,)
        if self.policy is Policy.EARLY:
            return (client,)
        of_user = [each for each in self.lines.values() if each.user == line.user]
        had = sum(each.used_s + ADVANCE_S * len(each.running) for each in of_user)
        return had / WEIGHTS[line.user], line.used_s + ADVANCE_S * len(line.running)

    def check_turn(self, client: int, job: Job) -> None:
        """A job is sent: nobody who waited came before it."""
        line = self.lines[client]
        eligible = self.eligible()
        assert client in eligible, "it has no job waiting, or as many as its user may have"
        best = min(self.key(each) for each in eligible)
        assert self.key(client) <= tuple(value + 1e-9 for value in best), (
            f"{client} has the turn of another"
        )
        assert job.number == line.waiting.pop(0)[0], "another job of it came first"
        assert job.attempt == line.attempts.get(job.number, 0)
        line.running[job.number] = job.attempt
        self.turns += 1
        line.last_turn = self.turns
        # As many again may be there as run: those of others than who has the first.
        assert sum(len(each.running) for each in self.lines.values()) <= 2 * self.slots

    # Events.

    def submit(self, client: int, count: int) -> None:
        """Jobs come."""
        line = self.lines[client]
        self.arrivals += 1
        numbers = range(line.next_number, line.next_number + count)
        line.next_number += count
        line.waiting += [(number, self.arrivals) for number in numbers]
        self.handle(core.SubmitJobs(*self.name(client), [Job(number, 0, b"") for number in numbers]))

    def end(self, client: int, used_s: float) -> None:
        """The oldest job of a program ends."""
        line = self.lines[client]
        if line.running:
            number = next(iter(line.running))
            attempt = line.running.pop(number)
            line.used_s += used_s
            self.batches += 1
            ended = [Ended(number, attempt, FINISHED, 0.0, 0.0, b"")]
            self.say(node.JobsEnded(self.batches, client, ended, round(used_s * 1e6)))

    def give_back(self, client: int) -> None:
        """The node gives a job back: it is the first to be sent."""
        line = self.lines[client]
        if line.running:
            number, attempt = line.running.popitem()
            line.attempts[number] = attempt + 1
            line.waiting.insert(0, (number, 0))
            self.say(node.JobsReturned(client, [Attempt(number, attempt)]))

    def cancel(self, client: int) -> None:
        """The job that would be sent next is cancelled."""
        line = self.lines[client]
        if line.waiting:
            number = line.waiting.pop(0)[0]
            self.handle(core.CancelJobs(*self.name(client), [number]))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "end", "end", "end", "end", "end", "back", "cancel"]),
        st.integers(0, 1 << 16),
        st.integers(1, 4),
    ),
    max_size=120,
)


@pytest.mark.parametrize("policy", Policy)
@given(programs=st.sampled_from([2, 3, 5, 40]), slots=st.integers(1, 4), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_every_turn_is_that_of_a_slow_model(
    policy: Policy, programs: int, slots: int, steps: list[tuple[str, int, int]]
) -> None:
    play(Model(policy, programs, slots), steps)


@given(programs=st.sampled_from([3, 6, 40]), limit=st.integers(0, 3), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_a_user_has_no_more_cpus_than_allowed(
    programs: int, limit: int, steps: list[tuple[str, int, int]]
) -> None:
    """The others get what the limit leaves."""
    model = Model(Policy.FAIR, programs, 4, {"alice": limit})
    play(model, steps, ordered=False)


@given(count=st.sampled_from([1, 2, 3, 40]), limits=st.lists(st.integers(0, 5), min_size=1), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_the_clusters_of_a_program_have_no_more_cpus_of_a_node_than_allowed(
    count: int, limits: list[int], steps: list[tuple[str, int, int]]
) -> None:
    """All of them together, whichever the limit was before; and as many as it allows, if there are jobs."""
    model = Model(Policy.FAIR, count, 4, of_one=True)
    model.limit(limits[0])
    play(model, steps[: len(steps) // 2], ordered=False)
    for limit, step in zip(limits[1:], steps[len(steps) // 2 :], strict=False):
        model.limit(limit)
        play_on(model, [step])


def play(model: Model, steps: list[tuple[str, int, int]], ordered: bool = True) -> None:
    """All programs have jobs from the beginning on, so none has to start level with others later."""
    if not ordered:
        model.key = lambda _client: (0.0,)  # type: ignore[method-assign]
    clients = list(model.lines)
    for client in clients:
        model.submit(client, 20)
    model.say(node.NodeCredit(model.slots))
    play_on(model, steps)


def play_on(model: Model, steps: list[tuple[str, int, int]]) -> None:
    """What happens then."""
    clients = list(model.lines)
    for kind, index, count in steps:
        model.now += 0.001
        busy = [client for client in clients if model.lines[client].running]
        if kind == "submit":
            model.submit(clients[index % len(clients)], count)
        elif kind == "cancel":
            model.cancel(clients[index % len(clients)])
        elif busy and kind == "end":
            model.end(busy[index % len(busy)], (1 + index % 977) / 1000)
        elif busy and model.policy is not Policy.ROUND_ROBIN:
            model.give_back(busy[index % len(busy)])
