"""A simulated node whose every decision is checked against a slow, obvious account of turns, limits and runs."""

from __future__ import annotations

from collections.abc import Callable

from dispy.core import execution as core
from dispy.core.execution.dispatch import IDLE_LOOK_S, workers_max
from dispy.core.execution.fair_shares import is_held_off
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.protocol.node import CancelJobs, Compute, FromNode, LimitCpus
from tests.models import invariants
from tests.models.node import SILENCE_S, RunKey, SimulatedNode, SimulatedWorker
from tests.models.worker import Phase


class CheckedNode(SimulatedNode):
    """A node, and who is due, found out in another way.

    Attributes:
        started: Runs that workers have begun.
        ended: What no client will ever see again as running: told as ended or returned.
        cancelled: What clients have cancelled.
        exclusive: Computations that have asked for the node alone, in their order.
        silent_since: When the connections of clients broke.
        limits: What clients have asked for with ``LimitCpus``.
        event: What is being handled.
    """

    def __init__(self, cpus: int, lease_s: float, tell: Callable[[ClientId, FromNode], None]) -> None:
        super().__init__(cpus, lease_s, tell)
        self.started: set[RunKey] = set()
        self.ended: set[RunKey] = set()
        self.cancelled: set[RunKey] = set()
        self.exclusive: list[Key] = []
        self.silent_since: dict[ClientId, float] = {}
        self.limits: dict[ClientId, int] = {}
        self.event: core.Event = core.Flush()
        self._offers: list[core.Offer] = []
        self._idle_since: dict[WorkerId, float] = {}
        """When workers had no record any more, as the daemon knows; those that have one are missing."""

    # What is told, decided and done.

    def decide(self, event: core.Event) -> None:
        """Note what is told before, and check what was decided after."""
        state = self.machine.state
        before = state.busy
        busy_before = {client.id: client.busy for client in state.clients.values()}
        self.event = event
        if type(event) is core.FromClient and type(event.message) is CancelJobs:
            number = event.message.computation
            self.cancelled |= {(event.client, number, a.number, a.attempt) for a in event.message.attempts}
        self._note_claims(event)
        super().decide(event)
        assert not (wrong := invariants.find_in_node(state, before)), wrong
        for client in state.clients.values():
            most = max(self.limits.get(client.id, client.busy), busy_before.get(client.id, 0))
            assert client.busy <= most, "a client uses more CPUs than it wanted"

    def act(self, actions: list[core.Action]) -> None:
        """Check who gets new work, and that nothing is lost with a node that leaves."""
        self._note_idle()
        assert not (wrong := invariants.find_offered(self.machine.state, actions)), wrong
        self._check_offers([action for action in actions if type(action) is core.Offer])
        if any(type(action) is core.Drained for action in actions):
            self._check_drained()
        for action in actions:
            if type(action) is core.EndWorker:
                self._check_end(action)
        super().act(actions)

    def on_start(self, run: RunKey) -> None:
        """A worker begins a job."""
        assert run not in self.started, f"{run[1:]} is run twice"
        assert run not in self.ended, f"{run[1:]} is run after it was told as ended or returned"
        self.started.add(run)

    def execute(self, worker: SimulatedWorker) -> None:
        """Nothing that is wanted must die with a worker that the machine wants dead."""
        if worker.phase in (Phase.STARTED, Phase.RUNNING, Phase.SENDING):
            run = worker.run_key()
            current = self.machine.state.workers[worker.id].computation.open.get(run[2])
            is_wanted = current is not None and current.attempt == run[3]
            assert run in self.cancelled or not is_wanted, f"job {run[2]} dies for another"
        super().execute(worker)

    # Whose turn it is.

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
            computation = state.workers[offer.worker].computation
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

    def _check_drained(self) -> None:
        """A node that is drained leaves when nothing is lost by that."""
        state = self.machine.state
        assert state.is_draining
        assert not any(computation.open for computation in state.computations.values())
        assert not any(worker.records for worker in state.workers.values())
        dead = self.dead()
        for client in state.clients.values():
            assert client.id in dead or not client.sent.kept, "a living client has not got all results"

    # Between any two events.

    def check(self) -> None:
        """The state is sound, and nothing is kept, held off or left waiting that need not be."""
        state = self.machine.state
        assert not (wrong := invariants.find_slowly_in_node(state)), wrong
        assert set(state.workers) == set(self.workers), "the machine knows other workers than there are"
        for key, computation in state.computations.items():
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
        self._check_indexes()
        old = [w for w in self.idle() if self._idle_s(w) >= state.idle_s + IDLE_LOOK_S]
        assert len(old) <= workers_max(state.cpus), "too many workers are idle for too long"

    def _note_idle(self) -> None:
        """Note since when workers have no record."""
        for worker in self.workers:
            known = self.machine.state.workers.get(worker)
            if known is not None and known.records:
                self._idle_since.pop(worker, None)
            else:
                self._idle_since.setdefault(worker, self.now)

    def idle(self) -> list[WorkerId]:
        """Workers that have no record and may get one."""
        known = self.machine.state.workers
        return [w for w in self.workers if w in known and not (known[w].records or known[w].is_killed)]

    def _idle_s(self, worker: WorkerId) -> float:
        """For how long a worker has had no record (seconds)."""
        return self.now - self._idle_since.get(worker, self.now)

    def _check_end(self, action: core.EndWorker) -> None:
        """A worker is told to end that has had no job for long, where many have none."""
        state = self.machine.state
        ending = state.workers[action.worker]
        assert not ending.records, "a worker ends that has a job"
        assert self._idle_s(action.worker) >= state.idle_s, "a worker ends that was just at work"
        if ending.computation.spec.setup_per_worker:
            cheap = [w for w in self.idle() if not state.workers[w].computation.spec.setup_per_worker]
            assert not [w for w in cheap if self._idle_s(w) >= state.idle_s], (
                "a worker that is expensive to start ends before one that is not"
            )

    def _check_indexes(self) -> None:
        """Whoever is to be found by an index is in it, and what is gone is in none."""
        state = self.machine.state
        assert state.running == {w.id: w for w in state.workers.values() if w.records}
        assert set(state.silent.values()) == {c for c in state.clients.values() if not c.is_connected}
        assert state.barred == {client.id for client in state.clients.values() if not client.cpus_max}
        for client in state.clients.values():
            its = [
                computation for computation in state.computations.values() if computation.client is client
            ]
            assert client.computations == {computation.key[1]: computation for computation in its}
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
            for worker in computation.workers.values():
                is_open = len(worker.records) == 2 and worker.kept != worker.records[1].record
                assert (worker.id in computation.double) == is_open
        indexes = (*line_keys.values(), state.active, state.ahead, state.unflushed, state.returning)
        for index in indexes:
            assert index.keys() <= state.computations.keys(), "what is gone is in an index"
