"""What does not go on though it could: for a fault of ours, or because a process stands still."""

from __future__ import annotations

from dispy.core.execution.fair_shares import may_start
from dispy.core.execution.state import State, Status
from dispy.protocol.worker import split_claim
from dispy.system.wording import counted


def find_stall(state: State) -> str:
    """What stands still now, in words that change when it moves; empty if nothing does.

    For a moment a worker that has just been given a job is nothing unusual.
    """
    free = state.cpus - state.busy
    for computation in state.computations.values():
        client = computation.client
        of = f"of {computation.spec.name} of {client.name}"
        if (
            computation.ready
            and free > 0
            and computation.status is Status.READY
            and client.busy < client.cpus_max
            and may_start(state, computation)
        ):
            return (
                f"{counted(len(computation.ready), f'job {of} waits', f'jobs {of} wait')}, "
                f"from number {computation.ready[0].number}, and {free} of {counted(state.cpus, 'CPU')} free"
            )
    for worker in state.workers.values():
        record = worker.records[0] if worker.records else None
        if record is None or not record.jobs or record.jobs[0].number in worker.computation.filed:
            # One that brings files may wait for another job that has some of the same names.
            continue
        if split_claim(worker.position)[0] != record.record:
            return (
                f"a process for {worker.computation.spec.name} of {worker.computation.client.name} was given job "
                f"{record.jobs[0].number} and has not begun it"
            )
    return ""
