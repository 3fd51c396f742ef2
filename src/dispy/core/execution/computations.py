"""Computations on a node: loaded, restarted after a crash of their host, given up, and forgotten.

``gone`` is no status: the computation is forgotten here, and comes back only with another ``Compute``.

| status  | event                                              | next    | what is sent                              |
|---------|----------------------------------------------------|---------|-------------------------------------------|
| none    | Compute                                            | LOADING | StageFiles if it has files, else StartHost|
| LOADING | FilesReady                                         | LOADING | StartHost                                 |
| LOADING | FilesFailed                                        | gone    | ComputationFailed, JobsReturned           |
| any     | HostReady                                          | READY   | ComputationReady, Credit                  |
| READY   | Compute, same generation                           | READY   | ComputationReady, Credit                  |
| any     | Compute, another generation                        | LOADING | StopHost; then as from none               |
| any     | HostFailed, ``has_died``, 1st to 3rd time in a row | LOADING | results; StartHost after ``RESTARTS_S``   |
| any     | HostFailed otherwise: could not be loaded, or died | gone    | results; ComputationFailed, JobsReturned  |
|         | for the 4th time                                   |         |                                           |
| any     | more than ``STILLBORN_MAX`` workers in a row ended | gone    | StopHost, ComputationFailed, JobsReturned |
|         | before they began a job, and none is busy          |         |                                           |
| any     | CloseComputation, or Reconcile without it          | gone    | StopHost                                  |
| any     | its client is gone; or is dead, and the            | gone    | StopHost                                  |
|         | computation has no job left                        |         |                                           |

"In a row" means without a job that ended in between. When a host dies, a job that ran ends with ``died``, so that its
scheduler may retry it; jobs that had not started stay here for the next host.
"""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, StageFiles, StartHost, StopHost, Tell
from dispy.core.execution.dispatch import STILLBORN_MAX
from dispy.core.execution.events import FilesFailed, FilesReady, HostFailed, HostReady, WorkerExited
from dispy.core.execution.fair_shares import (
    ask_exclusive,
    leave_exclusive,
    recredit,
    remove,
    restrict,
    share_out,
    tell_credit,
    wait,
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
"""Delays before restarting a crashed host (seconds): the 1st crash at once, as it may be chance, the 2nd after 0.5,
the 3rd after 2. The pauses give missing memory or descriptors time to come back. The count resets when a job ends."""


def on_compute(state: State, out: Outbox, client: Client, message: Compute, now: Seconds) -> None:
    """Load a computation. If it is here already it is not loaded again; if it is READY, the client is told so again.

    Another generation (``Compute.life``) replaces the one that is here: the jobs of the old one are forgotten, and
    the client is not told that they end.
    """
    key = (client.id, message.computation)
    computation = state.computations.get(key)
    if computation is not None and computation.spec.life != message.life:
        forget_computation(state, out, computation, now)
        computation = None
    if computation is None:
        computation = state.computations[key] = Computation(key, client, message)
        client.computations[message.computation] = computation
        load(out, computation)
        ask_exclusive(state, computation)
        restrict(state)
        # Without jobs it takes nothing from others. Its client has a share already if it has another computation.
        if len(client.computations) == 1 or state.shares_differ or state.exclusive:
            share_out(state, out, now)
        recredit(state, out, computation)
    elif computation.status is Status.READY:
        out.append(Tell(client.id, ComputationReady(message.computation, message.life)))
        computation.credit = UNTOLD
        tell_credit(state, out, computation)


def load(out: Outbox, computation: Computation) -> None:
    """Start loading a computation: have its files fetched if it has some (``FilesReady`` has its host started then),
    otherwise have its host started at once."""
    if computation.spec.files:
        out.append(StageFiles(computation.key, computation.spec))
    else:
        out.append(StartHost(computation.key, computation.spec))


def on_files_ready(state: State, out: Outbox, event: FilesReady, now: Seconds) -> None:
    """The files of a computation are in its working directory: start its host. Ignored if the event is late."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        out.append(StartHost(event.key, computation.spec))


def on_files_failed(state: State, out: Outbox, event: FilesFailed, now: Seconds) -> None:
    """The files of a computation cannot be fetched or put in place: give the computation up, which tells its client
    the reason and gives its jobs back. Ignored if the event is late."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        give_up(state, out, computation, event.reason, now)


def _staged(state: State, key: Key, life: int) -> Computation | None:
    """Returns the computation that the answer to a ``StageFiles`` is about; None if the answer comes too late.

    Too late: the computation is gone, is loaded, or has another generation than ``life``, that of the answer.
    """
    computation = state.computations.get(key)
    if computation is None or computation.status is not Status.LOADING or computation.spec.life != life:
        return None
    return computation


def on_host_ready(state: State, out: Outbox, event: HostReady, now: Seconds) -> None:
    """A host has loaded its computation, which is READY now: tell the client, and grant the computation credit."""
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.READY
    wait(state, computation)
    # Run times measured before a restart of the host hold after it, too, so credit is told at once.
    computation.credit = UNTOLD
    ready = ComputationReady(event.key[1], computation.spec.life, cut_reason(event.warning))
    out.append(Tell(computation.client.id, ready))
    tell_credit(state, out, computation)


def on_host_failed(state: State, out: Outbox, event: HostFailed, now: Seconds) -> None:
    """A host is gone with all its workers: jobs that ran end (see ``remove_worker``), the others are queued again.

    A host that died is restarted after the delays of ``RESTARTS_S``. After the 4th death in a row, or if the
    computation could not be loaded, the computation is given up and its jobs go back.
    """
    computation = state.computations.get(event.key)
    if computation is None:
        return
    computation.status = Status.LOADING
    # Workers that end with their host say nothing about the computation: they do not count as stillborn.
    stillborn = computation.stillborn
    for exited in event.exits:
        remove_worker(state, out, exited, now)
    computation.stillborn = stillborn
    tell_credit(state, out, computation)
    flush(state, out)
    drop_workers(state, computation)
    computation.crashes += 1
    if event.has_died and computation.crashes <= len(RESTARTS_S):
        # A host may be killed for a reason that is not the computation's. Jobs that had not started are still here.
        out.append(StartHost(event.key, computation.spec, RESTARTS_S[computation.crashes - 1]))
        return
    give_up(state, out, computation, event.reason, now)


def on_worker_exited(state: State, out: Outbox, event: WorkerExited, now: Seconds) -> None:
    """A worker is gone: the job that it ran ends (see ``remove_worker``), its other jobs are queued again.

    Gives the worker's computation up if more than ``STILLBORN_MAX`` workers in a row ended before they began a job.
    """
    computation = remove_worker(state, out, event, now)
    if computation is None:
        return
    # While other workers are at work their jobs go on, and no more workers are started (``dispatch``).
    if computation.stillborn > STILLBORN_MAX and not computation.busy:
        drop_workers(state, computation)
        out.append(StopHost(computation.key))
        reason = f"its workers end before they begin a job: {event.reason}"
        give_up(state, out, computation, reason, now)
        return
    tell_credit(state, out, computation)


def give_up(state: State, out: Outbox, computation: Computation, reason: str, now: Seconds) -> None:
    """Tell the scheduler that a computation cannot run here, give back all its open jobs, and forget it.

    The caller sees to it that the host is gone or stopped, and that no worker is left. Results that waited are sent
    first. The reason (in words, for the user) is cut to ``REASON_MAX`` characters.
    """
    client, number = computation.client, computation.key[1]
    # The words are those of a host, of any length, and others may stand in front of them by now.
    reason = reason[:REASON_MAX]
    if computation.untold:
        tell_ended(out, computation, [])
    remove(state, computation)
    # The failure first: a scheduler that gets returned jobs before it would send the computation again.
    out.append(Tell(client.id, ComputationFailed(number, reason, computation.spec.life)))
    left = [Attempt(job.number, job.attempt) for job in computation.open.values()]
    for start in range(0, len(left), BATCH_MAX):
        out.append(Tell(client.id, JobsReturned(number, left[start : start + BATCH_MAX], reason)))
    leave(state, out, [computation], now)


def on_close_computation(
    state: State, out: Outbox, client: Client, message: CloseComputation, now: Seconds
) -> None:
    """Forget a computation, whose client closes it, with its jobs; running ones are killed with their processes.

    Results that were sent are kept until the client acknowledges them; during a recovery they are dropped, too.
    """
    computation = state.computations.get((client.id, message.computation))
    if computation is not None:
        forget_computation(state, out, computation, now)
    if client.is_recovering:
        close_recovered(state, out, client, message.computation)


def forget_computation(state: State, out: Outbox, computation: Computation, now: Seconds) -> None:
    """Forget a computation and its jobs, stop its processes, and give its CPUs to the other computations.

    The client is not told that its open jobs end.
    """
    drop_computation(state, computation)
    out.append(StopHost(computation.key))
    leave(state, out, [computation], now)


def drop_computation(state: State, computation: Computation) -> None:
    """Forget a computation and its workers; the caller stops its processes and calls ``leave``."""
    drop_workers(state, computation)
    remove(state, computation)


def leave(state: State, out: Outbox, computations: list[Computation], now: Seconds) -> None:
    """Give the CPUs, and the turn for exclusive use, of forgotten computations to the other computations.

    Call after computations were dropped (``drop_computation``, ``give_up``), once for all of them.
    """
    leave_exclusive(state, computations)
    if state.shares_differ or any(computation.open for computation in computations):
        share_out(state, out, now)
