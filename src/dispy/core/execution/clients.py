"""Clients of a node: how they come, fall silent, come back and go."""

from __future__ import annotations

from dispy.core.execution import live_output
from dispy.core.execution.actions import Erase, Outbox, StopHost, Tell
from dispy.core.execution.computations import drop_computation, forget_computation, leave
from dispy.core.execution.dispatch import recall_ahead
from dispy.core.execution.events import ClientAttached, ClientSilent, CpusChanged, Stopping
from dispy.core.execution.fair_shares import (
    ask_exclusive,
    leave_exclusive,
    restrict,
    share_out,
    tell_credit,
)
from dispy.core.execution.ids import Seconds
from dispy.core.execution.job_files import give_up_staging
from dispy.core.execution.jobs import cancel_in_records, drop_unstarted, give_up_values, release
from dispy.core.execution.retention import come_back, forget_lost, go_away, has_segments, store_all
from dispy.core.execution.state import UNTOLD, Client, Computation, State, Status
from dispy.core.execution.workers import flush
from dispy.protocol.node import (
    DRAINING,
    Attempt,
    ComputationReady,
    Detach,
    LimitCpus,
    NodeCpus,
    Reconcile,
    Reconciled,
)


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


def on_client_silent(state: State, out: Outbox, event: ClientSilent, now: Seconds) -> None:
    """Jobs of a client that is away go on, but its time is running out."""
    client = state.clients.get(event.client)
    if client is not None:
        client.is_connected = False
        client.silent_since = now - event.since_s
        give_up_values(state, out, client)
        if client.is_recovering:
            forget_empty(state, out, client, now)


def watch_clients(state: State, out: Outbox, now: Seconds) -> None:
    """Time passes: for clients that are silent it means something."""
    for client in list(state.clients.values()):
        if client.is_connected:
            continue
        silent_s = now - client.silent_since
        if silent_s > state.lease_s:
            forget_client(state, out, client, now)
            continue
        if silent_s >= state.silence_s and not client.is_dead:
            client.is_dead = client.was_away = True
            leave_exclusive(state, [c for c in state.computations.values() if c.client is client])
            recall_ahead(state, out)
            share_out(state, out, now)
            go_away(state, out, client)
            if state.is_draining:
                give_up_staging(state, out, client, now)
        if client.is_dead:
            _retire_idle(state, out, client, now)


def _retire_idle(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Let the processes and the data of a computation go that has nothing to do any more.

    A client that comes back in time finds that it has to send the computation again.
    """
    mine = [c for key, c in state.computations.items() if key[0] == client.id]
    for computation in mine:
        if not computation.open and not computation.untold and not has_segments(client, computation):
            forget_computation(state, out, computation, now)


def on_detach(state: State, out: Outbox, client: Client, message: Detach, now: Seconds) -> None:
    """A client goes for good."""
    forget_client(state, out, client, now)


def forget_empty(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Who has recovered goes: a client that has nothing here any more does not come back."""
    if not client.batches and not any(key[0] == client.id for key in state.computations):
        forget_client(state, out, client, now)


def forget_client(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Drop all that a client had here."""
    computations = [c for c in state.computations.values() if c.client is client]
    out.extend(StopHost(computation.key) for computation in computations)
    drop_client(state, out, client)
    leave(state, out, computations, now)


def drop_client(state: State, out: Outbox, client: Client) -> None:
    """Drop all that a client had in memory and on disk; its processes are somebody else's."""
    for computation in [c for c in state.computations.values() if c.client is client]:
        drop_computation(state, computation)
    state.clients.pop(client.id, None)
    if client.was_away or client.stored:
        out.append(Erase(client.id, [], gone=True))


def on_stopping(state: State, out: Outbox, event: Stopping, now: Seconds) -> None:
    """The node has ended all processes: store what there is, but not for those who have gone for good.

    For whoever else it is that does not come back, that costs little.
    """
    flush(state, out)
    for gone in event.gone:
        client = state.clients.get(gone)
        if client is not None:
            drop_client(state, out, client)
    for client in state.clients.values():
        if client.batches or any(key[0] == client.id for key in state.computations):
            store_all(state, out, client)


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


def on_limit_cpus(state: State, out: Outbox, client: Client, message: LimitCpus, now: Seconds) -> None:
    """A client wants fewer of its jobs to run at once, or more again; what runs above that goes on."""
    client.cpus_max = message.cpus
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)


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
