"""Workers of open computations that have nothing to do: never too many for long, and no job is lost by their ends."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from simulated_node import Phase, SimulatedNode

from dispy.core import execution as core
from dispy.core.execution.dispatch import workers_max
from dispy.core.execution.ids import ClientId
from dispy.protocol import node as protocol
from dispy.protocol.node import FromNode, Job

CLIENT = ClientId(b"c" * 16)
COMPUTATIONS = 16
INDEX = st.integers(0, 1 << 16)


class IdleWorkers(RuleBasedStateMachine):
    """One client with more computations than workers may be idle; ends of workers come late."""

    def __init__(self) -> None:
        super().__init__()
        self.node = SimulatedNode(1, 100.0, self.tell)
        self.open: set[int] = set()
        self.next_number = 1
        self.next_batch = 1

    def tell(self, client: ClientId, message: FromNode) -> None:
        """Note the ends of jobs."""
        if isinstance(message, protocol.JobsEnded):
            assert all(ended.ran for ended in message.ended), "a job was not run"
            self.open.difference_update(ended.number for ended in message.ended)
            self.next_batch = message.batch + 1
        assert not isinstance(message, protocol.JobsReturned), "jobs come back"

    @initialize(cpus=st.integers(1, 3), costly=st.sets(st.integers(1, COMPUTATIONS)))
    def begin(self, cpus: int, costly: set[int]) -> None:
        """All computations are loaded, and have had jobs."""
        self.node = SimulatedNode(cpus, 100.0, self.tell)
        self.node.handle(core.ClientAttached(CLIENT, "client", 0))
        for number in range(1, COMPUTATIONS + 1):
            compute = protocol.Compute(number, "f", b"", setup_per_worker=number in costly)
            self.node.handle(core.FromClient(CLIENT, compute))
            self.node.load((CLIENT, number))
            self.run_jobs(number, 2 * cpus)
            while self.node.settle(0.5):
                pass

    def run_jobs(self, computation: int, count: int) -> None:
        jobs = [Job(self.next_number + i, 0, b"x") for i in range(count)]
        self.next_number += count
        self.open.update(job.number for job in jobs)
        self.node.handle(core.FromClient(CLIENT, protocol.RunJobs(computation, jobs)))

    @rule(number=st.integers(1, COMPUTATIONS), count=st.sampled_from([1, 1, 2, 8]))
    def run_more(self, number: int, count: int) -> None:
        """Jobs come, for a computation whose workers may have ended, or be about to."""
        self.run_jobs(number, count)

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by, and the clock ticks."""
        self.node.now += seconds
        self.node.tick()

    @rule(index=INDEX, steps=st.integers(1, 4))
    def step(self, index: int, steps: int) -> None:
        """A worker does something, which may be to end."""
        for _ in range(steps):
            able = [worker for worker in self.node.workers.values() if worker.can_step()]
            if able:
                able[index % len(able)].step(0.5)

    @rule(index=INDEX)
    def read(self, index: int) -> None:
        """The daemon reads what a worker has sent, or learns of its end."""
        for worker in list(self.node.workers.values()):
            if worker.packets:
                self.node.read_packet(worker)
                return
        gone = [worker for worker in self.node.workers.values() if worker.phase is Phase.GONE]
        if gone:
            self.node.reap(gone[index % len(gone)])

    @rule()
    def settle(self) -> None:
        """All that can happen does."""
        while self.node.settle(0.5):
            pass
        assert not self.open

    @rule()
    def acknowledge(self) -> None:
        """The client has all results."""
        self.node.handle(core.FromClient(CLIENT, protocol.Acknowledge(self.next_batch - 1)))

    @invariant()
    def check(self) -> None:
        """What must always hold."""
        self.node.check()

    def teardown(self) -> None:
        """In the end there are not too many workers, and all jobs are run by those and new ones."""
        self.settle()
        for _ in range(2):
            self.node.now += self.node.machine.state.idle_s + 1.0
            self.node.tick()
            self.settle()
        assert len(self.node.workers) <= workers_max(self.node.machine.state.cpus)
        for number in range(1, COMPUTATIONS + 1):
            self.run_jobs(number, 3)
        self.settle()


TestIdleWorkers = IdleWorkers.TestCase
