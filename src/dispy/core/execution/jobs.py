"""Jobs on this node: schedulers have them run, cancelled and given back.

The life of a job on the node. *Staging*: its files are fetched. *Ready*: it waits for a CPU. *In a record*: offered
to a worker (see ``workers`` for the states of a record). *Ended*: its result is kept until the acknowledgement.
*Gone*: given back to its scheduler.

| state          | event                                      | next      | what is sent                             |
|----------------|--------------------------------------------|-----------|------------------------------------------|
| none           | RunJobs                                    | ready     |                                          |
| none           | RunJobs, it brings files                   | staging   | StageJob                                 |
| none           | RunJobs, computation not known             | gone      | JobsReturned with a reason               |
| none           | JobRefused: it cannot be held here         | ended     | JobsEnded (TERMINATED)                   |
| none           | ShortOfRoom: no room for its data now      | gone      | JobsReturned                             |
| staging        | JobFilesReady                              | ready     |                                          |
| staging        | JobFilesReady with a reason                | ended     | JobsEnded (TERMINATED)                   |
| ready          | a CPU is free (``dispatch``)               | in record | Offer                                    |
| ready, staging | CancelJobs                                 | ended     | JobsEnded (CANCELLED), UnstageJobs       |
| ready          | TakeBack                                   | gone      | JobsReturned                             |
| ready          | its computation may not start jobs         | gone      | JobsReturned (staging: when draining)    |
| in record      | its record is recalled, or cut before it   | ready     |                                          |
| in record      | CancelJobs, not begun                      | in record | Recall, Cut; once ready: ended           |
| in record      | CancelJobs, running                        | in record | InterruptWorker; KillWorker after the    |
|                |                                            |           | grace time                               |
| in record      | Ran: it has a result                       | ended     | JobsEnded                                |
| in record      | its worker ended, it was begun             | ended     | JobsEnded (TERMINATED, ``died``)         |
| in record      | its worker ended, it was not begun         | ready     |                                          |
| any            | Reconcile without it: obsolete             | gone      | as for CancelJobs, but no end is told    |
| any            | its computation is given up                | gone      | JobsReturned                             |

A result is sent once, and again after each reconnect until it is acknowledged; results of attempts that are not open
are dropped. While the client is dead results go to disk (``Store``) instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from dispy.core.execution.actions import (
    Cut,
    InterruptWorker,
    Outbox,
    Pass,
    Recall,
    Release,
    StageJob,
    Store,
    Tell,
    UnstageJobs,
)
from dispy.core.execution.events import JobRefused, ShortOfRoom
from dispy.core.execution.fair_shares import join, recredit, wait
from dispy.core.execution.ids import Key, Seconds
from dispy.core.execution.live_output import watch
from dispy.core.execution.state import Client, Computation, State, Worker
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.message_sizes import cut, sizes_of
from dispy.protocol.node import (
    CANCELLED,
    TERMINATED,
    AcknowledgeProvisional,
    Attempt,
    CancelJobs,
    Ended,
    Job,
    JobFiles,
    JobsEnded,
    JobsListed,
    JobsReturned,
    ListJobs,
    RunJobs,
    Segment,
    TakeBack,
)
from dispy.protocol.worker import SentAcknowledged, claim, split_claim


def on_run_jobs(state: State, out: Outbox, client: Client, message: RunJobs, now: Seconds) -> None:
    """Put jobs of a client at the end of ``ready``, or into ``staging`` if they bring files; those that are here
    already are ignored.

    If the computation is not known, all jobs go back with a reason (``JobsReturned``), and the scheduler sends the
    computation again.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is None:
        attempts = [Attempt(job.number, job.attempt) for job in message.jobs]
        out.append(
            Tell(client.id, JobsReturned(message.computation, attempts, "computation not known here"))
        )
        return
    if not computation.open:
        join(state, computation)
        state.active[computation.key] = computation
    # A job sent twice, by a scheduler that did not know it had arrived, is taken once.
    open_ = computation.open
    jobs = message.jobs
    numbers = [job.number for job in jobs]
    if not open_.keys().isdisjoint(numbers):
        release(out, computation.key, segments_of([job for job in jobs if job.number in open_]))
        jobs = [job for job in jobs if job.number not in open_]
        numbers = [job.number for job in jobs]
    fresh = dict(zip(numbers, jobs, strict=True))
    open_.update(fresh)
    if message.watched:
        watch(computation, message.watched)
    # Only a faulty scheduler names a job twice in one message; the last one counts.
    if len(fresh) != len(jobs):
        jobs = list(fresh.values())
    if message.files:
        jobs = _stage(out, computation, jobs, message.files)
    computation.ready.extend(jobs)
    wait(state, computation)


def _stage(out: Outbox, computation: Computation, jobs: list[Job], files: list[JobFiles]) -> list[Job]:
    """Put jobs that bring files into ``staging``, and have their files fetched; returns the other jobs, in order.

    ``files`` lists the files of each job that brings some, as ``RunJobs`` has them.
    """
    files_by_job = {item.number: item.files for item in files}
    for job in jobs:
        brought = files_by_job.get(job.number)
        if brought:
            computation.staging[job.number] = job
            computation.filed.add(job.number)
            out.append(StageJob(computation.key, job.number, job.attempt, brought))
    return [job for job in jobs if job.number not in computation.staging]


def on_list_jobs(state: State, out: Outbox, client: Client, message: ListJobs, now: Seconds) -> None:
    """Answer ``JobsListed``: which attempts of a computation workers run now, at most one for each busy worker.

    The last tick (10 ms) saw where workers are. The list is empty if the computation is not known.
    """
    computation = state.computations.get((client.id, message.computation))
    running = []
    for worker in computation.workers.values() if computation is not None else ():
        jobs = worker.records[0].jobs if worker.records else []
        if jobs:
            at_record, at = split_claim(worker.position)
            is_in = at_record == worker.records[0].record and at < len(jobs)
            job = jobs[at] if is_in else jobs[0]
            assert computation is not None
            if computation.open.get(job.number) is job:
                running.append(Attempt(job.number, job.attempt))
    out.append(Tell(client.id, JobsListed(message.computation, message.serial, running)))


def on_cancel_jobs(state: State, out: Outbox, client: Client, message: CancelJobs, now: Seconds) -> None:
    """Cancel attempts: those that have not begun end now, or when they are back from a worker in their record.

    Running ones are interrupted, and killed with their worker after the grace time (``Compute.grace_s``). Attempts
    that are not open are ignored.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is None:
        return
    open_ = computation.open
    wanted = {
        a.number for a in message.attempts if a.number in open_ and open_[a.number].attempt == a.attempt
    }
    if not wanted:
        return
    waiting = [job.number for job in computation.ready if job.number in wanted]
    waiting += [number for number in computation.staging if number in wanted]
    if waiting:
        drop_unstarted(out, computation, wanted)
        end_unstarted(out, computation, waiting)
        wanted.difference_update(waiting)
    if wanted:
        cancel_in_records(out, computation, {(number, open_[number].attempt) for number in wanted}, now)


def drop_unstarted(out: Outbox, computation: Computation, numbers: set[int]) -> None:
    """Take jobs (by number) out of ``ready`` and ``staging``, and stop fetching their files.

    The jobs stay in ``open``: the caller ends them. Numbers of jobs that do not wait there are ignored.
    """
    computation.ready = type(computation.ready)(j for j in computation.ready if j.number not in numbers)
    staging = [number for number in computation.staging if number in numbers]
    for number in staging:
        del computation.staging[number]
    if staging:
        out.append(UnstageJobs(computation.key, staging))


def cancel_in_records(
    out: Outbox, computation: Computation, attempts: set[tuple[int, int]], now: Seconds
) -> None:
    """End attempts, as (number, attempt), that are in records: recall them, cut them off, or interrupt them.

    These attempts are noted in ``Computation.cancelling``. They end when their jobs are back from the worker, or by
    the interrupt. Others are ignored.
    """
    for worker in list(computation.workers.values()):
        _cancel_in(out, worker, attempts, now)


def _cancel_in(out: Outbox, worker: Worker, attempts: set[tuple[int, int]], now: Seconds) -> None:
    """End attempts, as (number, attempt), that are in the records of one worker: recall, cut off or interrupt them.

    Attempts found there are noted in ``Computation.cancelling``; others are ignored.
    """
    for place, record in enumerate(worker.records):
        hits = [(job.number, job.attempt) for job in record.jobs if (job.number, job.attempt) in attempts]
        if not hits:
            continue
        worker.computation.cancelling.update(hits)
        if place > 0 or split_claim(worker.position)[0] != record.record:
            # Not seen begun: recall the record. If that fails, the next tick knows where the worker is.
            out.append(Recall(worker.id))
        cut_or_interrupt(out, worker, now)


def cut_or_interrupt(out: Outbox, worker: Worker, now: Seconds) -> None:
    """Interrupt the job that a worker is at, if that job is cancelled, and cut off cancelled jobs behind it.

    A job is interrupted once. Does nothing if the worker has not been seen in its record yet: call at each tick.
    """
    cancelling = worker.computation.cancelling
    if not worker.records or not cancelling:
        return
    record = worker.records[0]
    at_record, at = split_claim(worker.position)
    if at_record != record.record:
        return
    behind = islice(record.jobs, at + 1, None)
    must_cut = any((job.number, job.attempt) in cancelling for job in behind)
    if at < len(record.jobs) and (record.jobs[at].number, record.jobs[at].attempt) in cancelling:
        if worker.interrupted != worker.position:
            worker.interrupted = worker.position
            worker.deadline = now + worker.computation.spec.grace_s
            out.append(InterruptWorker(worker.id, worker.position))
        # If the worker has to be killed for this job, it must not be at another one by then.
        must_cut = at + 1 < len(record.jobs)
        if len(worker.records) > 1 and worker.kept != worker.records[1].record:
            out.append(Recall(worker.id))
    if must_cut and not worker.cut:
        worker.cut = claim(record.record, at + 1)
        out.append(Cut(worker.id, worker.cut))


def end_unstarted(out: Outbox, computation: Computation, numbers: list[int]) -> None:
    """End open jobs (by number) that never started as ``CANCELLED``, and tell the client.

    The caller has taken them out of ``ready``, ``staging`` or their record.
    """
    ended = []
    release(out, computation.key, segments_of([computation.open[number] for number in numbers]))
    for job in close(computation, numbers):
        number = job.number
        computation.cancelling.discard((number, job.attempt))
        ended.append(Ended(number, job.attempt, CANCELLED, 0.0, 0.0, b"", reason="cancelled", ran=False))
    tell_ended(out, computation, ended)


def close(computation: Computation, numbers: list[int]) -> list[Job]:
    """Take jobs (by number) that are in no record out of ``open``, with all that is noted of them; returns them.

    The caller has taken them out of ``ready`` or ``staging``.
    """
    if computation.filed:
        computation.filed.difference_update(numbers)
    if computation.watched:
        computation.watched.difference_update(numbers)
    return [computation.open.pop(number) for number in numbers]


def segments_of(jobs: Iterable[Job]) -> list[int]:
    """Returns the numbers of the segments (files of this node) with the arguments of jobs; most jobs have none."""
    return [job.where.number for job in jobs if type(job.where) is Segment]


def release(out: Outbox, key: Key, segments: list[int]) -> None:
    """Delete segments (files with large arguments or results) that no worker and no client will read any more.

    ``segments`` has their numbers; zeros, which stand for no segment, are skipped.
    """
    segments = [segment for segment in segments if segment]
    if segments:
        out.append(Release(key, segments))


def on_job_refused(state: State, out: Outbox, event: JobRefused, now: Seconds) -> None:
    """Tell the client that a job ended as ``TERMINATED``: its arguments cannot be stored here, as the reason says."""
    computation = state.computations.get(event.key)
    if computation is not None:
        ended = Ended(
            event.number, event.attempt, TERMINATED, 0.0, 0.0, b"", reason=event.reason, ran=False
        )
        tell_ended(out, computation, [ended])


def on_short_of_room(state: State, out: Outbox, event: ShortOfRoom, now: Seconds) -> None:
    """Grant a computation no credit until there is room for its large data again, or credit again if there is.

    A job that came and found no room for its arguments goes back to its scheduler.
    """
    computation = state.computations.get(event.key)
    if computation is None:
        return
    if computation.shortage != event.reason:
        computation.shortage = event.reason
        recredit(state, out, computation)
    # A job that is here was sent twice: it stays.
    if event.returned is not None and event.returned[0] not in computation.open:
        out.append(Tell(computation.client.id, JobsReturned(event.key[1], [Attempt(*event.returned)])))


def tell_ended(out: Outbox, computation: Computation, ended: list[Ended]) -> None:
    """Send results of a computation, after those in ``untold``, and keep them until they are acknowledged.

    A large result has a batch of its own, so that small ones do not wait for it on a slow line. For a dead client
    results are stored on disk instead. If ``ended`` is empty, only those in ``untold`` are sent.
    """
    if computation.untold:
        ended = computation.untold + ended
        computation.untold = []
    large = [result for result in ended if result.stream or result.output_stream]
    if large:
        ended = [result for result in ended if not (result.stream or result.output_stream)]
    client = computation.client
    used_us, computation.used_s = int(computation.used_s * 1e6), 0.0
    for results in cut(ended, sizes_of(ended)) + [[result] for result in large]:
        batch = JobsEnded(0, computation.key[1], results, used_us)
        used_us = 0
        client.sent.add(batch)
        out.append(Store(client.id, client.name, batch) if client.is_dead else Tell(client.id, batch))


def requeue(state: State, out: Outbox, computation: Computation, jobs: list[Job]) -> None:
    """Put jobs that were in a record but did not start back to the head of ``ready``, in their order: they are next.

    Cancelled jobs end as ``CANCELLED`` instead; jobs that are no longer open (obsolete) are dropped.
    """
    cancelling = computation.cancelling
    if cancelling:
        hits = [job for job in jobs if (job.number, job.attempt) in cancelling]
        cancelled = [job.number for job in hits if computation.open.get(job.number) is job]
        obsolete = [job for job in hits if computation.open.get(job.number) is not job]
        release(out, computation.key, segments_of(obsolete))
        if cancelled:
            end_unstarted(out, computation, cancelled)
        cancelling.difference_update([(job.number, job.attempt) for job in hits])
    open_ = computation.open
    jobs = [job for job in jobs if open_.get(job.number) is job]
    if jobs:
        computation.ready.extendleft(reversed(jobs))
        wait(state, computation)


def on_take_back(state: State, out: Outbox, client: Client, message: TakeBack, now: Seconds) -> None:
    """Give as many jobs back as the scheduler asks for, to run on other nodes: from the end of ``ready``, those that
    would have waited longest.

    If ``ready`` has too few, second records of workers are recalled; their jobs follow in another ``JobsReturned``.
    """
    computation = state.computations.get((client.id, message.computation))
    attempts: list[Attempt] = []
    count = min(message.count, BATCH_MAX)
    if computation is not None:
        attempts = take_ready(out, computation, count)
    out.append(Tell(client.id, JobsReturned(message.computation, attempts)))
    left = count - len(attempts)
    for worker in computation.double.values() if computation is not None and left > 0 else ():
        if left > 0:
            worker.owed = left
            left -= len(worker.records[1].jobs)
            out.append(Recall(worker.id))


def take_ready(out: Outbox, computation: Computation, count: int) -> list[Attempt]:
    """Take up to ``count`` jobs off the end of ``ready``, to be given back: those that would have started last.

    The jobs are forgotten here, with their large arguments. Returns their attempts, in the order of ``ready``; the
    caller tells them to the scheduler (``JobsReturned``).
    """
    attempts: list[Attempt] = []
    while computation.ready and len(attempts) < count:
        job = computation.ready.pop()
        attempts.append(Attempt(job.number, job.attempt))
        release(out, computation.key, segments_of([job]))
    attempts.reverse()
    close(computation, [attempt.number for attempt in attempts])
    return attempts


def return_ready(out: Outbox, computation: Computation) -> None:
    """Give back to the scheduler all ready jobs of a computation, which no worker has been offered, so that they run
    on another node. Called while the computation may not start jobs here (``dispatch``)."""
    jobs = list(computation.ready)
    computation.ready.clear()
    _return(out, computation, jobs)


def _return(out: Outbox, computation: Computation, jobs: list[Job]) -> None:
    """Give jobs back to the scheduler, and forget them here. The caller has taken them out of ``ready`` or
    ``staging``.
    """
    release(out, computation.key, segments_of(jobs))
    for start in range(0, len(jobs), BATCH_MAX):
        attempts = [Attempt(job.number, job.attempt) for job in jobs[start : start + BATCH_MAX]]
        out.append(Tell(computation.client.id, JobsReturned(computation.key[1], attempts)))
    close(computation, [job.number for job in jobs])


def return_staging(out: Outbox, computation: Computation) -> None:
    """Give back to the scheduler all jobs of a computation whose files are not here yet, and stop fetching the files.

    Called while the node drains (``dispatch``).
    """
    jobs = list(computation.staging.values())
    computation.staging.clear()
    out.append(UnstageJobs(computation.key, [job.number for job in jobs]))
    _return(out, computation, jobs)


def give_up_values(state: State, out: Outbox, client: Client) -> None:
    """Tell jobs of a client that provisional results without acknowledgement were not delivered, as the client's
    connection broke. Otherwise these jobs would wait for an acknowledgement that may never come."""
    for computation in client.computations.values():
        for (number, attempt), (worker, serial) in computation.sending.items():
            out.append(Pass(worker.id, SentAcknowledged(number, attempt, serial, delivered=False)))
        computation.sending.clear()


def on_acknowledge_provisional(
    state: State, out: Outbox, client: Client, message: AcknowledgeProvisional, now: Seconds
) -> None:
    """Let the job go on that sent a provisional result or a part of a file, and waits for this acknowledgement.

    Late acknowledgements, for which no job waits any more, are ignored.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is None:
        return
    key = (message.number, message.attempt)
    worker, serial = computation.sending.get(key, (None, 0))
    if worker is None or serial != message.serial:
        return  # the job does not wait for this one
    del computation.sending[key]
    if worker.id in computation.workers:
        answer = SentAcknowledged(*key, message.serial, message.delivered, message.reason[:1000])
        out.append(Pass(worker.id, answer))
