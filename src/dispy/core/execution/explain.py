"""Stalls: finds jobs that do not go on though they could, and puts that into words for the node's log.

A stall is a fault of this program or of a process that stands still. Nothing is done about it but to say so.
"""

from __future__ import annotations

from dispy.core.execution.fair_shares import may_start
from dispy.core.execution.state import State, Status
from dispy.protocol.worker import split_claim
from dispy.system.wording import counted


def find_stall(state: State) -> str:
    """Returns in words which jobs wait though a CPU is free, or which worker has not begun its job; empty if none.

    One such answer means nothing, as a worker may just have been given a job. The words change when anything moves:
    a caller that gets equal words for as long as its watchdog allows has found a stall, and logs it.
    """
    free = state.cpus - state.busy
    for computation in (*state.living.computations.values(), *state.orphans.computations.values()):
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
    for worker in state.running.values():
        record = worker.records[0]
        if not record.jobs or record.jobs[0].number in worker.computation.filed:
            # A job that brings files may wait for another one whose files have the same names.
            continue
        if split_claim(worker.position)[0] != record.record:
            return (
                f"a process for {worker.computation.spec.name} of {worker.computation.client.name} was given job "
                f"{record.jobs[0].number} and has not begun it"
            )
    return ""
