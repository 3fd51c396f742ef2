"""What is kept for clients that are away: their results go to disk, until they come back, or somebody recovers
them, or the lease ends.

A client that is silent for longer than the limit is *away*. What it was given goes on, to the end. Its results
are stored, those that lie here at once and the others as they come; and so is, in a list, what has not ended,
so that the next incarnation of the node can say what was lost with this one.
"""

from __future__ import annotations

from dispy.core.execution.actions import DropNote, Erase, NoteOpen, Outbox, Store, Tell, TellStored
from dispy.core.execution.events import Restored, Stored
from dispy.core.execution.ids import ClientId, Key, Seconds
from dispy.core.execution.job_files import give_up_staging
from dispy.core.execution.jobs import release
from dispy.core.execution.state import Client, Computation, State
from dispy.core.execution.workers import flush
from dispy.protocol.limits import OPEN_JOBS_MAX
from dispy.protocol.node import Acknowledge, Attempt, Ended, Held, HeldJobs, JobsEnded, Recover


def go_away(state: State, out: Outbox, client: Client) -> None:
    flush(state, out)
    if not client.batches and not any(key[0] == client.id for key in state.computations):
        return
    store_all(state, out, client)


def store_all(state: State, out: Outbox, client: Client) -> None:
    if not client.has_gaps:
        out.append(
            NoteOpen(client.id, client.name, client.lost + _unsaved(state, client), client.next_batch)
        )
    out.extend(
        Store(client.id, client.name, batch) for batch in client.batches if batch.batch not in client.stored
    )


def _open_jobs(state: State, client: Client) -> list[HeldJobs]:
    return [
        HeldJobs(key[1], [Attempt(job.number, job.attempt) for job in computation.open.values()])
        for key, computation in state.computations.items()
        if key[0] == client.id and computation.open
    ]


def _unsaved(state: State, client: Client) -> list[HeldJobs]:
    """Jobs that are lost with this node until more of their results are on disk.

    Those that have ended are among them: the disk may be full, or we may be killed before they are written.
    Nobody must then take them for jobs that were never started.
    """
    ended = [
        HeldJobs(batch.computation, [Attempt(e.number, e.attempt) for e in batch.ended])
        for batch in client.batches
        if batch.batch not in client.stored
    ]
    attempts_by_computation: dict[int, list[Attempt]] = {}
    for jobs in ended + _open_jobs(state, client):
        attempts_by_computation.setdefault(jobs.computation, []).extend(jobs.attempts)
    return [HeldJobs(number, attempts) for number, attempts in attempts_by_computation.items()]


def has_segments(client: Client, computation: Computation) -> bool:
    """Whether results lie where they would go with the computation."""
    return any(
        ended.stream or ended.output_stream
        for batch in client.batches
        if batch.computation == computation.key[1]
        for ended in batch.ended
    )


def on_stored(state: State, out: Outbox, event: Stored, now: Seconds) -> None:
    """Results are on disk: what lies here of them can go."""
    client = state.clients.get(event.client)
    if client is None:
        out.append(Erase(event.client, [], gone=True))
        return
    stored = set(event.batches)
    kept = [batch for batch in client.batches if batch.batch in stored]
    for batch in kept:
        drop_segments(out, client.id, batch)
        batch.ended = [_bare(ended) for ended in batch.ended]
        client.stored.add(batch.batch)
    useless = stored.difference(batch.batch for batch in kept)
    if useless:
        out.append(Erase(client.id, sorted(useless)))


def _bare(ended: Ended) -> Ended:
    return Ended(ended.number, ended.attempt, ended.status, ended.start, ended.end, b"", ran=ended.ran)


def drop_segments(out: Outbox, client: ClientId, batch: JobsEnded) -> None:
    """Let go of the segments in which results lie."""
    segments = [s for ended in batch.ended if ended.stream or ended.output_stream
                for s in (ended.stream, ended.output_stream)]  # fmt: skip
    release(out, (client, batch.computation), segments)


def on_restored(state: State, out: Outbox, event: Restored, now: Seconds) -> None:
    """Take over what an earlier incarnation of the node kept. The lease begins anew: nobody could come meanwhile."""
    client = state.clients[event.client] = Client(event.client, event.name)
    client.is_connected = False
    client.is_dead = client.was_away = True
    client.silent_since = now
    client.batches.extend(event.batches)
    client.stored.update(batch.batch for batch in event.batches)
    client.next_batch = event.next_batch
    client.lost = event.lost
    client.has_gaps = event.has_gaps
    client.before = event.before


def on_acknowledge(state: State, out: Outbox, client: Client, message: Acknowledge, now: Seconds) -> None:
    """Forget results that have arrived."""
    drop_batches(out, client, message.batch)


def segments_held(state: State, key: Key) -> set[int]:
    """Segments with results of a computation that have not been acknowledged, or not even told."""
    client, computation = state.clients.get(key[0]), state.computations.get(key)
    results = list(computation.untold) if computation is not None else []
    for batch in client.batches if client is not None else ():
        if batch.computation == key[1]:
            results += batch.ended
    return {segment for result in results for segment in (result.stream, result.output_stream)}


def come_back(state: State, out: Outbox, client: Client, received: int) -> None:
    """A client that is known is connected again, and has all results up to a number: repeat the others."""
    client.is_connected = True
    client.is_recovering = False
    drop_batches(out, client, received)
    # It may have seen numbers that were lost here with an earlier incarnation.
    client.next_batch = max(client.next_batch, received + 1)
    for batch in client.batches:
        is_stored = batch.batch in client.stored
        out.append(TellStored(client.id, batch) if is_stored else Tell(client.id, batch))
    # After those: the number of the last batch that arrived stands for all before it.
    flush(state, out)
    for worker in state.workers.values():
        if worker.computation.client is client:
            # What runs is told again, in a tick.
            worker.told = 0


def forget_lost(out: Outbox, client: Client) -> None:
    """A client that lives has taken account of what it had here: no list of it is of use any more."""
    if client.lost or client.was_away:
        client.lost = []
        client.has_gaps = client.was_away = False
        out.append(DropNote(client.id))


def drop_batches(out: Outbox, client: Client, received: int) -> None:
    """Forget results up to a number."""
    erased = []
    while client.batches and client.batches[0].batch <= received:
        batch = client.batches.popleft()
        if batch.batch in client.stored:
            client.stored.discard(batch.batch)
            erased.append(batch.batch)
        else:
            drop_segments(out, client.id, batch)
    if erased:
        out.append(Erase(client.id, erased))


def on_recover(state: State, out: Outbox, client: Client, message: Recover, now: Seconds) -> None:
    """Say what is there of some computations."""
    flush(state, out)
    client.is_recovering = True
    give_up_staging(state, out, client, now)
    wanted = set(message.computations)
    out.append(
        Tell(
            client.id,
            Held(
                [jobs for jobs in _open_jobs(state, client) if jobs.computation in wanted],
                [batch.batch for batch in client.batches if batch.computation in wanted][:OPEN_JOBS_MAX],
                [jobs for jobs in client.lost if jobs.computation in wanted],
                client.has_gaps,
            ),
        )
    )


def close_recovered(state: State, out: Outbox, client: Client, number: int) -> None:
    """Who recovers has all results of a computation."""
    closed = [batch for batch in client.batches if batch.computation == number]
    for batch in closed:
        drop_segments(out, client.id, batch)
    client.batches = type(client.batches)(batch for batch in client.batches if batch.computation != number)
    stored = [batch.batch for batch in closed if batch.batch in client.stored]
    if stored:
        client.stored.difference_update(stored)
        out.append(Erase(client.id, stored))
    client.lost = [jobs for jobs in client.lost if jobs.computation != number]
