"""What peers that know the secret may say, and nobody honest would: it harms nobody but them.

The machines of node and scheduler are told well-formed messages that make no sense. They may do what they like with
the jobs of whoever said so, but they go on: a node that stops for one client stops for all.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from dispy.core import execution, scheduling
from dispy.core import execution as on_node
from dispy.core import scheduling as at_scheduler
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node

CLIENTS = [on_node.ClientId(bytes([number]) * 16) for number in range(2)]
NODES = [at_scheduler.NodeId(bytes([number]) * 16) for number in range(2)]

ROUNDS = 300
STEPS = 60


class Speaker:
    """Makes up messages.

    Args:
        seed: Of all chance.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.heard: deque[tuple[int, int]] = deque(maxlen=30)
        """Attempts that there really were."""

    def number(self) -> int:
        return self.chance.choice([0, 1, 1, 1, 2, 3, self.chance.randrange(30), 1 << 31, 1 << 62])

    def count(self) -> int:
        return self.chance.choice([0, 1, 1, 2, 3, 1 << 31])

    def time(self) -> float:
        return self.chance.choice([0.0, 1.0, 1e9, -1.0, 1e308, -1e308, float("nan"), float("inf")])

    def few(self, most: int = 4) -> range:
        return range(self.chance.randrange(most))

    def attempt(self) -> tuple[int, int]:
        if self.heard and self.chance.random() < 0.8:
            return self.chance.choice(self.heard)
        return self.number(), self.count()

    def attempts(self) -> list[node.Attempt]:
        return [node.Attempt(*self.attempt()) for _ in self.few()]

    def held(self) -> list[node.HeldJobs]:
        return [node.HeldJobs(self.number(), self.attempts()) for _ in self.few()]

    def ended(self) -> node.Ended:
        status = self.chance.choice([node.CANCELLED, node.TERMINATED, node.ABANDONED, node.FINISHED])
        return node.Ended(
            *self.attempt(), status, self.time(), self.time(), b"x", ran=self.chance.random() < 0.8
        )

    def to_node(self) -> node.ToNode:
        say: list[Callable[[], node.ToNode]] = [
            lambda: node.Attach(self.chance.choice(CLIENTS), "n", self.number()),
            lambda: node.Reconcile(self.held(), {self.number(): self.number() for _ in self.few()}),
            lambda: node.Compute(
                self.number(), "c", b"code", grace_s=self.chance.choice([0.0, 5.0, 86400.0])
            ),
            lambda: node.RunJobs(self.number(), [self.job() for _ in self.few(20)]),
            lambda: node.RunJobs(1, [self.job() for _ in self.few(20)]),
            lambda: node.CancelJobs(self.number(), self.attempts()),
            lambda: node.TakeBack(self.number(), self.count()),
            lambda: node.CloseComputation(self.number()),
            lambda: node.Acknowledge(self.number()),
            lambda: node.AcknowledgeProvisional(self.number(), *self.attempt(), self.count()),
            lambda: node.ListJobs(self.number(), self.number()),
            lambda: node.AcknowledgeProvisional(self.number(), *self.attempt(), self.count(), False, "no"),
            node.Detach,
            node.ShareMemory,
        ]
        return self.chance.choice(say)()

    def job(self) -> node.Job:
        number, attempt = self.attempt()
        self.heard.append((number, attempt))
        where = self.chance.choice([None, None, node.Segment(self.number())])
        return node.Job(number, attempt, b"x", where)

    def from_node(self) -> node.FromNode:
        say: list[Callable[[], node.FromNode]] = [
            lambda: node.ComputationReady(self.number()),
            lambda: node.ComputationFailed(self.number(), "why"),
            lambda: node.Credit(self.number(), self.count(), self.count()),
            lambda: node.Credit(1, self.chance.randrange(5), self.chance.choice([0, 10, 1000])),
            lambda: node.JobsStarted(
                self.number(), [node.Started(*self.attempt(), self.time()) for _ in self.few()]
            ),
            lambda: node.JobsEnded(self.number(), 1, [self.ended() for _ in self.few()]),
            lambda: node.JobsEnded(self.number(), self.number(), [self.ended() for _ in self.few()]),
            lambda: node.JobsReturned(self.number(), self.attempts(), "why"),
            lambda: node.Provisional(self.number(), *self.attempt(), self.count(), b"x"),
            lambda: node.Provisional(
                self.number(),
                *self.attempt(),
                self.count(),
                b"x",
                file=node.FilePart(self.number(), "a", self.number(), 0o644, 1, 2, self.number()),
            ),
            lambda: node.Reconciled(self.held(), {self.number(): self.number() for _ in self.few()}),
            lambda: node.NodeCpus(self.count()),
            lambda: node.ObjectStored(1, self.chance.randrange(5), self.chance.choice(["", "no room"])),
        ]
        return self.chance.choice(say)()


def test_no_client_stops_a_node() -> None:
    for seed in range(ROUNDS):
        speaker = Speaker(seed)
        chance = speaker.chance
        machine = execution.Machine(2, 100.0)
        for client in CLIENTS:
            machine.handle(on_node.ClientAttached(client, "n", speaker.number()), 0.0)
        now = 0.0
        for _ in range(STEPS):
            now += chance.choice([0, 0.001, 1, 50])
            if chance.random() < 0.1:
                client = chance.choice(CLIENTS)
                machine.handle(on_node.ClientSilent(client), now)
                machine.handle(on_node.ClientAttached(client, "n", speaker.number()), now)
            for action in machine.handle(
                on_node.FromClient(chance.choice(CLIENTS), speaker.to_node()), now
            ):
                if type(action) is on_node.StartHost and chance.random() < 0.7:
                    machine.handle(on_node.HostReady(action.key), now)


def test_a_job_named_twice_in_one_message_is_one_job() -> None:
    machine = execution.Machine(1)
    client = CLIENTS[0]
    machine.handle(on_node.ClientAttached(client, "n", 0), 0.0)
    machine.handle(on_node.FromClient(client, node.Compute(1, "c", b"code")), 0.0)
    twice = [node.Job(7, 0, b"x"), node.Job(7, 1, b"y"), node.Job(8, 0, b"z")]
    machine.handle(on_node.FromClient(client, node.RunJobs(1, twice)), 0.0)
    actions = machine.handle(on_node.FromClient(client, node.TakeBack(1, 10)), 0.0)
    returned = [action.message for action in actions if type(action) is on_node.Tell]
    assert returned == [node.JobsReturned(1, [node.Attempt(7, 1), node.Attempt(8, 0)])]


def schedule(
    machine: scheduling.Machine, speaker: Speaker, now: float, *events: at_scheduler.Event
) -> None:
    """Tell a scheduler something; what it sends to nodes is what they speak of."""
    for event in events:
        for action in machine.handle(event, now):
            if type(action) is at_scheduler.Send and type(action.message) is node.RunJobs:
                speaker.heard.extend((job.number, job.attempt) for job in action.message.jobs)


def test_no_node_stops_a_client() -> None:
    for seed in range(ROUNDS):
        speaker = Speaker(seed)
        chance = speaker.chance
        machine = scheduling.Machine()
        now = 0.0
        for number in (1, 2):
            compute = node.Compute(number, "c", b"")
            machine.handle(
                at_scheduler.AddComputation(at_scheduler.EMBEDDED, number, compute, chance.random() < 0.5),
                now,
            )
        for each in NODES:
            machine.handle(at_scheduler.NodeUp(each, "n", 2, False), now)
            for number in (1, 2):
                machine.handle(at_scheduler.Allocate(at_scheduler.EMBEDDED, number, each, 2), now)
                for message in (node.ComputationReady(number), node.Credit(number, 2, 10)):
                    machine.handle(at_scheduler.FromNodeEvent(each, message), now)
        for step in range(STEPS):
            now += chance.choice([0, 0.001, 0.02, 1])
            jobs = [node.Job(1000 * step + n, 0, b"x") for n in range(3)]
            schedule(
                machine,
                speaker,
                now,
                at_scheduler.SubmitJobs(at_scheduler.EMBEDDED, chance.choice([1, 2]), jobs),
                at_scheduler.FromNodeEvent(chance.choice(NODES), speaker.from_node()),
                at_scheduler.Tick(),
            )


def test_a_payload_that_no_memory_holds_is_dropped() -> None:
    """It is announced, and begins to arrive: the connection of all other jobs must not end for it."""
    sink = PoolSink(1 << 62)
    sink.write(memoryview(b"begins"))
    sink.discard()
