"""Computations on a node: loaded, restarted after a crash of their host, given up, and forgotten."""

from __future__ import annotations

from dispy.core.execution import live_output
from dispy.core.execution.actions import Outbox, StageFiles, StartHost, StopHost, Tell
from dispy.core.execution.dispatch import STILLBORN_MAX
from dispy.core.execution.events import FilesFailed, FilesReady, HostFailed, HostReady, WorkerExited
from dispy.core.execution.fair_shares import (
    ask_exclusive,
    leave_exclusive,
    restrict,
    share_out,
    tell_credit,
)
from dispy.core.execution.ids import Key, Seconds
from dispy.core.execution.jobs import tell_ended
from dispy.core.execution.retention import close_recovered
from dispy.core.execution.state import UNTOLD, Client, Computation, State, Status
from dispy.core.execution.workers import drop_workers, flush, remove_worker
from dispy.protocol.limits import BATCH_MAX, REASON_MAX
from dispy.protocol.node import (
    Attempt,
    CloseComputation,
    ComputationFailed,
    ComputationReady,
    Compute,
    JobsReturned,
)
from dispy.protocol.output import cut_reason

RESTARTS_S = (0.0, 0.5, 2.0)
"""After what time a host is started again that has died (seconds), as often in a row without a job having ended:
at once, as its death may be nobody's fault; then with pauses, in which what it lacked may come back."""


def on_compute(state: State, out: Outbox, client: Client, message: Compute, now: Seconds) -> None:
    """Load a computation, once."""
    key = (client.id, message.computation)
    computation = state.computations.get(key)
    if computation is not None and computation.spec.life != message.life:
        forget_computation(state, out, computation, now)
        computation = None
    if computation is None:
        computation = state.computations[key] = Computation(key, client, message)
        if message.live:
            live_output.watch(state, computation, [])
        load(out, computation)
        ask_exclusive(state, computation)
        restrict(state)
        share_out(state, out, now)
    elif computation.status is Status.READY:
        out.append(Tell(client.id, ComputationReady(message.computation, message.life)))
        computation.credit = UNTOLD
        tell_credit(state, out, computation)


def load(out: Outbox, computation: Computation) -> None:
    """Have a computation loaded, after its files if it has some."""
    if computation.spec.files:
        out.append(StageFiles(computation.key, computation.spec))
    else:
        out.append(StartHost(computation.key, computation.spec))


def on_files_ready(state: State, out: Outbox, event: FilesReady, now: Seconds) -> None:
    """The files of a computation lie in its working directory: it can be loaded."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        out.append(StartHost(event.key, computation.spec))


def on_files_failed(state: State, out: Outbox, event: FilesFailed, now: Seconds) -> None:
    """They cannot be had, or put there: the computation does not run here."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        give_up(state, out, computation, event.reason, now)


def _staged(state: State, key: Key, life: int) -> Computation | None:
    computation = state.computations.get(key)
    if computation is None or computation.status is not Status.LOADING or computation.spec.life != life:
        return None
    return computation


def on_host_ready(state: State, out: Outbox, event: HostReady, now: Seconds) -> None:
    """A computation can take jobs."""
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.READY
    # What is sampled once holds for a host that was started again, too.
    computation.credit = UNTOLD
    ready = ComputationReady(event.key[1], computation.spec.life, cut_reason(event.warning))
    out.append(Tell(computation.client.id, ready))
    tell_credit(state, out, computation)


def on_host_failed(state: State, out: Outbox, event: HostFailed, now: Seconds) -> None:
    """A host is gone with all its workers: what ran has ended, what did not goes back."""
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.LOADING
    for exited in event.exits:
        on_worker_exited(state, out, exited, now)
    flush(state, out)
    drop_workers(state, computation)
    computation.crashes += 1
    if event.has_died and computation.crashes <= len(RESTARTS_S):
        # Whoever kills a host may not mean the computation. What had not started is still here.
        out.append(StartHost(event.key, computation.spec, RESTARTS_S[computation.crashes - 1]))
        return
    give_up(state, out, computation, event.reason, now)


def on_worker_exited(state: State, out: Outbox, event: WorkerExited, now: Seconds) -> None:
    """A worker is gone. If workers end one after the other before they begin a job, so does the computation."""
    computation = remove_worker(state, out, event, now)
    if computation is None:
        return
    # While others are at work their jobs go on, and no more workers are started (``offers``).
    if computation.stillborn > STILLBORN_MAX and not computation.busy:
        drop_workers(state, computation)
        out.append(StopHost(computation.key))
        reason = f"its workers end before they begin a job: {event.reason}"
        give_up(state, out, computation, reason, now)
        return
    tell_credit(state, out, computation)


def give_up(state: State, out: Outbox, computation: Computation, reason: str, now: Seconds) -> None:
    """Tell the scheduler that this computation cannot run here, and give its jobs back."""
    client, number = computation.client, computation.key[1]
    # A host says what it likes, and its words may have others in front of them by now.
    reason = reason[:REASON_MAX]
    if computation.untold:
        tell_ended(out, computation, [])
    del state.computations[computation.key]
    live_output.forget(state, computation.key)
    # The failure first: what is returned after it must not bring the computation back here.
    out.append(Tell(client.id, ComputationFailed(number, reason, computation.spec.life)))
    left = [Attempt(job.number, job.attempt) for job in computation.open.values()]
    for start in range(0, len(left), BATCH_MAX):
        out.append(Tell(client.id, JobsReturned(number, left[start : start + BATCH_MAX], reason)))
    leave(state, out, [computation], now)


def on_close_computation(
    state: State, out: Outbox, client: Client, message: CloseComputation, now: Seconds
) -> None:
    """Forget a computation and whatever of it still runs."""
    computation = state.computations.get((client.id, message.computation))
    if computation is not None:
        forget_computation(state, out, computation, now)
    if client.is_recovering:
        close_recovered(state, out, client, message.computation)


def forget_computation(state: State, out: Outbox, computation: Computation, now: Seconds) -> None:
    """Drop a computation, its jobs and its processes."""
    drop_computation(state, computation)
    out.append(StopHost(computation.key))
    leave(state, out, [computation], now)


def drop_computation(state: State, computation: Computation) -> None:
    drop_workers(state, computation)
    del state.computations[computation.key]
    live_output.forget(state, computation.key)


def leave(state: State, out: Outbox, computations: list[Computation], now: Seconds) -> None:
    """Computations are gone: what they had is the others'."""
    leave_exclusive(state, computations)
    share_out(state, out, now)
