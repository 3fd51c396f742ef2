"""What running jobs print, told while they run to who has asked for it.

The node reads the memory files that are the workers' stdout and stderr, a few times a second, of those
workers only that run a watched job. So a job pays nothing for it, except that Python's own buffer is
passed by (``Record.live``, ``Unbuffer``). One message of a computation is on its way at a time, of
bounded size: a job that prints without end, and a slow link, cost what is skipped, and nothing else.
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
"""Time between two looks (seconds): what somebody who watches takes for at once."""

UNSEEN_MAX = 8
"""Messages under way beyond which what a killed job printed last is not told: there may be many such jobs."""

_NOWHERE = (0, 0.0)


def on_watch_jobs(state: State, out: Outbox, client: Client, message: WatchJobs, now: Seconds) -> None:
    """Tell what jobs print from now on, beginning with what they have printed; or cease to."""
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
    """The output of some jobs is wanted."""
    computation.watched.update(numbers)
    state.watched[computation.key] = computation


def is_any_watched(computation: Computation, jobs: list[Job]) -> bool:
    """Whether somebody wants to see what one of these jobs prints."""
    watched = computation.watched
    return computation.spec.live or (bool(watched) and any(job.number in watched for job in jobs))


def look(state: State, out: Outbox, positions: dict[WorkerId, tuple[int, float]], now: Seconds) -> None:
    """Look at what watched jobs have printed, if it is time to.

    Args:
        positions: Where workers are, as in ``Tick``.
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
    places = []
    for worker in computation.workers.values():
        position = positions.get(worker.id, _NOWHERE)[0]
        # Only what was told as running: the client knows of it before it prints.
        if position != worker.told or not _is_watched(worker, position):
            continue
        if not worker.records[0].live and worker.unbuffered != position:
            worker.unbuffered = position
            out.append(Unbuffer(worker.id, position))
            # What it has in its buffer comes in time for the next look.
            continue
        places.append(_place(worker, position))
    if places and not computation.unseen:
        out.append(Look(computation.key, places, PRINTED_MAX))


def _job_at(worker: Worker, position: int) -> Job | None:
    """The job at a position of the record that a worker is at, if it has not ended."""
    record, at = split_claim(position)
    if not worker.records or worker.records[0].record != record or at >= len(worker.records[0].jobs):
        return None
    job = worker.records[0].jobs[at]
    return job if worker.computation.open.get(job.number) is job else None


def _is_watched(worker: Worker, position: int) -> bool:
    job = _job_at(worker, position)
    computation = worker.computation
    return job is not None and (computation.spec.live or job.number in computation.watched)


def _place(worker: Worker, position: int) -> Place:
    seen = worker.seen if worker.seen_at == position else (0, 0)
    return Place(worker.id, position, *seen)


def on_worker_dying(state: State, out: Outbox, event: WorkerDying, now: Seconds) -> None:
    """What a job printed before it was killed is told as far as it fits; its result will not bring it."""
    worker = state.workers.get(event.worker)
    if worker is None or worker.computation.key not in state.watched:
        return
    if _is_watched(worker, event.position) and len(worker.computation.unseen) < UNSEEN_MAX:
        out.append(Look(worker.computation.key, [_place(worker, event.position)], PRINTED_MAX))


def on_looked(state: State, out: Outbox, event: Looked, now: Seconds) -> None:
    """Tell what is new."""
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
        # Who has asked for this job is told at once that it has printed nothing.
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
    """The next look may be told."""
    computation = state.computations.get((client.id, message.computation))
    if computation is not None and computation.unseen:
        computation.unseen.popleft()


def tell_again(state: State, out: Outbox, client: Client) -> None:
    """After a reconnect: what may not have arrived."""
    for (owner, _), computation in state.computations.items():
        if owner == client.id:
            out.extend(Tell(client.id, message) for message in computation.unseen)


def forget(state: State, key: Key) -> None:
    """A computation is gone."""
    state.watched.pop(key, None)
