"""Retention: results are kept until their client acknowledges them, and go to disk while it is away.

Theory of operation. Results are told in numbered batches. Each is kept in ``Client.sent`` (``protocol.batches``) and
repeated after each reconnect, until the client acknowledges its number or a later one. When a client has been silent
for ``State.silence_s`` it is dead (see ``clients``): its jobs go on to the end, and its results are stored on disk,
those that are here at once and the others as they come. A list of its jobs that have not ended is stored, too
(``NoteOpen``), so that the next incarnation of the node can say which jobs were lost with this one.

| state of a batch | event                                              | next    | what is sent                     |
|------------------|----------------------------------------------------|---------|----------------------------------|
| none             | results are told, client alive                     | kept    | Tell (lost if not connected)     |
| none             | results are told, client dead                      | kept    | Store                            |
| kept             | the client is dead from now on, or the node stops  | kept    | Store, NoteOpen                  |
| kept             | Stored                                             | on disk | Release of its segments          |
| kept             | the client connects again                          | kept    | Tell                             |
| on disk          | the client connects again                          | on disk | TellStored                       |
| any              | Acknowledge of its number or a later one           | none    | Release if kept, Erase if on disk|
| any              | CloseComputation of a recovery                     | none    | Release, Erase                   |
| any              | the client is forgotten                            | none    | Erase of all                     |

A batch is stored whole and acknowledged by number, so that a result is told at least once, and the client
deduplicates by job and attempt.
"""

from __future__ import annotations

from dispy.core.execution.actions import DropNote, Erase, NoteOpen, Outbox, Store, Tell, TellStored
from dispy.core.execution.events import Restored, Stored
from dispy.core.execution.ids import ClientId, Key, Seconds
from dispy.core.execution.job_files import give_up_staging
from dispy.core.execution.jobs import release
from dispy.core.execution.state import Client, Computation, State
from dispy.core.execution.workers import flush
from dispy.protocol.batches import Sent
from dispy.protocol.limits import OPEN_JOBS_MAX
from dispy.protocol.node import Acknowledge, Attempt, Ended, Held, HeldJobs, JobsEnded, Recover


def go_away(state: State, out: Outbox, client: Client) -> None:
    """Have the results and the list of open jobs of a client written to disk, as the client is dead from now on.

    Does nothing if the client has neither a computation nor unacknowledged results here.
    """
    flush(state, out)
    if not client.sent.kept and not any(key[0] == client.id for key in state.computations):
        return
    store_all(state, out, client)


def store_all(state: State, out: Outbox, client: Client) -> None:
    """Have a client's batches of results that are not on disk yet, and the list of its jobs that would be lost with
    this node, written to disk.

    No list is written if an earlier incarnation of the node left none (``Client.has_gaps``): the jobs lost with that
    would be missing in it, but the next incarnation would take the list for complete.
    """
    if not client.has_gaps:
        out.append(
            NoteOpen(client.id, client.name, client.lost + _unsaved(state, client), client.sent.last + 1)
        )
    out.extend(
        Store(client.id, client.name, batch)
        for batch in client.sent.kept
        if batch.batch not in client.stored
    )


def _open_jobs(state: State, client: Client) -> list[HeldJobs]:
    """Returns the attempts of a client's jobs that have not ended, one item for each computation that has some.

    These attempts are told to a recovery (``Held``), and are part of the list on disk (``NoteOpen``).
    """
    return [
        HeldJobs(key[1], [Attempt(job.number, job.attempt) for job in computation.open.values()])
        for key, computation in state.computations.items()
        if key[0] == client.id and computation.open
    ]


def _unsaved(state: State, client: Client) -> list[HeldJobs]:
    """Returns the attempts of a client that would be lost if this node ended now, one item for each computation:
    those of open jobs, and of ended jobs whose results are not on disk.

    The disk may be full, or the node may be killed before these results are written. A recovery must not take such
    jobs for jobs that were never started.
    """
    ended = [
        HeldJobs(batch.computation, [Attempt(e.number, e.attempt) for e in batch.ended])
        for batch in client.sent.kept
        if batch.batch not in client.stored
    ]
    attempts_by_computation: dict[int, list[Attempt]] = {}
    for jobs in ended + _open_jobs(state, client):
        attempts_by_computation.setdefault(jobs.computation, []).extend(jobs.attempts)
    return [HeldJobs(number, attempts) for number, attempts in attempts_by_computation.items()]


def has_segments(client: Client, computation: Computation) -> bool:
    """True if unacknowledged results of a computation lie in segments (files), which would be deleted with it.

    Then the computation must be kept. Results that were stored on disk (``Stored``) need no segments any more.
    """
    return any(
        ended.stream or ended.output_stream
        for batch in client.sent.kept
        if batch.computation == computation.key[1]
        for ended in batch.ended
    )


def on_stored(state: State, out: Outbox, event: Stored, now: Seconds) -> None:
    """Batches are on disk: delete their values from memory. Those acknowledged meanwhile are erased from disk."""
    client = state.clients.get(event.client)
    if client is None:
        out.append(Erase(event.client, [], gone=True))
        return
    stored = set(event.batches)
    kept = [batch for batch in client.sent.kept if batch.batch in stored]
    for batch in kept:
        drop_segments(out, client.id, batch)
        batch.ended = [_bare(ended) for ended in batch.ended]
        client.stored.add(batch.batch)
    useless = stored.difference(batch.batch for batch in kept)
    if useless:
        out.append(Erase(client.id, sorted(useless)))


def _bare(ended: Ended) -> Ended:
    """Returns a copy of the result of a job with only number, attempt, status, times and whether the job ran.

    Value, output and reason of the result are on disk now, and would only take memory here.
    """
    return Ended(ended.number, ended.attempt, ended.status, ended.start, ended.end, b"", ran=ended.ran)


def drop_segments(out: Outbox, client: ClientId, batch: JobsEnded) -> None:
    """Delete the segments (files) with the large values and outputs of a batch that is on disk or acknowledged."""
    segments = [s for ended in batch.ended if ended.stream or ended.output_stream
                for s in (ended.stream, ended.output_stream)]  # fmt: skip
    release(out, (client, batch.computation), segments)


def on_restored(state: State, out: Outbox, event: Restored, now: Seconds) -> None:
    """Take over the results that an earlier incarnation of the node kept for a client.

    The client counts as dead until it connects. Its lease begins anew, as it could not connect while no node ran.
    """
    client = state.clients[event.client] = Client(event.client, event.name)
    client.is_connected = False
    client.is_dead = client.was_away = True
    client.silent_since = now
    client.sent = Sent(event.batches, event.next_batch - 1)
    state.silent[client.id] = client
    client.stored.update(batch.batch for batch in event.batches)
    client.lost = event.lost
    client.has_gaps = event.has_gaps
    client.before = event.before


def on_acknowledge(state: State, out: Outbox, client: Client, message: Acknowledge, now: Seconds) -> None:
    """Forget results that the client has received: all batches up to the number in the message, that one included."""
    drop_batches(out, client, client.sent.acknowledge(message.batch))


def segments_held(state: State, key: Key) -> set[int]:
    """Returns the numbers of segments (files) with unacknowledged results of a computation, and perhaps 0.

    The shell keeps these segments when it deletes those that dead worker processes have left behind.
    """
    client, computation = state.clients.get(key[0]), state.computations.get(key)
    results = list(computation.untold) if computation is not None else []
    for batch in client.sent.kept if client is not None else ():
        if batch.computation == key[1]:
            results += batch.ended
    return {segment for result in results for segment in (result.stream, result.output_stream)}


def come_back(state: State, out: Outbox, client: Client, received: int) -> None:
    """A known client is connected again and has all batches up to number ``received``: send it the later ones again.

    Results that waited are sent, too, and running jobs are told as started again at the next tick.
    """
    client.is_connected = True
    client.is_recovering = False
    drop_batches(out, client, client.sent.resume(received))
    for batch in client.sent.kept:
        is_stored = batch.batch in client.stored
        out.append(TellStored(client.id, batch) if is_stored else Tell(client.id, batch))
    # After those batches, so that all leave in the order of their numbers.
    flush(state, out)
    for worker in state.workers.values():
        if worker.computation.client is client:
            # Running jobs are told again, at the next tick.
            worker.told = 0


def forget_lost(out: Outbox, client: Client) -> None:
    """Forget which jobs of a client were lost with earlier incarnations; delete the list of its open jobs from disk.

    Called when the client itself compares its jobs with those here (``Reconcile``): the answer tells it which are not
    here, so it needs no list.
    """
    if client.lost or client.was_away:
        client.lost = []
        client.has_gaps = client.was_away = False
        out.append(DropNote(client.id))


def drop_batches(out: Outbox, client: Client, dropped: list[JobsEnded]) -> None:
    """Free what batches of a client hold that ``Client.sent`` has let go of: segments (files), or room on disk."""
    erased = []
    for batch in dropped:
        if batch.batch in client.stored:
            client.stored.discard(batch.batch)
            erased.append(batch.batch)
        else:
            drop_segments(out, client.id, batch)
    if erased:
        out.append(Erase(client.id, erased))


def on_recover(state: State, out: Outbox, client: Client, message: Recover, now: Seconds) -> None:
    """Tell a recovery which open jobs, batches of results and lost jobs of the computations that it names are here.

    The answer is ``Held``; the batches themselves are sent apart (``come_back``). Jobs that wait for files end as
    ``TERMINATED`` first, as the program that had the files is dead.
    """
    flush(state, out)
    client.is_recovering = True
    give_up_staging(state, out, client, now)
    wanted = set(message.computations)
    out.append(
        Tell(
            client.id,
            Held(
                [jobs for jobs in _open_jobs(state, client) if jobs.computation in wanted],
                [batch.batch for batch in client.sent.kept if batch.computation in wanted][:OPEN_JOBS_MAX],
                [jobs for jobs in client.lost if jobs.computation in wanted],
                client.has_gaps,
            ),
        )
    )


def close_recovered(state: State, out: Outbox, client: Client, number: int) -> None:
    """Forget all results and lost jobs of a client's computation (by number), in memory and on disk.

    Called when a recovery, which has fetched these results, closes the computation.
    """
    drop_batches(out, client, client.sent.discard(lambda batch: batch.computation == number))
    client.lost = [jobs for jobs in client.lost if jobs.computation != number]
