"""Clients of a node and the computations they bring: how they come, come back and go."""

from __future__ import annotations

from dispy.core.execution import live_output
from dispy.core.execution.actions import Outbox, StartHost, Tell
from dispy.core.execution.dispatch import recall_ahead
from dispy.core.execution.events import ClientAttached, ClientSilent, CpusChanged, HostFailed, HostReady
from dispy.core.execution.fair_shares import ask_exclusive, restrict, share_out, tell_credit
from dispy.core.execution.ids import Key, Seconds
from dispy.core.execution.job_files import load
from dispy.core.execution.jobs import cancel_in_records, drop_unstarted, give_up_values, release
from dispy.core.execution.retention import (
    close_recovered,
    come_back,
    drop_batches,
    forget_empty,
    forget_lost,
)
from dispy.core.execution.state import UNTOLD, Client, Computation, State, Status
from dispy.core.execution.workers import (
    drop_workers,
    flush,
    forget_client,
    forget_computation,
    give_up,
    on_worker_exited,
)
from dispy.protocol.node import (
    DRAINING,
    Acknowledge,
    Attempt,
    CloseComputation,
    ComputationReady,
    Compute,
    Detach,
    LimitCpus,
    NodeCpus,
    Reconcile,
    Reconciled,
)
from dispy.protocol.output import cut_reason

__all__ = ["Client"]

RESTARTS_S = (0.0, 0.5, 2.0)
"""After what time a host is started again that has died (seconds), as often in a row without a job having ended:
at once, as its death may be nobody's fault; then with pauses, in which what it lacked may come back."""


def on_client_attached(state: State, out: Outbox, event: ClientAttached, now: Seconds) -> None:
    """Know a client, or know it again and repeat the results that it does not have."""
    client = state.clients.get(event.client)
    if state.is_draining:
        # Its welcome has offered no CPUs, and not said why.
        out.append(Tell(event.client, NodeCpus(0, DRAINING)))
    if client is None:
        state.clients[event.client] = Client(event.client, event.name)
        return
    # Before the ends of those jobs.
    live_output.tell_again(state, out, client)
    if client.is_dead:
        client.is_dead = False
        client.vtime = max(client.vtime, state.level)
        for computation in state.computations.values():
            if computation.client is client:
                ask_exclusive(state, computation)
        restrict(state)
        share_out(state, out, now)
    come_back(state, out, client, event.received)


def segments_held(state: State, key: Key) -> set[int]:
    """Segments with results of a computation that have not been acknowledged, or not even told."""
    client, computation = state.clients.get(key[0]), state.computations.get(key)
    results = list(computation.untold) if computation is not None else []
    for batch in client.batches if client is not None else ():
        if batch.computation == key[1]:
            results += batch.ended
    return {segment for result in results for segment in (result.stream, result.output_stream)}


def on_acknowledge(state: State, out: Outbox, client: Client, message: Acknowledge, now: Seconds) -> None:
    """Forget results that have arrived."""
    drop_batches(out, client, message.batch)


def on_client_silent(state: State, out: Outbox, event: ClientSilent, now: Seconds) -> None:
    """Jobs of a client that is away go on, but its time is running out."""
    client = state.clients.get(event.client)
    if client is not None:
        client.is_connected = False
        client.silent_since = now - event.since_s
        give_up_values(state, out, client)
        if client.is_recovering:
            forget_empty(state, out, client, now)


def on_detach(state: State, out: Outbox, client: Client, message: Detach, now: Seconds) -> None:
    """A client goes for good."""
    forget_client(state, out, client, now)


def on_limit_cpus(state: State, out: Outbox, client: Client, message: LimitCpus, now: Seconds) -> None:
    """A client wants fewer of its jobs to run at once, or more again; what runs above that goes on."""
    client.cpus_max = message.cpus
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)


def on_compute(state: State, out: Outbox, client: Client, message: Compute, now: Seconds) -> None:
    """Load a computation, once."""
    key = (client.id, message.computation)
    computation = state.computations.get(key)
    if computation is not None and computation.spec.life != message.life:
        forget_computation(state, out, computation, now)
        computation = None
    if computation is None:
        computation = state.computations[key] = Computation(key, client, message)
        if message.live:
            live_output.watch(state, computation, [])
        load(out, computation)
        ask_exclusive(state, computation)
        restrict(state)
        share_out(state, out, now)
    elif computation.status is Status.READY:
        out.append(Tell(client.id, ComputationReady(message.computation, message.life)))
        computation.credit = UNTOLD
        tell_credit(state, out, computation)


def on_close_computation(
    state: State, out: Outbox, client: Client, message: CloseComputation, now: Seconds
) -> None:
    """Forget a computation and whatever of it still runs."""
    computation = state.computations.get((client.id, message.computation))
    if computation is not None:
        forget_computation(state, out, computation, now)
    if client.is_recovering:
        close_recovered(state, out, client, message.computation)


def on_host_ready(state: State, out: Outbox, event: HostReady, now: Seconds) -> None:
    """A computation can take jobs."""
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.READY
    # What is sampled once holds for a host that was started again, too.
    computation.credit = UNTOLD
    ready = ComputationReady(event.key[1], computation.spec.life, cut_reason(event.warning))
    out.append(Tell(computation.client.id, ready))
    tell_credit(state, out, computation)


def on_host_failed(state: State, out: Outbox, event: HostFailed, now: Seconds) -> None:
    """A host is gone with all its workers: what ran has ended, what did not goes back."""
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.LOADING
    for exited in event.exits:
        on_worker_exited(state, out, exited, now)
    flush(state, out)
    drop_workers(state, computation)
    computation.crashes += 1
    if event.has_died and computation.crashes <= len(RESTARTS_S):
        # Whoever kills a host may not mean the computation. What had not started is still here.
        out.append(StartHost(event.key, computation.spec, RESTARTS_S[computation.crashes - 1]))
        return
    give_up(state, out, computation, event.reason, now)


def on_reconcile(state: State, out: Outbox, client: Client, message: Reconcile, now: Seconds) -> None:
    """After a reconnect: end what the client no longer wants, name what has not arrived here."""
    flush(state, out)
    forget_lost(out, client)
    wanted = {(a.number, a.attempt) for a in message.attempts}
    mine = {key[1]: c for key, c in state.computations.items() if key[0] == client.id}
    held = {(e.number, e.attempt) for batch in client.batches for e in batch.ended}
    for number, computation in mine.items():
        if message.computations.get(number) != computation.spec.life:
            forget_computation(state, out, computation, now)
            continue
        held.update((job.number, job.attempt) for job in computation.open.values())
        obsolete = {
            job.number for job in computation.open.values() if (job.number, job.attempt) not in wanted
        }
        if obsolete:
            _end_obsolete(out, computation, obsolete, now)
        computation.credit = UNTOLD
        if computation.status is Status.READY:
            # Told before, perhaps, to a connection that was gone already.
            out.append(Tell(client.id, ComputationReady(number, computation.spec.life)))
            tell_credit(state, out, computation)
    unknown = [Attempt(a.number, a.attempt) for a in message.attempts if (a.number, a.attempt) not in held]
    missing = [number for number in message.computations if (client.id, number) not in state.computations]
    out.append(Tell(client.id, Reconciled(unknown, missing)))


def _end_obsolete(out: Outbox, computation: Computation, numbers: set[int], now: Seconds) -> None:
    """Nobody wants these attempts: drop those waiting, end the others as if cancelled, untold."""
    waiting = [*computation.ready, *computation.staging.values()]
    release(out, computation.key, [job.stream for job in waiting if job.number in numbers])
    drop_unstarted(out, computation, numbers)
    attempts = {(number, computation.open.pop(number).attempt) for number in numbers}
    cancel_in_records(out, computation, attempts, now)


def on_cpus_changed(state: State, out: Outbox, event: CpusChanged, now: Seconds) -> None:
    """Offer another number of CPUs; what runs above it goes on. More than 0 end the draining of the node."""
    state.cpus = event.cpus
    if event.cpus:
        state.is_draining = False
    reason = DRAINING if state.is_draining else ""
    out.extend(Tell(client.id, NodeCpus(event.cpus, reason)) for client in state.clients.values())
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)
