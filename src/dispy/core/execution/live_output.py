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
"""Time between two looks at the output of watched jobs (seconds): short enough to seem immediate to a person."""

UNSEEN_MAX = 8
"""Number of output messages of a computation without acknowledgement at which the last output of a killed job is
dropped instead of told: many jobs may be killed at once, and these messages do not wait for each other."""

_NOWHERE = (0, 0.0)
"""Position (0: no job) and start of the job (seconds since the epoch) taken for a worker that a ``Tick`` does not
name: no output of it is read."""


def on_watch_jobs(state: State, out: Outbox, client: Client, message: WatchJobs, now: Seconds) -> None:
    """Start telling the client what jobs print while they run, from the first byte that they have printed on.

    If the message says ``is_wanted`` False, stop that.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is None:
        return
    if not message.is_wanted:
        computation.watched.difference_update(message.numbers)
        return
    watch(computation, message.numbers)
    for worker in computation.workers.values():
        job = _job_at(worker, worker.seen_at)
        if job is not None and job.number in message.numbers:
            worker.seen_at = 0


def watch(computation: Computation, numbers: Iterable[int]) -> None:
    """Note that the output of open jobs (by number) is wanted while they run, so that each ``look`` has it read."""
    open_ = computation.open
    computation.watched.update([number for number in numbers if number in open_])


def is_any_watched(computation: Computation, jobs: list[Job]) -> bool:
    """True if the output of at least one of the jobs is wanted while it runs: then all jobs of their record print
    without a buffer (``Record.live``)."""
    watched = computation.watched
    return computation.spec.live or (bool(watched) and any(job.number in watched for job in jobs))


def look(state: State, out: Outbox, positions: dict[WorkerId, tuple[int, float]], now: Seconds) -> None:
    """Have the new output of watched jobs read (``Look``). Call at the ticks from ``State.look_at`` on.

    Only workers with a record are looked at. Nothing is read of a computation while a message with its output is not
    acknowledged: a slow client gets less output. A job that still prints with a buffer is made to print without one
    first, and read at the next look.

    Args:
        state: State of the node.
        out: Actions (``Look``, ``Unbuffer``) are appended to this list.
        positions: Position of each worker and start of its job (seconds since the epoch), by worker, as in ``Tick``.
        now: The present (seconds, monotonic).
    """
    state.look_at = now + LOOK_S
    places: dict[Key, list[Place]] = {}
    for worker in state.running.values():
        computation = worker.computation
        if not (computation.watched or computation.spec.live):
            continue
        position = positions.get(worker.id, _NOWHERE)[0]
        # Only jobs that were told as started: the client knows that a job runs before it sees its output.
        if position != worker.told or not _is_watched(worker, position):
            continue
        if not worker.records[0].live and worker.unbuffered != position:
            worker.unbuffered = position
            out.append(Unbuffer(worker.id, position))
            # The content of its buffer is written in time for the next look.
        elif not computation.unseen:
            places.setdefault(computation.key, []).append(_place(worker, position))
    out.extend(Look(key, of_one, PRINTED_MAX) for key, of_one in places.items())


def _job_at(worker: Worker, position: int) -> Job | None:
    """Returns the job at a position (record and index, see ``protocol.worker.claim``) of a worker.

    None if that is not in the record that the worker runs now, or the job has ended or is obsolete.
    """
    record, at = split_claim(position)
    if not worker.records or worker.records[0].record != record or at >= len(worker.records[0].jobs):
        return None
    job = worker.records[0].jobs[at]
    return job if worker.computation.open.get(job.number) is job else None


def _is_watched(worker: Worker, position: int) -> bool:
    """True if the job at a position (record and index) of a worker is one that it runs now, and the client wants the
    job's output while it runs."""
    job = _job_at(worker, position)
    computation = worker.computation
    return job is not None and (computation.spec.live or job.number in computation.watched)


def _place(worker: Worker, position: int) -> Place:
    """Returns for ``Look`` where to read the new output of the job at a position of a worker: behind the bytes of
    stdout and stderr that the client was told, or from byte 0 if it was told none of this job."""
    seen = worker.seen if worker.seen_at == position else (0, 0)
    return Place(worker.id, position, *seen)


def on_worker_dying(state: State, out: Outbox, event: WorkerDying, now: Seconds) -> None:
    """A worker is dead: have the last output of its job read at once, if the job is watched.

    At most ``PRINTED_MAX`` bytes are told; no result of the job will bring its output.
    """
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    if _is_watched(worker, event.position) and len(worker.computation.unseen) < UNSEEN_MAX:
        out.append(Look(worker.computation.key, [_place(worker, event.position)], PRINTED_MAX))


def on_looked(state: State, out: Outbox, event: Looked, now: Seconds) -> None:
    """Tell the client the new output of jobs that was read, with its byte offset in all that the job has printed.

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
    """Forget the oldest message with output of a computation that is kept for a reconnect, as the client has it.

    Once none is left, the next ``look`` has more output read.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is not None and computation.unseen:
        computation.unseen.popleft()


def tell_again(state: State, out: Outbox, client: Client) -> None:
    """After a reconnect of a client, send again all messages with output that it has not acknowledged, oldest first.

    Otherwise no more output would be read: each computation waits for the acknowledgement of its last message.
    """
    for computation in client.computations.values():
        out.extend(Tell(client.id, message) for message in computation.unseen)
