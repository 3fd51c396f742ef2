"""A node without processes: the execution machine with simulated hosts, workers, sockets and slots.

It does what ``dispy.node.service`` does with every action, and its workers do what
``dispy.worker.loop`` does, one observable step at a time, so that a test can put anything between
two steps: take a record, write the claim, read the limit, run, keep the result, send a packet, die.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.dispatch import IDLE_LOOK_S, workers_max
from dispy.core.execution.fair_shares import is_held_off
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.protocol.node import (
    FINISHED,
    TERMINATED,
    CancelJobs,
    Compute,
    Ended,
    FromNode,
    Job,
    LimitCpus,
)
from dispy.protocol.worker import Record, claim

SILENCE_S = 5.0

RunKey = tuple[ClientId, int, int]
"""One run of a job: client, number, attempt."""


def output(size: int) -> bytes:
    """The first bytes of what every job prints."""
    return bytes(i % 251 for i in range(size))


class Phase(Enum):
    """Where a worker is in ``run_record``."""

    WAITING = "waiting for a record"
    BETWEEN = "between two jobs"
    CLAIMED = "claim written, limit not yet read"
    RUNNING = "in the job"
    GONE = "dead"


class SimulatedWorker:
    """A worker process, its socket of records, its slot and its packets under way."""

    def __init__(self, node: SimulatedNode, worker: WorkerId, key: Key) -> None:
        self.node = node
        self.id = worker
        self.key = key
        self.phase = Phase.WAITING
        self.socket: deque[Record] = deque()
        self.claim = 0
        self.limit = 0
        self.interrupt = 0
        self.has_signal = False
        self.start = 0.0
        self.record: Record | None = None
        self.executed = 0
        self.arena: list[Ended] = []
        self.packets: deque[core.Ran | core.ValueSent] = deque()
        self.serial = 0
        self.is_retiring = False
        self.is_condemned = False
        self.is_closed = False
        """Whether it ends when its socket is empty."""
        self.idle_since: float | None = None
        """When it had no record any more, as the daemon knows; None while it has one."""
        self.is_blocked = False
        """Its job goes on until it is interrupted or killed."""
        self.printed = 0
        """What its job has printed, as far as the daemon can see (bytes)."""
        self.buffered = 0
        """What lies in the buffer of its job."""
        self.is_live = False
        """Whether nothing is kept in that buffer."""

    def can_step(self) -> bool:
        """Whether the worker has something to do."""
        if self.phase is Phase.GONE or (self.phase is Phase.RUNNING and self.is_blocked):
            return False
        return self.phase is not Phase.WAITING or bool(self.socket) or self.is_closed

    def job(self) -> Job:
        """The job it is at."""
        assert self.record is not None
        return self.record.jobs[self.executed]

    def step(self, seconds: float = 0.0, flush: bool = False, leftovers: bool = False) -> None:
        """Do the next thing: ``seconds`` is how long a job took, if one ends here."""
        if self.phase is Phase.WAITING and not self.socket:
            self.phase = Phase.GONE
        elif self.phase is Phase.WAITING:
            self.record = self.socket.popleft()
            self.executed = 0
            self.is_live = self.record.live
            self.phase = Phase.BETWEEN
        elif self.phase is Phase.BETWEEN:
            assert self.record is not None
            if self.is_retiring or self.executed == len(self.record.jobs):
                self._end_record()
            else:
                self.claim = claim(self.record.record, self.executed)
                self.phase = Phase.CLAIMED
        elif self.phase is Phase.CLAIMED:
            assert self.record is not None
            if claim(self.record.record, 0) <= self.limit <= self.claim:
                self._end_record()
            else:
                self.start = self.node.now
                self.phase = Phase.RUNNING
                job = self.job()
                self.node.on_start((self.key[0], job.number, job.attempt))
        elif self.phase is Phase.RUNNING:
            self._finish(FINISHED, seconds, "")
            self.is_retiring = leftovers
            if flush:
                self.flush()

    def _finish(self, status: int, seconds: float, reason: str) -> None:
        job = self.job()
        ended = Ended(
            job.number, job.attempt, status, self.start, self.start + seconds, b"r", reason=reason
        )
        self.node.results[self.key[0], job.number, job.attempt] = ended
        self.arena.append(ended)
        self.executed += 1
        self.is_blocked = False
        self.printed = self.buffered = 0
        self.phase = Phase.BETWEEN

    def _end_record(self) -> None:
        self.flush(is_last=True)
        self.record = None
        self.phase = Phase.GONE if self.is_retiring else Phase.WAITING

    def flush(self, is_last: bool = False) -> None:
        """Send the results that no packet has carried."""
        if (self.arena or is_last) and self.record is not None:
            ended, self.arena = self.arena, []
            self.packets.append(
                core.Ran(
                    self.id, self.record.record, self.executed, is_last, is_last and self.is_retiring, ended
                )
            )

    def take_signal(self, obeys: bool) -> None:
        """SIGINT arrives. A job may catch the KeyboardInterrupt."""
        self.has_signal = False
        if self.phase is Phase.RUNNING and self.interrupt == self.claim:
            self.interrupt = 0
            if obeys:
                self._finish(TERMINATED, 0.5, "cancelled")

    def print(self, size: int) -> None:
        """The running job prints something."""
        if self.is_live:
            self.printed += size
        else:
            self.buffered += size

    def unbuffer(self) -> None:
        """SIGURG arrives."""
        self.is_live = True
        self.printed, self.buffered = self.printed + self.buffered, 0

    def send_value(self) -> None:
        """The running job sends a provisional result."""
        self.serial += 1
        job = self.job()
        self.packets.append(core.ValueSent(self.id, job.number, job.attempt, self.serial, b"v", 0))

    def untaken(self) -> list[int]:
        """Take back what is in the socket."""
        numbers = [record.record for record in self.socket]
        self.socket.clear()
        return numbers


class SimulatedNode:
    """A node's service over simulated processes.

    Args:
        cpus: Jobs that may run at once.
        lease_s: How long silent clients are remembered (seconds). They have a share for ``SILENCE_S``.
        tell: Takes what the node says; called for connected and other clients alike.
    """

    def __init__(self, cpus: int, lease_s: float, tell: Callable[[ClientId, FromNode], None]) -> None:
        self.machine = Machine(cpus, lease_s, SILENCE_S)
        self.now = 0.0
        self.workers: dict[WorkerId, SimulatedWorker] = {}
        """Those whose end was not told yet."""
        self.hosts: dict[Key, bool] = {}
        """Computations with a host: whether it is loaded."""
        self.started: set[RunKey] = set()
        self.ended: set[RunKey] = set()
        """What no client will ever see again as running: told as ended or returned."""
        self.cancelled: set[RunKey] = set()
        """What clients have cancelled."""
        self.results: dict[RunKey, Ended] = {}
        """What workers produced."""
        self._tell = tell
        self.cpus_most = cpus
        self.is_flush_due = False
        self.exclusive: list[Key] = []
        """Computations that have asked for the node alone, in their order."""
        self.silent_since: dict[ClientId, float] = {}
        self.limits: dict[ClientId, int] = {}
        """What clients have asked for with ``LimitCpus``."""
        self.event: core.Event = core.Flush()
        """What is being handled."""
        self._events: deque[core.Event] = deque()
        """This, and what the machine was not told yet."""

    # Events.

    def handle(self, event: core.Event) -> None:
        """Tell the machine something and do what it decides; what comes of that is told when all of it is done,
        as the service does."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        try:
            while self._events:
                self._handle(self._events[0])
                self._events.popleft()
        finally:
            self._events.clear()

    def _handle(self, event: core.Event) -> None:
        state = self.machine.state
        before = state.busy
        busy_before = {client.id: client.busy for client in state.clients.values()}
        event_before, self.event = self.event, event
        if type(event) is core.FromClient and type(event.message) is CancelJobs:
            self.cancelled |= {(event.client, a.number, a.attempt) for a in event.message.attempts}
        if type(event) is core.CpusChanged:
            self.cpus_most = max(self.cpus_most, event.cpus)
        self._note_claims(event)
        actions = self.machine.handle(event, self.now)
        self._check_offers([action for action in actions if type(action) is core.Offer])
        for action in actions:
            self._perform(action)
        self.event = event_before
        for worker in self.workers.values():
            known = state.workers.get(worker.id)
            if known is not None and known.records:
                worker.idle_since = None
            elif worker.idle_since is None:
                worker.idle_since = self.now
        assert state.busy <= max(state.cpus, before), "a worker was put to work though no CPU was free"
        for client in state.clients.values():
            most = max(self.limits.get(client.id, client.busy), busy_before.get(client.id, 0))
            assert client.busy <= most, "a client uses more CPUs than it wanted"

    # Whose turn it is, found out in another way.

    def dead(self) -> set[ClientId]:
        """Clients that have been silent for longer than the limit."""
        return {client for client, since in self.silent_since.items() if self.now - since >= SILENCE_S}

    def _note_claims(self, event: core.Event) -> None:
        """Keep the line of those that want the node alone, and the limits of clients."""
        match event:
            case core.FromClient(client, Compute(number, exclusive=True)):
                is_known = client in self.machine.state.clients
                if is_known and (client, number) not in self.machine.state.computations:
                    self.exclusive.append((client, number))
            case core.FromClient(client, LimitCpus(cpus)) if client in self.machine.state.clients:
                self.limits[client] = cpus
            case core.ClientSilent(client):
                self.silent_since[client] = self.now
            case core.ClientAttached(client):
                if client in self.dead() and client in self.machine.state.clients:
                    self._claim_again(client)
                self.silent_since.pop(client, None)

    def _claim_again(self, client: ClientId) -> None:
        """A client that had lost its turn is back: it stands in line again, at the end."""
        for key, computation in self.machine.state.computations.items():
            if key[0] == client and computation.spec.exclusive and key not in self.exclusive:
                self.exclusive.append(key)

    def _check_offers(self, offers: list[core.Offer]) -> None:
        """New work goes to whom it may, and to whom it is due."""
        state = self.machine.state
        self.limits = {client: cpus for client, cpus in self.limits.items() if client in state.clients}
        if type(self.event) is core.Tick:
            dead = self.dead()
            self.exclusive = [key for key in self.exclusive if key[0] not in dead]
        self.exclusive = [key for key in self.exclusive if key in state.computations]
        for offer in offers:
            worker = state.workers[offer.worker]
            computation = worker.computation
            if state.is_draining:
                assert computation.client.is_dead, "a node that is drained starts a job of a living program"
            elif self.exclusive:
                assert computation.key == self.exclusive[0], "a job starts though the node is another's"
                others = [
                    w for w in state.workers.values() if w.records and w.computation is not computation
                ]
                assert not others, "an exclusive job starts beside others"
            for rival in state.computations.values():
                if rival.ready and rival.client is not computation.client and self._has_room(rival):
                    assert not computation.client.is_dead or rival.client.is_dead, (
                        "a dead client is served before a living one"
                    )
                    is_fair = computation.client.busy <= rival.client.busy + 1
                    assert is_fair or rival.client.is_dead, "a client has more CPUs than one that waits"

    def _has_room(self, computation: core.Computation) -> bool:
        """Whether a computation could have used another CPU."""
        client = computation.client
        return (
            computation.status is core.Status.READY
            and client.busy < self.limits.get(client.id, 1 << 31)
            and self._has_turn(computation)
            and (bool(computation.idle) or len(computation.workers) < workers_max(self.machine.state.cpus))
        )

    def _has_turn(self, computation: core.Computation) -> bool:
        """Whether nobody else's use of the node, or its end, keeps a computation from it."""
        if self.machine.state.is_draining:
            return computation.client.is_dead
        return not self.exclusive or computation.key == self.exclusive[0]

    def on_start(self, run: RunKey) -> None:
        """A worker begins a job."""
        assert run not in self.started, f"{run[1:]} is run twice"
        assert run not in self.ended, f"{run[1:]} is run after it was told as ended or returned"
        self.started.add(run)

    def read_packet(self, worker: SimulatedWorker) -> None:
        """The daemon reads one packet."""
        self.handle(worker.packets.popleft())

    def positions(self) -> dict[WorkerId, tuple[int, float]]:
        """What is in the slots."""
        return {worker.id: (worker.claim, worker.start) for worker in self.workers.values()}

    def tick(self, positions: dict[WorkerId, tuple[int, float]] | None = None) -> None:
        """The daemon looks where its workers are; they may have gone on since."""
        self.handle(core.Tick(self.positions() if positions is None else positions))
        state = self.machine.state
        old = [w for w in self.idle() if self._idle_s(w) >= state.idle_s + IDLE_LOOK_S]
        assert len(old) <= workers_max(state.cpus), "too many workers are idle for too long"

    def flush(self) -> None:
        """Results have waited for company long enough."""
        if self.is_flush_due:
            self.is_flush_due = False
            self.handle(core.Flush())

    def kill(self, worker: SimulatedWorker) -> None:
        """A worker dies where it is."""
        worker.phase = Phase.GONE

    def execute(self, worker: SimulatedWorker) -> None:
        """A worker that the machine wants dead dies; nothing that is wanted must die with it."""
        if worker.phase is Phase.RUNNING:
            computation = self.machine.state.workers[worker.id].computation
            job = worker.job()
            current = computation.open.get(job.number)
            is_wanted = current is not None and current.attempt == job.attempt
            is_cancelled = (worker.key[0], job.number, job.attempt) in self.cancelled
            assert is_cancelled or not is_wanted, f"job {job.number} dies for another"
        self.kill(worker)

    def reap(self, worker: SimulatedWorker) -> None:
        """The daemon learns of a worker's death."""
        self._drain(worker)
        self.handle(core.WorkerDying(worker.id, worker.claim))
        self.handle(self._bury(worker, "died"))

    def _drain(self, worker: SimulatedWorker) -> None:
        """What a dead worker had finished is told first; meanwhile it may be offered more."""
        while worker.packets:
            self.read_packet(worker)
        if worker.arena:
            self.handle(core.Ran(worker.id, 0, 0, False, True, worker.arena))

    def _bury(self, worker: SimulatedWorker, reason: str) -> core.WorkerExited:
        del self.workers[worker.id]
        untaken = worker.untaken()
        return core.WorkerExited(worker.id, reason, worker.claim, worker.start, self.now, untaken)

    def load(self, key: Key) -> None:
        """A host has loaded its computation."""
        self.hosts[key] = True
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
            self.handle(core.WorkerDying(worker.id, worker.claim))
        del self.hosts[key]
        # Among them are those that were asked for while the ends were collected.
        exits = [self._bury(worker, "host died") for worker in self._workers_of(key)]
        self.handle(core.HostFailed(key, "host died", exits, has_died=True))

    def _workers_of(self, key: Key) -> list[SimulatedWorker]:
        return [worker for worker in self.workers.values() if worker.key == key]

    # Actions.

    def _check_drained(self) -> None:
        """A node that is drained leaves when nothing is lost by that."""
        state = self.machine.state
        assert state.is_draining
        assert not any(computation.open for computation in state.computations.values())
        assert not any(worker.records for worker in state.workers.values())
        dead = self.dead()
        for client in state.clients.values():
            assert client.id in dead or not client.batches, "a living client has not got all results"

    def _perform(self, action: core.Action) -> None:
        match action:
            case core.Tell():
                self._tell(action.client, action.message)
            case core.Drained():
                self._check_drained()
            case core.StartHost():
                assert action.key not in self.hosts
                self.hosts[action.key] = False
            case core.StopHost():
                self.hosts.pop(action.key, None)
                for worker in self._workers_of(action.key):
                    del self.workers[worker.id]
            case core.ForkWorker():
                self._fork(action)
            case core.Offer():
                self._offer(action)
            case core.Recall():
                self.handle(core.Recalled(action.worker, self.workers[action.worker].untaken()))
            case core.Cut():
                self.workers[action.worker].limit = action.position
            case core.InterruptWorker():
                worker = self.workers[action.worker]
                worker.interrupt = action.position
                worker.has_signal = True
            case core.KillWorker():
                if action.worker in self.workers:
                    self.workers[action.worker].is_condemned = True
            case core.EndWorker():
                self._end_idle(self.workers[action.worker])
            case core.Look():
                self._look(action)
            case core.Unbuffer():
                if self.workers[action.worker].claim == action.position:
                    self.workers[action.worker].unbuffer()
            case core.FlushSoon():
                assert not self.is_flush_due, "a second timer for the same results"
                self.is_flush_due = True
            case core.Pass() | core.Release():
                pass

    def _look(self, action: core.Look) -> None:
        glimpses = []
        for place in action.places:
            worker = self.workers.get(place.worker)
            if worker is not None and worker.claim == place.position:
                text = output(worker.printed)[place.stdout_at :]
                glimpses.append(core.Glimpse(place.worker, place.position, place.stdout_at, text, 0, b""))
        self.handle(core.Looked(action.key, glimpses))

    def _fork(self, action: core.ForkWorker) -> None:
        assert self.hosts[action.key], "a worker before its host"
        self.workers[action.worker] = SimulatedWorker(self, action.worker, action.key)
        alive = sum(worker.key == action.key for worker in self.workers.values())
        assert alive <= workers_max(self.cpus_most), "more workers than a host has places for"

    def _end_idle(self, worker: SimulatedWorker) -> None:
        """A worker is told to end that has had no job for long, where many have none."""
        state = self.machine.state
        assert not state.workers[worker.id].records, "a worker ends that has a job"
        assert self._idle_s(worker) >= state.idle_s, "a worker ends that was just at work"
        assert len(self.idle()) >= workers_max(state.cpus), "more workers end than are too many"
        if state.computations[worker.key].spec.setup_per_worker:
            cheap = [w for w in self.idle() if not state.computations[w.key].spec.setup_per_worker]
            assert not [w for w in cheap if self._idle_s(w) >= state.idle_s], (
                "a worker that is expensive to start ends before one that is not"
            )
        worker.is_closed = True

    def _idle_s(self, worker: SimulatedWorker) -> float:
        """For how long a worker has had no record (seconds)."""
        return 0.0 if worker.idle_since is None else self.now - worker.idle_since

    def idle(self) -> list[SimulatedWorker]:
        """Workers that have no record and may get one."""
        known = self.machine.state.workers
        return [w for w in self.workers.values() if not (known[w.id].records or known[w.id].is_killed)]

    def _offer(self, action: core.Offer) -> None:
        worker = self.workers[action.worker]
        assert not worker.is_closed, "a worker that was told to end gets a job"
        # What is sent does not change any more when the machine cuts its own copy.
        worker.socket.append(Record(action.record.record, list(action.record.jobs), action.record.live))
        assert len(worker.socket) <= 2, "more records than a socket surely holds"

    # Properties.

    def check(self) -> None:
        """What must hold between any two events."""
        state = self.machine.state
        assert state.busy == sum(bool(worker.records) for worker in state.workers.values())
        assert set(state.workers) == set(self.workers), "the machine knows other workers than there are"
        members = [worker for c in state.computations.values() for worker in c.workers]
        assert sorted(members) == sorted(state.workers)
        for key, computation in state.computations.items():
            assert state.clients[key[0]] is computation.client
            assert computation.busy == sum(bool(w.records) for w in computation.workers.values())
            self._check_jobs(computation)
            self._check_workers(computation)
            assert self.is_flush_due or not computation.untold, "results wait for nothing"
            if computation.ready and self._has_room(computation) and not is_held_off(state, computation):
                assert state.busy >= state.cpus, "a job waits while a CPU is idle"
            if computation.ready and computation.client.is_connected:
                assert state.cpus > 0, "a job is kept where it cannot run"
                assert self.limits.get(key[0], 1) > 0, "a job is kept where it cannot run"
                assert not is_held_off(state, computation), "a job is kept where it cannot run"
                assert not state.is_draining, "a node that is drained keeps a job of a living program"
            is_first = bool(self.exclusive) and key == self.exclusive[0]
            if state.is_draining:
                assert is_held_off(state, computation) == (not computation.client.is_dead)
            elif self.exclusive and (not is_first or state.busy > computation.busy):
                assert is_held_off(state, computation)
            else:
                assert not is_held_off(state, computation), "a computation is held off by nobody"
        assert [computation.key for computation in state.exclusive] == self.exclusive
        for client in state.clients.values():
            its = [c for c in state.computations.values() if c.client is client]
            assert client.busy == sum(computation.busy for computation in its)
            assert client.computations == {computation.key[1]: computation for computation in its}
        self._check_indexes()

    def _check_indexes(self) -> None:
        """Whoever is to be found by an index is in it, and what is gone is in none."""
        state = self.machine.state
        assert state.running == {w.id: w for w in state.workers.values() if w.records}
        assert set(state.silent.values()) == {c for c in state.clients.values() if not c.is_connected}
        assert state.barred == {client.id for client in state.clients.values() if not client.cpus_max}
        line_keys = {True: state.orphans.computations, False: state.living.computations}
        for key, computation in state.computations.items():
            is_dead = computation.client.is_dead
            assert key not in line_keys[not is_dead], "a computation waits in the wrong line"
            if computation.ready and computation.status is core.Status.READY:
                assert key in line_keys[is_dead], "a computation with ready jobs is in no line"
            assert key in state.active or not computation.open
            assert key in state.ahead or not computation.double
            assert key in state.unflushed or not computation.untold
            assert computation.watched <= computation.open.keys()
        indexes = (*line_keys.values(), state.active, state.ahead, state.unflushed, state.returning)
        for index in indexes:
            assert index.keys() <= state.computations.keys(), "what is gone is in an index"

    def _check_jobs(self, computation: core.Computation) -> None:
        """Every job that has not ended is ready or in a record, once."""
        there = [job.number for job in computation.ready]
        for worker in computation.workers.values():
            for record in worker.records:
                there += [job.number for job in record.jobs if computation.open.get(job.number) is job]
        assert sorted(there) == sorted(computation.open), "a job is lost, or there twice"
        in_records = {
            (job.number, job.attempt)
            for worker in computation.workers.values()
            for record in worker.records
            for job in record.jobs
        }
        assert computation.cancelling <= in_records, "cancelled jobs are remembered for ever"

    def _check_workers(self, computation: core.Computation) -> None:
        for worker in computation.workers.values():
            assert len(worker.records) <= 2
            assert (worker.id in computation.single) == (len(worker.records) == 1)
            is_open = len(worker.records) == 2 and worker.kept != worker.records[1].record
            assert (worker.id in computation.double) == is_open
            assert worker.id not in computation.idle or not (worker.records or worker.is_killed)
            if not worker.records and not worker.is_killed:
                assert worker.id in computation.idle, "a worker is forgotten"

    # Time goes by without faults.

    def settle(self, seconds: float = 0.02) -> bool:
        """Let every process do all it can and tell what there is to tell; False if nothing moved."""
        moved = False
        for key, is_ready in list(self.hosts.items()):
            if not is_ready:
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
        while worker.can_step():
            worker.step(seconds)
            moved = True
        while worker.packets and worker.id in self.workers:
            self.read_packet(worker)
            moved = True
        if worker.phase is Phase.GONE and worker.id in self.workers:
            self.reap(worker)
            moved = True
        return moved
