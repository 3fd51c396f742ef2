"""Workers: their results, provisional results and ends, and where they are, tick by tick.

Theory of operation. A worker is forked for one computation and runs *records*, batches of jobs, one after another. It
has at most two: the one that it runs and one that waits, so that it is never idle between two. A worker publishes its
*position* (record and job) in shared memory; the core sees it at each tick (10 ms). There are two ways to take back
jobs that have not begun: a record that the worker has not taken is *recalled* through the kernel, and the rest of one
that it has taken is *cut* off. Both may come too late: the jobs of a record are used again only when ``Recalled``
names it, and jobs behind a cut only one tick later, when it is sure that the worker has not begun them.

| state of a record | event                                    | next    | what is sent or done                      |
|-------------------|------------------------------------------|---------|-------------------------------------------|
| none              | ``dispatch`` offers it                   | offered | Offer; ForkWorker if there was no worker  |
| offered           | tick: the worker's position is in it     | running |                                           |
| offered           | its CPU or its jobs are wanted elsewhere | offered | Recall                                    |
| offered           | Recalled names it                        | none    | its jobs are queued again                 |
| offered           | Recalled does not name it: taken         | offered | not recalled again (``Worker.kept``)      |
| running           | tick: position as at the last tick       | running | JobsStarted; Cut if jobs follow           |
| running           | a tick after Cut, the same position      | running | jobs behind the cut are queued again      |
| running           | its current job is cancelled             | running | InterruptWorker, Cut                      |
| running           | tick: still there after the grace time   | running | KillWorker                                |
| offered, running  | Ran, the last of the record              | none    | results; jobs that did not run are queued |
| any               | WorkerExited                             | none    | the job at its position and those before  |
|                   |                                          |         | end, the others are queued again          |

A worker without a record is idle. One that retires (``Ran.is_retiring``), is killed, or is told to end, as it has
been idle for long (``dispatch.end_idle``), gets no record any more.

Results wait a moment for others, while many more are to come: a message costs its sender and its receiver some 100 us
together, whatever it holds.
"""

from __future__ import annotations

from dispy.core.execution import live_output
from dispy.core.execution.actions import Cut, FlushSoon, KillWorker, Outbox, Pass, Tell
from dispy.core.execution.events import Flush, Ran, Recalled, Tick, ValueSent, WorkerExited
from dispy.core.execution.fair_shares import (
    BACKLOG_US,
    SHARE_S,
    charge,
    share_out,
    tell_credit,
    vacate,
)
from dispy.core.execution.ids import Seconds
from dispy.core.execution.jobs import (
    cut_or_interrupt,
    release,
    requeue,
    segments_of,
    take_ready,
    tell_ended,
)
from dispy.core.execution.state import Computation, State, Worker
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import (
    FINISHED,
    TERMINATED,
    Ended,
    Job,
    JobsReturned,
    JobsStarted,
    Provisional,
    Started,
)
from dispy.protocol.worker import Record, SentAcknowledged, claim, split_claim

COMPANY = 256
"""Number of results of a computation at which those that wait to share a message are sent at once."""

COMPANY_OPEN = 64
"""Number of open jobs of a computation below which results of its short jobs do not wait to share a message: a
program may wait for just these."""

COMPANY_US = 2000
"""Run time (microseconds) that at most one job in a hundred may exceed for jobs to count as short: their results wait
``WAIT_S`` if there are ``COMPANY_OPEN`` jobs, those of longer ones by the rule of ``LONG_WAIT_S``."""

WAIT_S = 0.002
"""Time that results of short jobs wait for others to share a message with (seconds)."""

LONG_WAIT_S = 0.005
"""Time that results of longer jobs wait for others to share a message with (seconds), if two may come in that time
and there is work for four times as long. Without it, half of the time of a node and its client was spent on messages
of one result each when a program did nothing."""


def on_ran(state: State, out: Outbox, event: Ran, now: Seconds) -> None:
    """Take results of a worker, which are sent to the client now or a moment later together with others.

    If the worker has finished its record, jobs that the node has cut off the record's end for others to run, and that
    the worker has not begun, are queued again. The worker may get another record.
    """
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    computation = worker.computation
    take_results(out, computation, event.ended)
    if event.is_retiring:
        worker.is_killed = True
    if event.is_last and worker.records and worker.records[0].record == event.record:
        record = worker.records.popleft()
        # Jobs beyond ``executed`` were cut off, and the worker noticed before they were taken back here.
        requeue(state, out, computation, record.jobs[event.executed :])
        _release(state, worker, now)
    _tell_or_wait(state, out, computation)
    tell_credit(state, out, computation)


def _release(state: State, worker: Worker, now: Seconds) -> None:
    """Update CPUs in use, ``single`` and ``idle`` after the caller has taken a record out of ``Worker.records``.

    If no record is left the worker's CPU is free, and the worker is idle unless it is being killed.
    """
    charge(state, worker, now)
    worker.cut = 0
    worker.interrupted = 0
    computation = worker.computation
    if worker.records:
        computation.double.pop(worker.id, None)
        computation.single[worker.id] = worker
        return
    computation.single.pop(worker.id, None)
    vacate(state, worker)
    if not worker.is_killed:
        computation.idle[worker.id] = worker


def _tell_or_wait(state: State, out: Outbox, computation: Computation) -> None:
    """Send the results in ``untold`` of a computation, or let them wait for others to share a message with.

    They wait until ``COMPANY`` results are there or ``Flush`` comes, after the time that ``_company_s`` returns. All
    computations share one ``Flush``: while one is on its way, results wait for that.
    """
    if not computation.untold:
        return
    wait = _company_s(state, computation)
    if not wait or len(computation.untold) >= COMPANY:
        tell_ended(out, computation, [])
    else:
        state.unflushed[computation.key] = computation
        if not state.is_flushing:
            state.is_flushing = True
            out.append(FlushSoon(wait))


def _company_s(state: State, computation: Computation) -> Seconds:
    """Returns for how long results of a computation may wait to share a message with others (seconds); 0: not at all.

    Results wait only while many jobs are open: otherwise the scheduler, not knowing that a job has ended, might leave
    a CPU idle.
    """
    count = len(computation.open)
    if computation.runtimes.high_us() <= COMPANY_US:
        return WAIT_S if count >= COMPANY_OPEN else 0.0
    mean_s = computation.runtimes.expected_us(BACKLOG_US) / 1e6
    cpu_s = LONG_WAIT_S * state.cpus
    return LONG_WAIT_S if 2 * mean_s <= cpu_s and count * mean_s >= 4 * cpu_s else 0.0


def on_flush(state: State, out: Outbox, event: Flush, now: Seconds) -> None:
    """Send all results that have waited for others: the time of ``FlushSoon`` is over."""
    state.is_flushing = False
    flush(state, out)


def flush(state: State, out: Outbox) -> None:
    """Send all results that wait for others (``untold``), of all computations, without waiting any longer."""
    for computation in state.unflushed.values():
        if computation.untold:
            tell_ended(out, computation, [])
    state.unflushed.clear()


def take_results(out: Outbox, computation: Computation, results: list[Ended]) -> None:
    """Append the results of open attempts to ``untold``, and count their run times; the attempts are no longer open.

    All other results are dropped: they were told before, or are of attempts that the client no longer wants. The
    caller sends ``untold``.
    """
    open_ = computation.open
    wanted = []
    for result in results:
        job = open_.get(result.number)
        if job is not None and job.attempt == result.attempt:
            del open_[result.number]
            wanted.append(result)
        elif (result.number, result.attempt) in computation.cancelling:
            # Obsolete. Other results were told before: a worker may send one twice.
            release(out, computation.key, [result.stream, result.output_stream])
    if computation.cancelling:
        computation.cancelling.difference_update([(r.number, r.attempt) for r in results])
    for result in results if computation.sending else ():
        # The last value of the job was never acknowledged, and the job did not wait for that.
        computation.sending.pop((result.number, result.attempt), None)
    if not wanted:
        return
    # A job can make its times up; no negative durations come of that.
    durations = [r.end - r.start if r.end > r.start else 0.0 for r in wanted]
    computation.runtimes.add([int(d * 1e6) for d in durations])
    if computation.filed:
        computation.filed.difference_update([r.number for r in wanted])
    if computation.watched:
        computation.watched.difference_update([r.number for r in wanted])
    computation.sampled += len(wanted)
    computation.finished += [r.status for r in wanted].count(FINISHED)
    computation.crashes = computation.stillborn = 0
    computation.untold += wanted


def on_value_sent(state: State, out: Outbox, event: ValueSent, now: Seconds) -> None:
    """Pass a provisional result, or a part of a file, on to the client; the job waits for the acknowledgement.

    If the attempt is not open or its client not connected, the job is told that the value was not delivered.
    """
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    computation = worker.computation
    job = computation.open.get(event.number)
    if job is None or job.attempt != event.attempt or not computation.client.is_connected:
        release(out, computation.key, [event.stream])
        out.append(
            Pass(worker.id, SentAcknowledged(event.number, event.attempt, event.serial, delivered=False))
        )
        return
    computation.sending[event.number, event.attempt] = worker, event.serial
    message = Provisional(
        computation.key[1],
        event.number,
        event.attempt,
        event.serial,
        event.payload,
        event.stream,
        0,
        event.file,
    )
    out.append(Tell(computation.client.id, message))


def on_recalled(state: State, out: Outbox, event: Recalled, now: Seconds) -> None:
    """Put the jobs of recalled records back to the head of ``ready``, and give as many ready jobs back to the
    scheduler as it asked for (``Worker.owed``).

    A second record that the worker had taken before the recall stays, and is not recalled again (``Worker.kept``).
    """
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    owed, worker.owed = worker.owed, 0
    recalled = set(event.records)
    kept = [record for record in worker.records if record.record not in recalled]
    back = [record for record in worker.records if record.record in recalled]
    worker.computation.double.pop(worker.id, None)
    if len(kept) > 1:
        worker.kept = kept[1].record
    if not back:
        return
    worker.records.clear()
    worker.records.extend(kept)
    for record in reversed(back):
        requeue(state, out, worker.computation, record.jobs)
    if kept:
        worker.computation.single[worker.id] = worker
    else:
        _release(state, worker, now)
    if owed:
        client, number = worker.computation.client, worker.computation.key[1]
        attempts = take_ready(out, worker.computation, owed)
        if attempts:
            out.append(Tell(client.id, JobsReturned(number, attempts)))


def remove_worker(state: State, out: Outbox, event: WorkerExited, now: Seconds) -> Computation | None:
    """Forget a worker that is gone: end the job that it was at as ``TERMINATED``, and queue its other jobs again.

    The results of jobs that had ended were reported before. ``event.position`` tells which jobs the worker had begun.

    Returns:
        The worker's computation; None if the worker is not known. The caller decides whether the computation goes on.
    """
    worker = state.workers.pop(event.worker, None)
    if worker is None:
        return None
    computation = worker.computation
    computation.workers.pop(worker.id, None)
    computation.idle.pop(worker.id, None)
    computation.single.pop(worker.id, None)
    computation.double.pop(worker.id, None)
    if worker.records:
        charge(state, worker, now)
        vacate(state, worker)
    for sending in [key for key, (sender, _) in computation.sending.items() if sender is worker]:
        del computation.sending[sending]
    at_record, at = split_claim(event.position)
    for record in reversed(worker.records):
        if record.record == at_record:
            requeue(state, out, computation, record.jobs[at + 1 :])
            _end_running(out, computation, record.jobs[: at + 1], worker, event, now)
        else:
            requeue(state, out, computation, record.jobs)
    if not event.position and not worker.is_killed:
        computation.stillborn += 1
    return computation


def _end_running(
    out: Outbox,
    computation: Computation,
    jobs: list[Job],
    worker: Worker,
    event: WorkerExited,
    now: Seconds,
) -> None:
    """End jobs that a dead worker had begun and that have no result as ``TERMINATED``, and tell the client.

    The results say ``died``, so that the scheduler may retry these jobs, unless the worker was killed because its job
    was cancelled.
    """
    reason = event.reason
    if worker.interrupted:
        reason = f"cancelled; killed after {computation.spec.grace_s:g} s because it went on"
    ended = []
    for job in jobs:
        if computation.open.get(job.number) is job:
            ended.append(
                Ended(
                    job.number,
                    job.attempt,
                    TERMINATED,
                    event.start,
                    event.end,
                    b"",
                    reason=reason,
                    died=not worker.interrupted,
                )
            )
    # Segments with their arguments. The worker itself has deleted those of jobs that had ended.
    release(out, computation.key, segments_of(jobs))
    take_results(out, computation, ended)
    computation.cancelling.difference_update([(job.number, job.attempt) for job in jobs])
    tell_ended(out, computation, [])


def on_tick(state: State, out: Outbox, event: Tick, now: Seconds) -> None:
    """Look where workers are: a job that a worker was at when the last tick came, too, is told as started.

    Jobs behind it in its record are cut off and queued again, so that other workers run them. A worker whose
    cancelled job has ignored the interrupt for the grace time is killed. At the end new output of watched jobs is
    read (``live_output.look``), and with several clients the CPUs are shared out anew.
    """
    started: dict[int, list[Started]] = {}
    by_computation: dict[int, Computation] = {}
    for worker_id, (position, start) in event.positions.items():
        worker = state.workers.get(worker_id)
        if worker is None or not worker.records:
            continue
        charge(state, worker, now)
        if position != worker.position:
            worker.moved = now
        record = worker.records[0]
        at_record, at = split_claim(position)
        if at_record != record.record or at >= len(record.jobs):
            worker.position = position
            continue
        computation = worker.computation
        if position == worker.position:
            if worker.told != position and record.jobs[at].number in computation.open:
                worker.told = position
                job = record.jobs[at]
                started.setdefault(id(computation), []).append(Started(job.number, job.attempt, start))
                by_computation[id(computation)] = computation
            _free_rest(state, out, worker, record, position)
        worker.position = position
        # Still at this position after the interrupt, with all behind it cut off: the worker is at no other job.
        if worker.interrupted == position and now >= worker.deadline and not worker.is_killed:
            worker.is_killed = True
            out.append(KillWorker(worker.id))
        cut_or_interrupt(out, worker, now)
    for key, jobs in started.items():
        computation = by_computation[key]
        for start in range(0, len(jobs), BATCH_MAX):
            message = JobsStarted(computation.key[1], jobs[start : start + BATCH_MAX])
            out.append(Tell(computation.client.id, message))
    if now >= state.look_at:
        live_output.look(state, out, event.positions, now)
    if len(state.clients) > 1 and now - state.share_at >= SHARE_S:
        share_out(state, out, now)


def _free_rest(state: State, out: Outbox, worker: Worker, record: Record, position: int) -> None:
    """Take away the jobs behind the one that a worker is at, if it has not moved since the last tick.

    Cutting takes two steps. First the limit is written. One tick later all jobs behind both the limit and the
    position where the worker is then are taken back. The tick between stands for a memory barrier: in that time
    either the worker has seen the limit, or its position shows how far it got.
    """
    at_record, at = split_claim(position)
    if not worker.cut:
        if at + 1 < len(record.jobs):
            worker.cut = claim(at_record, at + 1)
            out.append(Cut(worker.id, worker.cut))
        return
    keep = max(at + 1, split_claim(worker.cut)[1])
    if keep < len(record.jobs):
        rest = record.jobs[keep:]
        del record.jobs[keep:]
        requeue(state, out, worker.computation, rest)


def drop_workers(state: State, computation: Computation) -> None:
    """Forget the workers of a computation whose host is gone or stopped; their CPUs are free.

    The jobs in their records stay in ``open``: the caller has queued them again, gives them back, or forgets them.
    """
    for worker in computation.workers.values():
        state.workers.pop(worker.id, None)
        if worker.records:
            vacate(state, worker)
    computation.workers.clear()
    computation.idle.clear()
    computation.single.clear()
    computation.double.clear()
    computation.sending.clear()
