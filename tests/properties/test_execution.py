"""The execution machine against faithful workers and a slow, obvious idea of what a client is told."""

from __future__ import annotations

from collections import deque

from checked_node import CheckedNode
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispy.core import execution as core
from dispy.core.execution.fair_shares import is_held_off
from dispy.core.execution.ids import ClientId, Key
from dispy.protocol import node as protocol
from dispy.protocol.node import CANCELLED, TERMINATED, Attempt, FromNode, Job
from tests.models.node import SimulatedWorker
from tests.models.worker import Phase

LEASE_S = 100.0
SECONDS = st.sampled_from([2e-6, 2e-6, 2e-6, 1e-4, 0.005, 2.0])
INDEX = st.integers(0, 1 << 16)


class Caller:
    """A scheduler as a node sees it: what it believes to be there, and what it was told."""

    def __init__(self, name: int) -> None:
        self.id = ClientId(bytes([name]) * 16)
        self.is_connected = False
        self.received = 0
        self.inbox: deque[FromNode] = deque()
        self.computations: dict[int, protocol.Compute] = {}
        self.ready: set[int] = set()
        self.credit: dict[int, tuple[int, int, str]] = {}
        self.slots: core.Grant | None = None
        """Share of all its computations together."""
        self.open: dict[tuple[int, int], Job] = {}
        """Jobs by computation and number: each computation has jobs 1, 2, 3."""
        self.outcomes: dict[tuple[int, int, int], str] = {}
        self.next_numbers: dict[int, int] = {}
        self.limit = 1 << 31
        """CPUs that it wants to use."""
        self.is_asking = False
        """Whether it has sent ``TakeBack`` and was not answered."""
        self.wanted = 0
        """Jobs that it wants by that; of several that are recalled it may get more, never by one message."""

    def key(self, computation: int) -> Key:
        return (self.id, computation)


class Execution(RuleBasedStateMachine):
    """Two clients, up to four computations, any number of deaths."""

    def __init__(self) -> None:
        super().__init__()
        self.callers = [Caller(1), Caller(2)]
        self.by_id = {caller.id: caller for caller in self.callers}
        self.node = CheckedNode(2, LEASE_S, self.tell)
        self.next_computation = 1

    # What the node says.

    def tell(self, client: ClientId, message: FromNode) -> None:
        """Check what is said against what has happened, whether it arrives or not."""
        caller = self.by_id[client]
        if type(message) is protocol.JobsReturned:
            for attempt in message.attempts:
                run = (client, message.computation, attempt.number, attempt.attempt)
                assert run not in self.node.started, "a job is returned though it has started"
            self.note_returned(caller, message)
        elif type(message) is protocol.JobsEnded:
            for ended in message.ended:
                run = (client, message.computation, ended.number, ended.attempt)
                assert ended.ran or run not in self.node.started
                assert self.node.results.get(run, ended) == ended, "a result is replaced by another"
                if ended.status == TERMINATED and run not in self.node.results:
                    assert ended.reason
                if ended.status == CANCELLED:
                    assert run in self.node.cancelled, "a job ends as cancelled that was not"
                self.node.ended.add(run)
        if caller.is_connected:
            caller.inbox.append(message)

    def note_returned(self, caller: Caller, message: protocol.JobsReturned) -> None:
        """Each ``TakeBack`` has one answer, said first, and what is recalled for it follows. What else comes back
        could not run here."""
        if caller.is_asking or (caller.wanted and type(self.node.event) is core.Recalled):
            caller.is_asking = False
            assert len(message.attempts) <= caller.wanted, "more jobs come back than were wanted"
            return
        state = self.node.machine.state
        is_closed = not state.cpus or caller.limit == 0 or bool(self.node.exclusive) or state.is_draining
        assert message.reason or is_closed, "jobs come back for no reason"

    def read(self, caller: Caller) -> None:
        """A client reads one message."""
        message = caller.inbox.popleft()
        if type(message) is protocol.JobsEnded:
            assert message.batch == caller.received + 1, "a batch of results is missing, or told twice"
            caller.received = message.batch
            for ended in message.ended:
                self.end(caller, (message.computation, ended.number), ended.attempt, "ended")
        elif type(message) is protocol.JobsReturned:
            for attempt in message.attempts:
                self.end(caller, (message.computation, attempt.number), attempt.attempt, "returned")
        elif type(message) is protocol.ComputationReady:
            caller.ready.add(message.computation)
        elif type(message) is protocol.ComputationFailed:
            caller.ready.discard(message.computation)
            if message.computation in caller.computations:
                for name in [name for name in caller.open if name[0] == message.computation]:
                    self.end(caller, name, caller.open[name].attempt, "returned")
                self.send(caller, caller.computations[message.computation])
        elif type(message) is protocol.Provisional:
            answer = protocol.AcknowledgeProvisional(
                message.computation, message.number, message.attempt, message.serial
            )
            self.send(caller, answer)
        elif type(message) is protocol.Credit:
            caller.credit[message.computation] = (message.slots, message.backlog, message.reason)
        elif type(message) is protocol.NodeCredit:
            caller.slots = core.Grant(message.slots, message.slots + message.waiting, message.reason)
        elif type(message) is protocol.Reconciled:
            self.on_reconciled(caller, message)

    def end(self, caller: Caller, name: tuple[int, int], attempt: int, outcome: str) -> None:
        job = caller.open.get(name)
        if job is not None and job.attempt == attempt:
            del caller.open[name]
            assert (*name, attempt) not in caller.outcomes
            caller.outcomes[(*name, attempt)] = outcome

    def on_reconciled(self, caller: Caller, message: protocol.Reconciled) -> None:
        for number in message.computations:
            caller.ready.discard(number)
            if number in caller.computations:
                self.send(caller, caller.computations[number])
        missing = {
            (jobs.computation, a.number, a.attempt) for jobs in message.attempts for a in jobs.attempts
        }
        for number in caller.computations:
            jobs = [
                job
                for (computation, _), job in caller.open.items()
                if computation == number and (number, job.number, job.attempt) in missing
            ]
            if jobs:
                self.send(caller, protocol.RunJobs(number, jobs))

    def send(self, caller: Caller, message: protocol.ToNode) -> None:
        if caller.is_connected:
            self.node.handle(core.FromClient(caller.id, message))

    # Choosing.

    def caller(self, index: int) -> Caller | None:
        connected = [caller for caller in self.callers if caller.is_connected]
        return connected[index % len(connected)] if connected else None

    def steppable(self) -> list[SimulatedWorker]:
        return [worker for worker in self.node.workers.values() if worker.can_work()]

    def running(self) -> list[SimulatedWorker]:
        return [worker for worker in self.node.workers.values() if worker.phase is Phase.RUNNING]

    # Clients.

    @initialize(cpus=st.integers(1, 3), is_warm=st.sampled_from([True, True, False]))
    def begin(self, cpus: int, is_warm: bool) -> None:
        """One client with a computation; a warm one has run short jobs already."""
        self.node = CheckedNode(cpus, LEASE_S, self.tell)
        caller = self.callers[0]
        self.attach(caller)
        self.compute(0, False)
        if is_warm:
            self.run_jobs(0, 0, 12)
            for _ in range(8):
                self.node.settle(2e-6)

    def attach(self, caller: Caller) -> None:
        """Connect; compare what both sides hold, if they know each other."""
        known = caller.id in self.node.machine.state.clients
        if not known:
            # As after the loss of a node: what was there is given up.
            caller.open.clear()
            caller.computations.clear()
            caller.ready.clear()
            caller.received = 0
            caller.limit = 1 << 31
        caller.inbox.clear()
        caller.is_connected = True
        self.node.handle(core.ClientAttached(caller.id, "client", caller.received))
        if known:
            held = [
                protocol.HeldJobs(computation, [Attempt(job.number, job.attempt)])
                for (computation, _), job in caller.open.items()
            ]
            self.send(caller, protocol.Reconcile(held, dict.fromkeys(caller.computations, 0)))

    @precondition(lambda self: not all(caller.is_connected for caller in self.callers))
    @rule(index=st.integers(0, 1))
    def attach_one(self, index: int) -> None:
        """A client connects (again)."""
        if not self.callers[index].is_connected:
            self.attach(self.callers[index])

    @rule(index=INDEX, is_exclusive=st.sampled_from([False, False, False, True]))
    def compute(self, index: int, is_exclusive: bool) -> None:
        """A client brings a computation."""
        caller = self.caller(index)
        if caller is not None and len(caller.computations) < 2:
            number = self.next_computation
            self.next_computation += 1
            message = protocol.Compute(number, "f", b"", grace_s=5.0, exclusive=is_exclusive)
            caller.computations[number] = message
            self.send(caller, message)

    @rule(index=INDEX, which=INDEX, count=st.sampled_from([1, 2, 5, 40, 120]), is_lost=st.booleans())
    def run_more(self, index: int, which: int, count: int, is_lost: bool) -> None:
        """A client sends jobs; they may be lost with the connection."""
        self.run_jobs(index, which, count, is_lost and count == 2)

    def run_jobs(self, index: int, which: int, count: int, is_lost: bool = False) -> None:
        caller = self.caller(index)
        if caller is None or not caller.computations or len(caller.open) > 160:
            return
        computation = list(caller.computations)[which % len(caller.computations)]
        first = caller.next_numbers.get(computation, 1)
        caller.next_numbers[computation] = first + count
        jobs = [Job(first + i, 0, b"x") for i in range(count)]
        caller.open.update(((computation, job.number), job) for job in jobs)
        if is_lost:
            self.break_off(caller)
        else:
            self.send(caller, protocol.RunJobs(computation, jobs))

    @precondition(lambda self: any(caller.open for caller in self.callers))
    @rule(index=INDEX, numbers=st.lists(INDEX, max_size=4), is_old=st.booleans())
    def cancel(self, index: int, numbers: list[int], is_old: bool) -> None:
        """A client cancels jobs that it believes to be there, or an attempt that never was."""
        caller = self.caller(index)
        if caller is None or not caller.open:
            return
        entries = list(caller.open.items())
        chosen = [entries[number % len(entries)] for number in numbers]
        for computation in caller.computations:
            attempts = [
                Attempt(job.number, job.attempt + 7 * is_old)
                for (number, _), job in chosen
                if number == computation
            ]
            self.send(caller, protocol.CancelJobs(computation, attempts))

    @rule(index=INDEX, which=INDEX, count=st.integers(1, 5))
    def take_back(self, index: int, which: int, count: int) -> None:
        """A client wants jobs back."""
        caller = self.caller(index)
        if caller is not None and caller.computations:
            computation = list(caller.computations)[which % len(caller.computations)]
            caller.is_asking, caller.wanted = True, count
            self.send(caller, protocol.TakeBack(computation, count))
            assert not caller.is_asking, "a request is not answered"
            caller.wanted = 0

    @rule(index=INDEX, cpus=st.sampled_from([0, 1, 2, 9]))
    def limit(self, index: int, cpus: int) -> None:
        """A client wants to use another number of CPUs."""
        caller = self.caller(index)
        if caller is not None:
            caller.limit = cpus
            self.send(caller, protocol.LimitCpus(cpus))

    # One rule for each kind of fault, so that between two of them much goes right.

    @rule(kind=st.sampled_from(["silent", "silent", "close", "close lost", "detach"]), index=INDEX)
    def leave(self, kind: str, index: int) -> None:
        """A connection breaks, a computation is closed, a client goes for good."""
        caller = self.caller(index)
        if caller is None:
            return
        if kind == "detach" and caller is not self.callers[0]:
            self.send(caller, protocol.Detach())
            caller.inbox.clear()
            caller.is_connected = False
        elif kind == "silent":
            self.break_off(caller)
        elif len(caller.computations) > 1:
            self.close(caller, index, kind == "close lost")

    def close(self, caller: Caller, which: int, is_lost: bool) -> None:
        number = list(caller.computations)[which % len(caller.computations)]
        del caller.computations[number]
        caller.ready.discard(number)
        caller.open = {name: job for name, job in caller.open.items() if name[0] != number}
        if is_lost:
            self.break_off(caller)
        else:
            self.send(caller, protocol.CloseComputation(number))

    @precondition(lambda self: any(c.open and not c.is_connected for c in self.callers))
    @rule(index=INDEX, numbers=st.lists(INDEX, min_size=1, max_size=3))
    def give_up(self, index: int, numbers: list[int]) -> None:
        """While a connection is broken, a client ceases to want some jobs."""
        broken = [caller for caller in self.callers if not caller.is_connected and caller.open]
        caller = broken[index % len(broken)]
        for number in numbers:
            if caller.open:
                del caller.open[list(caller.open)[number % len(caller.open)]]

    def break_off(self, caller: Caller) -> None:
        """What was under way is lost."""
        caller.inbox.clear()
        caller.is_connected = False
        self.node.handle(core.ClientSilent(caller.id))

    @precondition(lambda self: any(caller.inbox for caller in self.callers))
    @rule(index=INDEX, count=st.integers(1, 6), acknowledges=st.booleans())
    def receive(self, index: int, count: int, acknowledges: bool) -> None:
        """A client reads some of what it was told."""
        caller = self.caller(index)
        if caller is not None:
            for _ in range(min(count, len(caller.inbox))):
                self.read(caller)
            if acknowledges:
                self.send(caller, protocol.Acknowledge(caller.received))

    # The node.

    @precondition(lambda self: not all(host.is_loaded for host in self.node.hosts.values()))
    @rule(is_good=st.sampled_from([True, True, False]))
    def load(self, is_good: bool) -> None:
        """A host answers."""
        for key, host in self.node.hosts.items():
            if not host.is_loaded:
                if is_good:
                    self.node.load(key)
                else:
                    self.node.fail_load(key)
                return

    @precondition(lambda self: self.steppable())
    @rule(index=INDEX, steps=st.integers(1, 20), seconds=SECONDS, is_late=st.booleans())
    def work(self, index: int, steps: int, seconds: float, is_late: bool) -> None:
        """A worker goes on."""
        workers = self.steppable()
        worker = workers[index % len(workers)]
        while steps and worker.can_work():
            worker.work(seconds, is_late)
            steps -= 1

    @precondition(lambda self: self.steppable())
    @rule(is_blocked=st.booleans())
    def start_all(self, is_blocked: bool) -> None:
        """Every worker goes on until it runs a job, which may turn out to be a long one."""
        for worker in self.steppable():
            while worker.phase is not Phase.RUNNING and worker.can_work():
                worker.work()
            worker.is_blocked = is_blocked and worker.phase is Phase.RUNNING

    @precondition(lambda self: self.running())
    @rule(index=INDEX, seconds=SECONDS, leftovers=st.sampled_from([False, False, True]))
    def finish_one(self, index: int, seconds: float, leftovers: bool) -> None:
        """A job ends, and the daemon hears of it at once; the job may leave a process behind."""
        worker = self.running()[index % len(self.running())]
        worker.work(seconds, is_late=True, leaves=leftovers)
        worker.work()
        self.read_all(worker)

    @precondition(lambda self: self.steppable())
    @rule(seconds=SECONDS)
    def work_all(self, seconds: float) -> None:
        """Everything runs that can."""
        self.node.settle(seconds)

    @precondition(lambda self: any(worker.packets for worker in self.node.workers.values()))
    @rule()
    def read_packets(self) -> None:
        """The daemon reads what workers sent."""
        for worker in list(self.node.workers.values()):
            self.read_all(worker)

    def read_all(self, worker: SimulatedWorker) -> None:
        while worker.packets and worker.id in self.node.workers:
            self.node.read_packet(worker)

    @precondition(lambda self: self.running())
    @rule(index=INDEX, is_read=st.booleans())
    def send_value(self, index: int, is_read: bool) -> None:
        """A job sends a provisional result, and goes on when it was acknowledged."""
        worker = self.running()[index % len(self.running())]
        worker.send()
        if is_read:
            self.read_all(worker)

    @precondition(lambda self: any(worker.has_signal for worker in self.node.workers.values()))
    @rule(obeys=st.booleans())
    def signal(self, obeys: bool) -> None:
        """SIGINT reaches workers."""
        for worker in self.node.workers.values():
            if worker.has_signal:
                worker.take_signal(obeys)

    @rule(kind=st.sampled_from(["worker", "worker seen", "host", "lease"]), index=INDEX)
    def die(self, kind: str, index: int) -> None:
        """A worker dies, or a host; a silent client is forgotten."""
        workers = list(self.node.workers.values())
        loaded = [key for key, host in self.node.hosts.items() if host.is_loaded]
        if kind.startswith("worker") and workers:
            worker = workers[index % len(workers)]
            self.node.kill(worker)
            if kind == "worker seen":
                self.node.reap(worker)
        elif kind == "host" and loaded:
            self.node.fail_host(loaded[index % len(loaded)])
        elif kind == "lease" and not all(caller.is_connected for caller in self.callers):
            self.node.now += LEASE_S + 1
            self.node.tick()

    @precondition(
        lambda self: any(w.is_condemned or w.phase is Phase.GONE for w in self.node.workers.values())
    )
    @rule()
    def reap(self) -> None:
        """The daemon learns of deaths; condemned workers are killed."""
        for worker in list(self.node.workers.values()):
            if worker.is_condemned:
                self.node.execute(worker)
            if worker.phase is Phase.GONE and worker.id in self.node.workers:
                self.node.reap(worker)

    @rule(seconds=st.sampled_from([0.01, 0.01, 0.01, 6.0]), count=st.integers(1, 3))
    def tick(self, seconds: float, count: int) -> None:
        """Time passes."""
        for _ in range(count):
            self.node.now += seconds
            self.node.tick()

    @precondition(lambda self: self.steppable())
    @rule(steps=st.integers(1, 4), seconds=SECONDS)
    def tick_late(self, steps: int, seconds: float) -> None:
        """Workers go on while the daemon thinks about where they were."""
        self.node.now += 0.01
        self.node.tick()
        positions = self.node.positions()
        for worker in self.steppable():
            for _ in range(steps):
                if worker.can_work():
                    worker.work(seconds)
        self.node.tick(positions)

    @precondition(lambda self: self.node.is_flush_due)
    @rule()
    def flush(self) -> None:
        """Results have waited long enough."""
        self.node.flush()

    @rule(cpus=st.integers(0, 4))
    def change_cpus(self, cpus: int) -> None:
        """The node offers another number of CPUs."""
        self.node.handle(core.CpusChanged(cpus))

    @rule()
    def drain(self) -> None:
        """The node is to leave when what runs has ended; other CPUs keep it."""
        self.node.handle(core.Drain())

    # Properties.

    @invariant()
    def check(self) -> None:
        """What must hold between any two events."""
        self.node.check()
        state = self.node.machine.state
        for caller in self.callers:
            if not caller.is_connected or caller.inbox or caller.id not in state.clients:
                continue
            here = {
                (key[1], job.number, job.attempt)
                for key, computation in state.computations.items()
                if key[0] == caller.id
                for job in [*computation.open.values(), *computation.untold]
            }
            believed = {(*name, job.attempt) for name, job in caller.open.items()}
            assert here == believed, "both sides agree once all is read"
            for number in caller.computations:
                computation = state.computations.get(caller.key(number))
                if computation is not None and computation.status is core.Status.READY:
                    assert number in caller.ready, "a client is never told that its computation is loaded"
                    self.check_credit(caller, computation)

    def check_credit(self, caller: Caller, computation: core.Computation) -> None:
        """A client knows its credit, which is that of the node where nobody else wants it."""
        state = self.node.machine.state
        slots, backlog, reason = caller.credit[computation.key[1]]
        assert (slots, backlog, reason) == computation.credit, "a client has another credit than granted"
        most = min(state.cpus, caller.limit)
        share = caller.slots
        assert share is not None
        assert share == computation.client.grant, "a client has another share than granted"
        assert share.slots <= most
        assert share.reason or share.slots == state.cpus, "a client has less than the node without a word"
        assert reason or slots == (state.cpus if most else 0)
        others = [c for c in state.computations.values() if c.client is not computation.client]
        if is_held_off(state, computation) or state.is_draining:
            assert (slots, backlog) == (0, 0)
        elif not others:
            assert share.slots == most

    def teardown(self) -> None:
        """After the last fault everything ends, and nothing waits behind a long job."""
        if self.node.machine.state.cpus == 0 or self.node.machine.state.is_draining:
            self.node.handle(core.CpusChanged(1))
        for caller in self.callers:
            if not caller.is_connected:
                self.attach(caller)
            if caller.limit == 0:
                caller.limit = 1
                self.send(caller, protocol.LimitCpus(1))
        self.quiesce()
        state = self.node.machine.state
        waiting = [
            number
            for key, computation in state.computations.items()
            for number, job in computation.open.items()
            if (*key, number, job.attempt) not in self.node.started
        ]
        has_limits = any(caller.limit < state.cpus for caller in self.callers)
        assert state.busy >= state.cpus or not waiting or has_limits, f"{waiting} wait behind long jobs"
        for _ in range(200):
            for worker in self.node.workers.values():
                worker.is_blocked = False
            self.quiesce()
            if not any(worker.is_blocked for worker in self.node.workers.values()):
                break
        for caller in self.callers:
            assert not caller.open, f"{list(caller.open)} never end"
            assert not state.clients[caller.id].sent.kept
        assert state.busy == 0
        for computation in state.computations.values():
            assert not computation.cancelling
            assert not computation.open

    def quiesce(self) -> None:
        """Let everything happen that can, without faults."""
        still = 0
        for _ in range(300):
            moved = self.node.settle()
            self.check()
            for caller in self.callers:
                while caller.inbox:
                    self.read(caller)
                    moved = True
                self.send(caller, protocol.Acknowledge(caller.received))
            self.node.now += 6.0
            self.node.tick()
            still = 0 if moved else still + 1
            if still > 3:
                return
        raise AssertionError("the node never comes to rest")


TestExecution = Execution.TestCase
