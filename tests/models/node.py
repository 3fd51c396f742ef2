"""A node without processes: the execution machine over models of hosts and workers.

``SimulatedNode`` does what ``dispy.node.service`` does with every action, one observable step at a time, so that a
test can put anything between two steps: take a record, write the claim, read the limit, run, keep the result, send a
packet, die. Acknowledgements and what is said to a host arrive at once, packets of workers when they are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.dispatch import workers_max
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.protocol.node import FINISHED, TERMINATED, Ended, FromNode
from dispy.protocol.worker import SLOT_CLAIM, SLOT_INTERRUPT, SLOT_LIMIT, SLOT_UNBUFFER, Record
from tests.models.host import Host
from tests.models.worker import CANCELLED_REASON, Channels, Phase, Worker

SILENCE_S = 5.0

LATE_S = 1.0
"""How long a worker stands still that is late (seconds): its results are too old to wait for others then."""

RunKey = tuple[ClientId, int, int, int]
"""One run of a job: client, computation, number, attempt."""


def output(size: int) -> bytes:
    """The first bytes of what every job prints."""
    return bytes(i % 251 for i in range(size))


class SimulatedWorker(Worker):
    """A worker, and what is on its way to and from it.

    Attributes:
        packets: What it has sent and the node has not read.
        has_signal: True if SIGINT is on its way.
        is_condemned: True if the node wants it dead.
        is_blocked: True if its job goes on until it is interrupted or killed.
        last_position: Where it was at the last tick.
    """

    def __init__(self, node: SimulatedNode, worker: WorkerId, key: Key) -> None:
        super().__init__(Channels())
        self.node = node
        self.id = worker
        self.key = key
        self.packets: deque[core.Ran | core.ValueSent] = deque()
        self.has_signal = False
        self.is_condemned = False
        self.is_blocked = False
        self.last_position = 0
        self._clock = 0.0

    @property
    def position(self) -> int:
        """Which job it is at."""
        return self.channels.words[SLOT_CLAIM]

    def run_key(self) -> RunKey:
        """The run that it is at."""
        return (*self.key, self.job.number, self.job.attempt)

    def can_work(self) -> bool:
        """True if it has something to do."""
        return self.can_step() or (self.phase is Phase.RUNNING and not self.is_blocked)

    def work(self, seconds: float = 0.0, is_late: bool = False, leaves: bool = False) -> None:
        """Do the next thing.

        Args:
            seconds: How long the job took, if it ends here.
            is_late: True if the worker stands still then.
            leaves: True if the job leaves a thread or process behind.
        """
        if self.phase is Phase.RUNNING:
            self.finish(FINISHED, seconds, leaves=leaves)
            self._clock += LATE_S * is_late
            return
        before = self.phase
        packet = self.step(self._clock, self.node.now)
        if packet is not None:
            self.packets.append(core.Ran(self.id, *packet))
        if self.phase is Phase.STARTED:
            self.node.on_start(self.run_key())
        elif self.phase is Phase.KEPT and before is Phase.STARTED:
            self._note_end()

    def finish(self, status: int, seconds: float, reason: str = "", leaves: bool = False) -> None:
        """The job ends."""
        self._clock += seconds
        self.end_job(self._clock, status, b"r", reason=reason, leaves=leaves)
        self._note_end()

    def _note_end(self) -> None:
        assert self.ended is not None
        self.node.results[self.run_key()] = self.ended
        self.is_blocked = False

    def take_signal(self, obeys: bool) -> None:
        """SIGINT arrives. A job may catch the KeyboardInterrupt."""
        self.has_signal = False
        if self.interrupt() and obeys:
            self.finish(TERMINATED, 0.5, CANCELLED_REASON)

    def print_more(self, size: int) -> None:
        """The running job prints so many bytes."""
        before = len(self.channels.printed) + len(self.buffered)
        self.print(output(before + size)[before:])

    def send(self) -> None:
        """The running job sends a provisional result, and waits for the acknowledgement."""
        value = self.send_value(b"v")
        self.packets.append(
            core.ValueSent(self.id, value.number, value.attempt, value.serial, value.payload, value.stream)
        )


class SimulatedNode:
    """A node's service over models of processes.

    Args:
        cpus: Jobs that may run at once.
        lease_s: How long silent clients are remembered (seconds). They have a share for ``SILENCE_S``.
        tell: Takes what the node says; called for connected and other clients alike.

    Attributes:
        workers: Those whose end was not told yet.
        hosts: By computation.
        results: What workers produced.
    """

    def __init__(self, cpus: int, lease_s: float, tell: Callable[[ClientId, FromNode], None]) -> None:
        self.machine = Machine(cpus, lease_s, SILENCE_S)
        self.now = 0.0
        self.workers: dict[WorkerId, SimulatedWorker] = {}
        self.hosts: dict[Key, Host[SimulatedWorker]] = {}
        self.results: dict[RunKey, Ended] = {}
        self.is_flush_due = False
        self._tell = tell
        self._cpus_most = cpus
        self._events: deque[core.Event] = deque()
        """What is being handled, and what the machine was not told yet."""

    # Events.

    def handle(self, event: core.Event) -> None:
        """Tell the machine something and do what it decides; what comes of that is told when all of it is done,
        as the service does."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        try:
            while self._events:
                self.decide(self._events[0])
                self._events.popleft()
        finally:
            self._events.clear()

    def decide(self, event: core.Event) -> None:
        """Tell the machine one thing and do what it decides."""
        if type(event) is core.CpusChanged:
            self._cpus_most = max(self._cpus_most, event.cpus)
        self.act(self.machine.handle(event, self.now))

    def act(self, actions: list[core.Action]) -> None:
        """Do what the machine has decided."""
        for action in actions:
            self._perform(action)

    def on_start(self, run: RunKey) -> None:
        """A worker begins a job."""

    def read_packet(self, worker: SimulatedWorker) -> None:
        """The daemon reads one packet."""
        self.handle(worker.packets.popleft())

    def positions(self) -> dict[WorkerId, tuple[int, float]]:
        """What is in the slots."""
        return {worker.id: (worker.position, worker.channels.start) for worker in self.workers.values()}

    def tick(self, positions: dict[WorkerId, tuple[int, float]] | None = None) -> None:
        """The daemon looks where its workers are, or were, and takes results that wait behind long jobs."""
        positions = self.positions() if positions is None else positions
        for worker_id, (position, _) in positions.items():
            worker = self.workers.get(worker_id)
            if worker is None:
                continue
            waiting = worker.channels.unsent()
            if waiting is not None and worker.last_position == position == worker.position:
                self.handle(core.Ran(worker_id, *waiting))
            worker.last_position = position
        self.handle(core.Tick(positions))

    def flush(self) -> None:
        """Results have waited for company long enough."""
        if self.is_flush_due:
            self.is_flush_due = False
            self.handle(core.Flush())

    def kill(self, worker: SimulatedWorker) -> None:
        """A worker dies where it is."""
        worker.die()

    def execute(self, worker: SimulatedWorker) -> None:
        """A worker that the machine wants dead dies."""
        self.kill(worker)

    def reap(self, worker: SimulatedWorker) -> None:
        """The daemon learns of a worker's death."""
        self._drain(worker)
        self.handle(core.WorkerDying(worker.id, worker.position))
        self.handle(self._bury(worker, "died"))

    def _drain(self, worker: SimulatedWorker) -> None:
        """What a dead worker had finished is told first; meanwhile it may be offered more."""
        while worker.packets:
            self.read_packet(worker)
        left = worker.channels.unsent()
        if left is not None:
            self.handle(core.Ran(worker.id, 0, 0, False, True, left.ended))

    def _bury(self, worker: SimulatedWorker, reason: str) -> core.WorkerExited:
        del self.workers[worker.id]
        if worker.key in self.hosts:
            self.hosts[worker.key].reap(worker.id, -9)
        untaken = worker.channels.untaken()
        start = worker.channels.start
        return core.WorkerExited(worker.id, reason, worker.position, start, self.now, untaken)

    def load(self, key: Key) -> None:
        """A host has loaded its computation."""
        self.hosts[key].end_setup()
        self.handle(core.HostReady(key))

    def fail_load(self, key: Key) -> None:
        """A host cannot load its computation."""
        del self.hosts[key]
        self.handle(core.HostFailed(key, "cannot load"))

    def fail_host(self, key: Key) -> None:
        """A host dies, and its workers with it."""
        for worker in self._workers_of(key):
            self.kill(worker)
            self._drain(worker)
            self.handle(core.WorkerDying(worker.id, worker.position))
        del self.hosts[key]
        # Among them are those that were asked for while the ends were collected.
        exits = [self._bury(worker, "host died") for worker in self._workers_of(key)]
        self.handle(core.HostFailed(key, "host died", exits, has_died=True))

    def _workers_of(self, key: Key) -> list[SimulatedWorker]:
        return [worker for worker in self.workers.values() if worker.key == key]

    # Actions.

    def _perform(self, action: core.Action) -> None:
        match action:
            case core.Tell():
                self._tell(action.client, action.message)
            case core.StartHost():
                assert action.key not in self.hosts
                self.hosts[action.key] = Host()
            case core.StopHost():
                self.hosts.pop(action.key, None)
                for worker in self._workers_of(action.key):
                    del self.workers[worker.id]
            case core.ForkWorker():
                self._fork(action)
            case core.Look():
                self._look(action)
            case core.FlushSoon():
                assert not self.is_flush_due, "a second timer for the same results"
                self.is_flush_due = True
            case core.KillWorker() | core.Pass() if action.worker not in self.workers:
                pass
            case core.Release() | core.Drained():
                pass  # there are neither files nor a process
            case core.Store() | core.NoteOpen() | core.DropNote() | core.TellStored() | core.Erase():
                pass  # nor a spool
            case _:
                self._perform_on(self.workers[action.worker], action)

    def _perform_on(self, worker: SimulatedWorker, action: core.Action) -> None:
        words = worker.channels.words
        match action:
            case core.Offer():
                self._offer(worker, action.record)
            case core.Recall():
                self.handle(core.Recalled(worker.id, worker.channels.untaken()))
            case core.Cut():
                words[SLOT_LIMIT] = action.position
            case core.InterruptWorker():
                words[SLOT_INTERRUPT] = action.position
                worker.has_signal = True
            case core.KillWorker():
                worker.is_condemned = True
            case core.Unbuffer():
                words[SLOT_UNBUFFER] = action.position
                worker.unbuffer()
            case core.Pass():
                worker.acknowledge(action.message)
            case _:
                raise AssertionError(f"unexpected {action}")

    def _look(self, action: core.Look) -> None:
        glimpses = []
        for place in action.places:
            worker = self.workers.get(place.worker)
            if worker is not None and worker.position == place.position:
                text = worker.channels.printed[place.stdout_at :]
                glimpses.append(core.Glimpse(place.worker, place.position, place.stdout_at, text, 0, b""))
        self.handle(core.Looked(action.key, glimpses))

    def _fork(self, action: core.ForkWorker) -> None:
        worker = self.workers[action.worker] = SimulatedWorker(self, action.worker, action.key)
        host = self.hosts[action.key]
        host.fork(worker.id, worker, worker.id)
        assert len(host.workers) <= workers_max(self._cpus_most), "more workers than a host has places for"

    def _offer(self, worker: SimulatedWorker, record: Record) -> None:
        # What is sent does not change any more when the machine cuts its own copy.
        worker.channels.records.append(Record(record.record, list(record.jobs), record.live))
        assert len(worker.channels.records) <= 2, "more records than a socket surely holds"

    # Time goes by without faults.

    def settle(self, seconds: float = 0.02) -> bool:
        """Let every process do all it can and tell what there is to tell; False if nothing moved."""
        moved = False
        for key, host in list(self.hosts.items()):
            if not host.is_loaded:
                self.load(key)
                moved = True
        for worker in list(self.workers.values()):
            if self.workers.get(worker.id) is not worker:
                continue
            moved |= self._settle_worker(worker, seconds)
        moved |= self.is_flush_due
        self.flush()
        return moved

    def _settle_worker(self, worker: SimulatedWorker, seconds: float) -> bool:
        moved = False
        if worker.has_signal:
            worker.take_signal(obeys=True)
            moved = True
        if worker.is_condemned:
            self.execute(worker)
        while worker.can_work():
            worker.work(seconds)
            moved = True
        while worker.packets and worker.id in self.workers:
            self.read_packet(worker)
            moved = True
        if worker.phase is Phase.GONE and worker.id in self.workers:
            self.reap(worker)
            moved = True
        return moved
