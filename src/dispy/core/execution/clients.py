"""Clients of a node: they connect, fall silent, come back, and leave or lose their lease.

Theory of operation. A client is a scheduler; its identity stays the same over all its connections. When a connection
breaks, the client is *silent*: its jobs go on, and it keeps its fair share. After ``State.silence_s`` it is *dead*:
it has no share, and its results go to disk (``retention``). It may come back until its *lease* ends,
``State.lease_s`` after it was last heard. After a reconnect both sides compare what they hold (``Reconcile``).

| state     | event                                | next      | what is sent                                       |
|-----------|--------------------------------------|-----------|----------------------------------------------------|
| none      | ClientAttached                       | connected |                                                    |
| none      | Restored: results found on disk      | dead      |                                                    |
| connected | ClientSilent                         | silent    | Pass: values on their way are not delivered        |
| silent    | ClientAttached                       | connected | output and results that were not acknowledged      |
| silent    | tick, after ``silence_s``            | dead      | NoteOpen, Store                                    |
| dead      | ClientAttached                       | connected | as from silent, results on disk with TellStored    |
| dead      | tick, a computation has no job left  | dead      | StopHost                                           |
| connected | Detach                               | none      | StopHost, Erase                                    |
| silent,   | tick, after ``lease_s``              | none      | StopHost, Erase                                    |
| dead      |                                      |           |                                                    |
| connected | ClientSilent, recovery, nothing left | none      | StopHost, Erase                                    |
| any       | Stopping: the node ends              |           | NoteOpen, Store; Erase for clients that have left  |
"""

from __future__ import annotations

from dispy.core.execution import live_output
from dispy.core.execution.actions import Erase, Outbox, StopHost, Tell
from dispy.core.execution.computations import drop_computation, forget_computation
from dispy.core.execution.dispatch import recall_ahead
from dispy.core.execution.events import ClientAttached, ClientSilent, CpusChanged, Stopping
from dispy.core.execution.fair_shares import (
    ask_exclusive,
    change_line,
    leave_exclusive,
    recredit,
    restrict,
    share_out,
    tell_credit,
    tell_slots,
)
from dispy.core.execution.ids import Seconds
from dispy.core.execution.job_files import give_up_staging
from dispy.core.execution.jobs import (
    cancel_in_records,
    drop_unstarted,
    give_up_values,
    release,
    segments_of,
)
from dispy.core.execution.retention import come_back, forget_lost, go_away, has_segments, store_all
from dispy.core.execution.state import UNTOLD, Client, Computation, State, Status
from dispy.core.execution.workers import flush
from dispy.protocol.node import (
    DRAINING,
    ComputationReady,
    Detach,
    HeldJobs,
    LimitCpus,
    NodeCpus,
    Reconcile,
    Reconciled,
)


def on_client_attached(state: State, out: Outbox, event: ClientAttached, now: Seconds) -> None:
    """Note a client that has connected. If it is known, repeat the output and results that it has not acknowledged.

    A client that was dead has its share of the CPUs again. A client that comes while the node drains is told so.
    """
    client = state.clients.get(event.client)
    if state.is_draining:
        # The ``Welcome`` to it has offered no CPUs, and not said why.
        out.append(Tell(event.client, NodeCpus(0, DRAINING)))
    if client is None:
        state.clients[event.client] = Client(event.client, event.name)
        return
    # Output before the ends of the same jobs.
    live_output.tell_again(state, out, client)
    state.silent.pop(client.id, None)
    state.is_swept = False
    if client.is_dead:
        client.is_dead = False
        client.vtime = max(client.vtime, state.level)
        change_line(state, client)
        for computation in client.computations.values():
            ask_exclusive(state, computation)
        restrict(state)
        share_out(state, out, now)
    come_back(state, out, client, event.received)


def on_client_silent(state: State, out: Outbox, event: ClientSilent, now: Seconds) -> None:
    """The connection to a client broke: its jobs go on, and the client may come back until its lease ends.

    Jobs that wait for the acknowledgement of a provisional result are told that it was not delivered. If the
    connection was that of a recovery, and nothing of the client is left here, the client is forgotten.
    """
    client = state.clients.get(event.client)
    if client is not None:
        client.is_connected = False
        client.silent_since = now - event.since_s
        state.silent[client.id] = client
        give_up_values(state, out, client)
        if client.is_recovering:
            forget_empty(state, out, client, now)


def watch_clients(state: State, out: Outbox, now: Seconds) -> None:
    """Declare silent clients dead after ``silence_s``, and forget them when their lease ends. Call at each tick.

    Results of a dead client go to disk; its jobs run on, on CPUs that no other client wants. The jobs of a client
    that is forgotten are ended, and its results deleted.
    """
    for client in list(state.silent.values()):
        silent_s = now - client.silent_since
        if silent_s > state.lease_s:
            forget_client(state, out, client, now)
            continue
        if silent_s >= state.silence_s and not client.is_dead:
            client.is_dead = client.was_away = True
            change_line(state, client)
            leave_exclusive(state, list(client.computations.values()))
            recall_ahead(state, out)
            share_out(state, out, now)
            go_away(state, out, client)
            if state.is_draining:
                give_up_staging(state, out, client, now)
        if client.is_dead:
            _retire_idle(state, out, client, now)


def _retire_idle(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Forget computations of a dead client that have no open job, no unsent result and no result in a segment.

    Called at each tick, so that the processes of a dead program end with its last job. A client that comes back in
    time is told in ``Reconciled`` that it has to send the computation again.
    """
    for computation in list(client.computations.values()):
        if not computation.open and not computation.untold and not has_segments(client, computation):
            forget_computation(state, out, computation, now)


def on_detach(state: State, out: Outbox, client: Client, message: Detach, now: Seconds) -> None:
    """Forget a client that says that it leaves for good (``Detach``), with its jobs and results; running jobs end."""
    forget_client(state, out, client, now)


def forget_empty(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Forget a client if neither a computation nor an unacknowledged result of it is here; else do nothing.

    Called when the connection of a recovery ends: the client itself, a dead program, never comes back, and would
    otherwise be kept until its lease ends.
    """
    if not client.sent.kept and not client.computations:
        forget_client(state, out, client, now)


def forget_client(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """Forget a client with its jobs and results, stop its processes, and give its share of the CPUs to the others."""
    computations = list(client.computations.values())
    out.extend(StopHost(computation.key) for computation in computations)
    drop_client(state, out, client)
    leave_exclusive(state, computations)
    share_out(state, out, now)


def drop_client(state: State, out: Outbox, client: Client) -> None:
    """Forget a client with its computations, jobs and results, in memory and on disk.

    The caller stops the processes of the computations (``StopHost``) and shares out the CPUs that they used.
    """
    for computation in list(client.computations.values()):
        drop_computation(state, computation)
    state.clients.pop(client.id, None)
    state.silent.pop(client.id, None)
    state.barred.discard(client.id)
    for line in (state.living, state.orphans):
        line.clients.discard(client)
    if client.was_away or client.stored:
        out.append(Erase(client.id, [], gone=True))


def on_stopping(state: State, out: Outbox, event: Stopping, now: Seconds) -> None:
    """The node stops: store the results and the list of open jobs of each client, for the node's next incarnation.

    Nothing is stored for clients that have left for good. Whether any other client comes back is not known; storing
    its results costs little.
    """
    flush(state, out)
    for gone in event.gone:
        client = state.clients.get(gone)
        if client is not None:
            drop_client(state, out, client)
    for client in state.clients.values():
        if client.sent.kept or client.computations:
            store_all(state, out, client)


def on_reconcile(state: State, out: Outbox, client: Client, message: Reconcile, now: Seconds) -> None:
    """Compare with a client after its reconnect: end attempts that it no longer wants, and answer ``Reconciled``.

    The answer names the attempts and computations that are not here, so that the client sends them again.
    Computations of which the client names no generation, or another one, are forgotten with their jobs.
    """
    flush(state, out)
    forget_lost(out, client)
    client.told = None
    if client.computations:
        # It may have been told to a connection that was gone already.
        tell_slots(out, client)
    wanted: dict[int, set[tuple[int, int]]] = {}
    for jobs in message.attempts:
        wanted.setdefault(jobs.computation, set()).update([(a.number, a.attempt) for a in jobs.attempts])
    held: dict[int, set[tuple[int, int]]] = {}
    for batch in client.sent.kept:
        held.setdefault(batch.computation, set()).update([(e.number, e.attempt) for e in batch.ended])
    for number, computation in list(client.computations.items()):
        if message.computations.get(number) != computation.spec.life:
            forget_computation(state, out, computation, now)
            continue
        attempts = {(job.number, job.attempt) for job in computation.open.values()}
        held.setdefault(number, set()).update(attempts)
        obsolete = {job for job, _ in attempts - wanted.get(number, set())}
        if obsolete:
            _end_obsolete(out, computation, obsolete, now)
        computation.credit = UNTOLD
        if computation.status is Status.READY:
            # It may have been told to a connection that was gone already.
            out.append(Tell(client.id, ComputationReady(number, computation.spec.life)))
            tell_credit(state, out, computation)
    unknown = []
    for jobs in message.attempts:
        here = held.get(jobs.computation, ())
        lost = [attempt for attempt in jobs.attempts if (attempt.number, attempt.attempt) not in here]
        if lost:
            unknown.append(HeldJobs(jobs.computation, lost))
    missing = [number for number in message.computations if (client.id, number) not in state.computations]
    out.append(Tell(client.id, Reconciled(unknown, missing)))


def _end_obsolete(out: Outbox, computation: Computation, numbers: set[int], now: Seconds) -> None:
    """End open jobs (by number) that the client no longer wants: drop waiting ones, end others as if cancelled.

    Called after a reconnect, for attempts that the client has not named. The client is not told that they end.
    """
    waiting = [*computation.ready, *computation.staging.values()]
    release(out, computation.key, segments_of([job for job in waiting if job.number in numbers]))
    drop_unstarted(out, computation, numbers)
    attempts = {(number, computation.open.pop(number).attempt) for number in numbers}
    computation.watched -= numbers
    cancel_in_records(out, computation, attempts, now)


def on_limit_cpus(state: State, out: Outbox, client: Client, message: LimitCpus, now: Seconds) -> None:
    """Set how many jobs of a client may run here at once, as the client asks (``LimitCpus``).

    Running jobs above the limit go on. Waiting jobs above the limit stay in the queue; with limit 0 they go back.
    """
    client.cpus_max = message.cpus
    if message.cpus:
        state.barred.discard(client.id)
    else:
        state.barred.add(client.id)
        state.is_swept = False
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)


def on_cpus_changed(state: State, out: Outbox, event: CpusChanged, now: Seconds) -> None:
    """Offer another number of CPUs, and tell all clients. More than 0 CPUs end the draining of the node.

    Running jobs go on, also if they are more than the CPUs. With 0 CPUs the jobs in the queues go back to their
    clients.
    """
    state.cpus = event.cpus
    if event.cpus:
        state.is_draining = False
    reason = DRAINING if state.is_draining else ""
    out.extend(Tell(client.id, NodeCpus(event.cpus, reason)) for client in state.clients.values())
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)
    for computation in state.computations.values():
        recredit(state, out, computation)
