"""What can happen to a cluster: the rules that the properties of one machine and of both share."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispy.core.scheduling.ids import ClientId, Key
from tests.models.scheduler import Cluster, Link, Node

INDEX = st.integers(0, 1 << 16)
REENTRANT, ONCE = (ClientId(0), 1), (ClientId(7), 1)
"""Computations of two clients, with the same number."""


class ClusterRules(RuleBasedStateMachine):
    """One reentrant computation, one of another client that is not, three nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(self.new_node)

    def new_node(self, cluster: Cluster, link: Link, cpus: int) -> Node:
        """A node of the kind that is tried here."""
        raise NotImplementedError

    def links(self, is_up: bool | None = None) -> list[Link]:
        return [link for link in self.cluster.links if is_up is None or link.is_up == is_up]

    @initialize(is_quiet=st.sampled_from([True, True, True, False]))
    def begin(self, is_quiet: bool) -> None:
        """Computations and nodes; quiet ones have met already."""
        cluster = self.cluster
        cluster.add_computation(REENTRANT, is_reentrant=True)
        cluster.add_computation(ONCE, is_reentrant=False)
        cluster.links += [Link(number) for number in range(3)]
        for link in cluster.links[:2]:
            for computation in cluster.models:
                cluster.allocate(computation, link, 2)
            cluster.connect(link)
        if is_quiet:
            for _ in range(4):
                cluster.settle()

    # A user.

    @rule(computation=st.sampled_from([REENTRANT, ONCE]), count=st.sampled_from([1, 2, 3, 12]))
    def submit(self, computation: Key, count: int) -> None:
        """Jobs come."""
        if len(self.cluster.models[computation].open) < 60:
            self.cluster.submit(computation, count)

    @rule(count=st.sampled_from([1, 2]))
    def submit_and_lose(self, count: int) -> None:
        """Jobs of two clients, with the same numbers as likely as not, are sent; those of one are lost on the way."""
        for computation in (REENTRANT, ONCE):
            if len(self.cluster.models[computation].open) < 60:
                self.cluster.submit(computation, count)
            if computation == REENTRANT:
                self.deliver_all()
        for link in self.cluster.links:
            self.cluster.break_off(link)
            self.cluster.connect(link)

    @rule(computation=st.sampled_from([REENTRANT, ONCE]), count=st.sampled_from([1, 3]), index=INDEX)
    def submit_pinned(self, computation: Key, count: int, index: int) -> None:
        """Jobs come for one node."""
        if len(self.cluster.models[computation].open) < 60:
            self.cluster.submit(computation, count, self.cluster.links[index % 3])

    @precondition(lambda self: any(model.open for model in self.cluster.models.values()))
    @rule(indexes=st.lists(INDEX, min_size=1, max_size=3), is_last=st.booleans())
    def cancel(self, indexes: list[int], is_last: bool) -> None:
        """Jobs are cancelled."""
        for key, model in self.cluster.models.items():
            if model.open:
                numbers = list(model.open)
                chosen = {numbers[-1 - i % len(numbers) if is_last else i % len(numbers)] for i in indexes}
                self.cluster.cancel(key, sorted(chosen))

    @precondition(lambda self: any(model.open for model in self.cluster.models.values()))
    @rule(computation=st.sampled_from([REENTRANT, ONCE]))
    def cancel_all(self, computation: Key) -> None:
        """All jobs are cancelled."""
        self.cluster.cancel(computation, list(self.cluster.models[computation].open))

    @precondition(lambda self: any(model.open for model in self.cluster.models.values()))
    @rule(indexes=st.lists(INDEX, min_size=1, max_size=3), is_wanted=st.sampled_from([True, True, False]))
    def watch(self, indexes: list[int], is_wanted: bool) -> None:
        """Somebody wants to see what jobs print, or does not any more."""
        for key, model in self.cluster.models.items():
            numbers = list(model.open) if is_wanted else list(model.watched)
            if numbers:
                self.cluster.watch(key, sorted({numbers[i % len(numbers)] for i in indexes}), is_wanted)

    @rule(
        computation=st.sampled_from([REENTRANT, ONCE]),
        index=INDEX,
        cpus=st.sampled_from([2, 1, 3, 0]),
        is_draining=st.booleans(),
    )
    def allocate(self, computation: Key, index: int, cpus: int, is_draining: bool) -> None:
        """A user changes what a computation may use."""
        self.cluster.allocate(computation, self.cluster.links[index % 3], cpus, is_draining)

    @rule(
        computation=st.sampled_from([REENTRANT, ONCE]),
        index=INDEX,
        terminate=st.booleans(),
        returns=st.sampled_from([True, True, False]),
        at_once=st.booleans(),
    )
    def vacate(self, computation: Key, index: int, terminate: bool, returns: bool, at_once: bool) -> None:
        """A user closes a node for a computation, or has it set up again."""
        self.cluster.returns_at_once = at_once
        self.cluster.vacate(computation, self.cluster.links[index % 3], terminate, returns)

    @precondition(lambda self: self.cluster.unanswered)
    @rule()
    def answer(self) -> None:
        """Clients say that they have what jobs have printed; some of it was told before a reconnect."""
        self.cluster.answer()

    @precondition(lambda self: self.cluster.away)
    @rule()
    def come_back(self) -> None:
        """What has left nodes comes back to them."""
        self.cluster.return_all()

    @rule(index=INDEX, cpus=st.sampled_from([2, 1, 0, 9]))
    def limit(self, index: int, cpus: int) -> None:
        """A user changes what all computations together may use of a node."""
        self.cluster.limit(self.cluster.links[index % 3], cpus)

    @rule(seconds=st.sampled_from([0.02, 0.02, 1.0]))
    def tick(self, seconds: float) -> None:
        """Idle CPUs look for work behind running jobs."""
        self.cluster.now += seconds
        self.cluster.tick()

    # Links.

    @precondition(lambda self: any(link.to_node for link in self.cluster.links))
    @rule(index=INDEX, count=st.integers(1, 8))
    def deliver_to_node(self, index: int, count: int) -> None:
        """Messages arrive at a node."""
        links = [link for link in self.cluster.links if link.to_node]
        link = links[index % len(links)]
        for _ in range(min(count, len(link.to_node))):
            self.cluster.deliver_to_node(link)

    @precondition(lambda self: any(link.to_scheduler for link in self.cluster.links))
    @rule(index=INDEX, count=st.integers(1, 8))
    def deliver_to_scheduler(self, index: int, count: int) -> None:
        """Messages arrive at the scheduler."""
        links = [link for link in self.cluster.links if link.to_scheduler]
        link = links[index % len(links)]
        for _ in range(min(count, len(link.to_scheduler))):
            self.cluster.deliver_to_scheduler(link)

    @rule()
    def deliver_all(self) -> None:
        """All messages that are under way arrive."""
        for link in self.cluster.links:
            for _ in range(len(link.to_node)):
                self.cluster.deliver_to_node(link)
            for _ in range(len(link.to_scheduler)):
                self.cluster.deliver_to_scheduler(link)

    def start_jobs(self) -> None:
        """Have nodes begin what they can."""
        raise NotImplementedError

    @rule()
    def flow(self) -> None:
        """Without faults jobs come to where they run, and are told as running."""
        for _ in range(3):
            self.deliver_all()
            self.start_jobs()
        self.deliver_all()

    # One rule for all that goes wrong, so that between two faults much goes right.

    @rule(kind=st.sampled_from(["silent", "silent", "lost", "restart"]), index=INDEX)
    def fault(self, kind: str, index: int) -> None:
        """A connection breaks, or its node is given up then, or dies."""
        link = self.cluster.links[index % 3]
        if kind == "restart":
            self.cluster.restart(link)
        else:
            self.cluster.break_off(link)
        if kind == "lost":
            self.cluster.lose(link)

    @precondition(lambda self: self.links(is_up=False))
    @rule(index=INDEX)
    def connect(self, index: int) -> None:
        """A connection stands (again)."""
        links = self.links(is_up=False)
        self.cluster.connect(links[index % len(links)])

    @invariant()
    def check(self) -> None:
        """What must hold between any two events."""
        self.cluster.check()

    def teardown(self) -> None:
        """After the last fault every job comes to its end."""
        cluster = self.cluster
        if not cluster.links:
            return
        for link in cluster.links:
            if not link.is_up:
                cluster.connect(link)
        cluster.quiesce()
        for link in cluster.links:
            cluster.limit(link, 9)
            for computation in cluster.models:
                if cluster.wishes.get((computation, link.number), 0) == 0:
                    cluster.allocate(computation, link, 1)
        cluster.quiesce()
        for model in cluster.models.values():
            assert not model.open, f"{list(model.open)} never end"
        for computation in cluster.machine.state.computations.values():
            for placement in computation.placements.values():
                assert not placement.assigned
