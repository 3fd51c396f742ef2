"""Live output: what running jobs print is told while they run, to clients that have asked for it.

The stdout and stderr of a worker are files in memory. The node reads them every ``LOOK_S``, of those workers only
that run a watched job. So a job pays nothing for it, except that Python's own buffer is bypassed (``Record.live``,
``Unbuffer``). Back-pressure: one message of a computation is on its way at a time, of bounded size. A job that prints
without end, or a slow link, costs the output that is skipped, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispy.core.execution.actions import Look, Outbox, Place, Tell, Unbuffer
from dispy.core.execution.events import Looked, WorkerDying
from dispy.core.execution.ids import Key, Seconds, WorkerId
from dispy.core.execution.state import Client, Computation, State, Worker
from dispy.protocol.limits import PRINTED_MAX
from dispy.protocol.node import AcknowledgePrinted, Job, JobsPrinted, Printed, WatchJobs
from dispy.protocol.worker import split_claim

LOOK_S = 0.1
"""Time between two looks at the output of watched jobs (seconds): a person who watches takes that for at once."""

UNSEEN_MAX = 8
"""Number of messages of a computation without acknowledgement from which on the last output of a killed job is not
told: there may be many such jobs, and these messages do not wait for each other."""

_NOWHERE = (0, 0.0)
"""Position (0: no job) and start (seconds since the epoch) of a worker that a ``Tick`` does not name."""


def on_watch_jobs(state: State, out: Outbox, client: Client, message: WatchJobs, now: Seconds) -> None:
    """Tell the client what jobs print from now on, beginning with the first byte that they have printed; or stop."""
    computation = state.computations.get((client.id, message.computation))
    if computation is None:
        return
    if not message.is_wanted:
        computation.watched.difference_update(message.numbers)
        return
    watch(state, computation, message.numbers)
    for worker in computation.workers.values():
        job = _job_at(worker, worker.seen_at)
        if job is not None and job.number in message.numbers:
            worker.seen_at = 0


def watch(state: State, computation: Computation, numbers: Iterable[int]) -> None:
    """Note that the output of jobs (by number) is wanted while they run, so that each ``look`` has it read.

    Without numbers only the computation is noted, which suffices if it is ``live``: then all its jobs are watched.
    """
    computation.watched.update(numbers)
    state.watched[computation.key] = computation


def is_any_watched(computation: Computation, jobs: list[Job]) -> bool:
    """True if the output of at least one of the jobs is wanted while it runs: then all jobs of their record print
    without a buffer (``Record.live``)."""
    watched = computation.watched
    return computation.spec.live or (bool(watched) and any(job.number in watched for job in jobs))


def look(state: State, out: Outbox, positions: dict[WorkerId, tuple[int, float]], now: Seconds) -> None:
    """Have the new output of watched jobs read, if ``LOOK_S`` have passed since the last time; call at each tick.

    Computations without watched jobs are no longer looked at.

    Args:
        state: State of the node.
        out: Actions are appended to it.
        positions: Position of each worker and start of its job (seconds since the epoch), by worker, as in ``Tick``.
        now: The present.
    """
    if now < state.look_at:
        return
    state.look_at = now + LOOK_S
    for key, computation in list(state.watched.items()):
        if computation.watched:
            computation.watched = {number for number in computation.watched if number in computation.open}
        if computation.watched or computation.spec.live:
            _look_at(out, computation, positions)
        else:
            del state.watched[key]


def _look_at(out: Outbox, computation: Computation, positions: dict[WorkerId, tuple[int, float]]) -> None:
    """Ask the shell (``Look``) for the new output of a computation's watched jobs.

    Not while a message with output is not acknowledged: a slow client gets less output. ``positions`` is as in
    ``Tick``.
    """
    places = []
    for worker in computation.workers.values():
        position = positions.get(worker.id, _NOWHERE)[0]
        # Only jobs that were told as started: the client knows that a job runs before it sees its output.
        if position != worker.told or not _is_watched(worker, position):
            continue
        if not worker.records[0].live and worker.unbuffered != position:
            worker.unbuffered = position
            out.append(Unbuffer(worker.id, position))
            # The content of its buffer is written in time for the next look.
            continue
        places.append(_place(worker, position))
    if places and not computation.unseen:
        out.append(Look(computation.key, places, PRINTED_MAX))


def _job_at(worker: Worker, position: int) -> Job | None:
    """Returns the job at a position, if that is in the worker's current record and the job is open; else None."""
    record, at = split_claim(position)
    if not worker.records or worker.records[0].record != record or at >= len(worker.records[0].jobs):
        return None
    job = worker.records[0].jobs[at]
    return job if worker.computation.open.get(job.number) is job else None


def _is_watched(worker: Worker, position: int) -> bool:
    """True if the job at a position is in the worker's current record, is open, and its output is wanted."""
    job = _job_at(worker, position)
    computation = worker.computation
    return job is not None and (computation.spec.live or job.number in computation.watched)


def _place(worker: Worker, position: int) -> Place:
    """Returns where to read the new output of the job at a position: after the bytes that were told, or from 0."""
    seen = worker.seen if worker.seen_at == position else (0, 0)
    return Place(worker.id, position, *seen)


def on_worker_dying(state: State, out: Outbox, event: WorkerDying, now: Seconds) -> None:
    """A worker was killed: tell the last output of its job as far as it fits, since its result will not bring it."""
    worker = state.workers.get(event.worker)
    if worker is None or worker.computation.key not in state.watched:
        return
    if _is_watched(worker, event.position) and len(worker.computation.unseen) < UNSEEN_MAX:
        out.append(Look(worker.computation.key, [_place(worker, event.position)], PRINTED_MAX))


def on_looked(state: State, out: Outbox, event: Looked, now: Seconds) -> None:
    """Tell the client the new output that was read, with its offset in all output of its job.

    Output of jobs that have ended meanwhile is dropped, as their results bring it.
    """
    computation = state.computations.get(event.key)
    if computation is None:
        return
    printed = []
    for glimpse in event.glimpses:
        worker = computation.workers.get(glimpse.worker)
        job = _job_at(worker, glimpse.position) if worker is not None else None
        if worker is None or job is None:
            continue
        begins = worker.seen_at != glimpse.position
        # A client that has asked for this job is told at once that it has printed nothing.
        if glimpse.stdout or glimpse.stderr or (begins and job.number in computation.watched):
            worker.seen_at = glimpse.position
            worker.seen = (
                glimpse.stdout_at + len(glimpse.stdout),
                glimpse.stderr_at + len(glimpse.stderr),
            )
            printed.append(
                Printed(
                    job.number,
                    job.attempt,
                    begins,
                    glimpse.stdout_at,
                    glimpse.stdout,
                    glimpse.stderr_at,
                    glimpse.stderr,
                )
            )
    if printed:
        message = JobsPrinted(computation.key[1], printed)
        computation.unseen.append(message)
        out.append(Tell(computation.client.id, message))


def on_acknowledge_printed(
    state: State, out: Outbox, client: Client, message: AcknowledgePrinted, now: Seconds
) -> None:
    """Forget the oldest message with output of a computation, as it has arrived. After the last one more is read."""
    computation = state.computations.get((client.id, message.computation))
    if computation is not None and computation.unseen:
        computation.unseen.popleft()


def tell_again(state: State, out: Outbox, client: Client) -> None:
    """After a reconnect of a client, send again all messages with output that it has not acknowledged, oldest first.

    Otherwise no more output would be read: each computation waits for the acknowledgement of its last message.
    """
    for (owner, _), computation in state.computations.items():
        if owner == client.id:
            out.extend(Tell(client.id, message) for message in computation.unseen)


def forget(state: State, key: Key) -> None:
    """Stop looking at the output of a computation that is gone."""
    state.watched.pop(key, None)
