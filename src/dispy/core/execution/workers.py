"""What workers report: results, provisional results, their end; and where they are, tick by tick."""

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
from dispy.core.execution.jobs import cut_or_interrupt, release, requeue, take_ready, tell_ended
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
"""Results that go out without waiting for more."""

COMPANY_OPEN = 64
"""Open jobs of a computation below which its results do not wait: somebody may wait for just these."""

COMPANY_US = 2000
"""Jobs of which hardly one runs longer (microseconds) are a crowd."""

WAIT_S = 0.002
"""How long results of a crowd wait for others."""

LONG_WAIT_S = 0.005
"""How long those of longer jobs do, where two may come in that time and work for four times as long is here:
half of what a node and its client spend on a program that does nothing was messages of one result each."""


def on_ran(state: State, out: Outbox, event: Ran, now: Seconds) -> None:
    """Pass results on and free the worker at the end of its record."""
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    computation = worker.computation
    take_results(out, computation, event.ended)
    if event.is_retiring:
        worker.is_killed = True
    if event.is_last and worker.records and worker.records[0].record == event.record:
        record = worker.records.popleft()
        # Jobs beyond ``executed`` were cut off, and the worker noticed before we took them back.
        requeue(out, computation, record.jobs[event.executed :])
        _release(state, worker, now)
    _tell_or_wait(state, out, computation)
    tell_credit(state, out, computation)


def _release(state: State, worker: Worker, now: Seconds) -> None:
    """A worker has one record less."""
    charge(state, worker, now)
    worker.cut = 0
    worker.interrupted = 0
    computation = worker.computation
    if worker.records:
        computation.single[worker.id] = worker
        return
    computation.single.pop(worker.id, None)
    vacate(state, worker)
    if not worker.is_killed:
        computation.idle[worker.id] = worker


def _tell_or_wait(state: State, out: Outbox, computation: Computation) -> None:
    """Send results, or let them wait for others.

    A message costs its sender and its receiver some 100 us together, whatever it holds.
    """
    if not computation.untold:
        return
    wait = _company_s(state, computation)
    if not wait or len(computation.untold) >= COMPANY:
        tell_ended(out, computation, [])
    elif not state.is_flushing:
        state.is_flushing = True
        out.append(FlushSoon(wait))


def _company_s(state: State, computation: Computation) -> Seconds:
    """How long results may wait: while many jobs are open here nobody can be kept idle by that."""
    count = len(computation.open)
    if computation.runtimes.high_us() <= COMPANY_US:
        return WAIT_S if count >= COMPANY_OPEN else 0.0
    mean_s = computation.runtimes.expected_us(BACKLOG_US) / 1e6
    cpu_s = LONG_WAIT_S * state.cpus
    return LONG_WAIT_S if 2 * mean_s <= cpu_s and count * mean_s >= 4 * cpu_s else 0.0


def on_flush(state: State, out: Outbox, event: Flush, now: Seconds) -> None:
    """Results have waited long enough."""
    state.is_flushing = False
    flush(state, out)


def flush(state: State, out: Outbox) -> None:
    """Send all results that wait."""
    for computation in state.computations.values():
        if computation.untold:
            tell_ended(out, computation, [])


def take_results(out: Outbox, computation: Computation, results: list[Ended]) -> None:
    """Pass on the results of attempts that are still wanted, and learn from their durations."""
    open_ = computation.open
    wanted = []
    for result in results:
        job = open_.get(result.number)
        if job is not None and job.attempt == result.attempt:
            del open_[result.number]
            wanted.append(result)
        elif (result.number, result.attempt) in computation.cancelling:
            # Obsolete. Others were told before: a worker may send results twice.
            release(out, computation.key, [result.stream, result.output_stream])
    if computation.cancelling:
        computation.cancelling.difference_update([(r.number, r.attempt) for r in results])
    for result in results if computation.sending else ():
        # Its last value was never acknowledged, and it did not wait for that.
        computation.sending.pop((result.number, result.attempt), None)
    if not wanted:
        return
    # What a job says of its times can be made up; nothing negative comes of it.
    durations = [r.end - r.start if r.end > r.start else 0.0 for r in wanted]
    computation.runtimes.add([int(d * 1e6) for d in durations])
    if computation.filed:
        computation.filed.difference_update([r.number for r in wanted])
    computation.sampled += len(wanted)
    computation.finished += [r.status for r in wanted].count(FINISHED)
    computation.crashes = computation.stillborn = 0
    computation.untold += wanted


def on_value_sent(state: State, out: Outbox, event: ValueSent, now: Seconds) -> None:
    """Pass a provisional result on; its job waits for the acknowledgement."""
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
    """Records that were not taken go back to the queue."""
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    owed, worker.owed = worker.owed, 0
    recalled = set(event.records)
    kept = [record for record in worker.records if record.record not in recalled]
    back = [record for record in worker.records if record.record in recalled]
    if len(kept) > 1:
        worker.kept = kept[1].record
    if not back:
        return
    worker.records.clear()
    worker.records.extend(kept)
    for record in reversed(back):
        requeue(out, worker.computation, record.jobs)
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
    """Give the job that a dead worker was at its end, and the others back to the queue.

    All results that the worker had finished were told before. What it had taken and not begun is
    known from its position; what it had not taken, from the kernel. Returns the computation, None if the
    worker is not known.
    """
    worker = state.workers.pop(event.worker, None)
    if worker is None:
        return None
    computation = worker.computation
    computation.workers.pop(worker.id, None)
    computation.idle.pop(worker.id, None)
    computation.single.pop(worker.id, None)
    if worker.records:
        charge(state, worker, now)
        vacate(state, worker)
    for sending in [key for key, (sender, _) in computation.sending.items() if sender is worker]:
        del computation.sending[sending]
    at_record, at = split_claim(event.position)
    for record in reversed(worker.records):
        if record.record == at_record:
            requeue(out, computation, record.jobs[at + 1 :])
            _end_running(out, computation, record.jobs[: at + 1], worker, event, now)
        else:
            requeue(out, computation, record.jobs)
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
    # What the worker had for them; of those that had ended it has let go itself.
    release(out, computation.key, [job.stream for job in jobs])
    take_results(out, computation, ended)
    computation.cancelling.difference_update([(job.number, job.attempt) for job in jobs])
    tell_ended(out, computation, [])


def on_tick(state: State, out: Outbox, event: Tick, now: Seconds) -> None:
    """Look where the workers are: tell long jobs as started, free what waits behind them."""
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
            _free_rest(out, worker, record, position)
        worker.position = position
        # Seen here after its interrupt, when all behind it was cut off: it is at no other job.
        if worker.interrupted == position and now >= worker.deadline and not worker.is_killed:
            worker.is_killed = True
            out.append(KillWorker(worker.id))
        cut_or_interrupt(out, worker, now)
    for key, jobs in started.items():
        computation = by_computation[key]
        for start in range(0, len(jobs), BATCH_MAX):
            message = JobsStarted(computation.key[1], jobs[start : start + BATCH_MAX])
            out.append(Tell(computation.client.id, message))
    if state.watched:
        live_output.look(state, out, event.positions, now)
    if len(state.clients) > 1 and now - state.share_at >= SHARE_S:
        share_out(state, out, now)


def _free_rest(out: Outbox, worker: Worker, record: Record, position: int) -> None:
    """A worker did not move since the last tick: take away what waits behind its job.

    Cutting is two steps. The limit is written; one tick later everything behind both the limit and
    the place where the worker is then is ours. The tick between stands for a memory barrier: in
    that time either the worker has seen the limit or we see how far it got.
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
        requeue(out, worker.computation, rest)


def drop_workers(state: State, computation: Computation) -> None:
    """Forget the workers of a computation whose host is gone."""
    for worker in computation.workers.values():
        state.workers.pop(worker.id, None)
        if worker.records:
            vacate(state, worker)
    computation.workers.clear()
    computation.idle.clear()
    computation.single.clear()
    computation.sending.clear()
