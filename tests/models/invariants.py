"""What must hold in the state of the machines after every event, and between any two.

Each function says what is wrong, or returns None. Those that look at every job are for now and then.
"""

from __future__ import annotations

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution.dispatch import STILLBORN_MAX, workers_max


def find_in_node(state: execution.State, busy_before: int) -> str | None:
    """What is wrong with a node's slots."""
    busy = 0
    for worker in state.workers.values():
        count = len(worker.records)
        if count:
            busy += 1
            if count > 2:
                return f"worker {worker.id} has {count} records"
    if busy != state.busy:
        return f"{state.busy} CPUs are said to be busy, and {busy} workers have records"
    if busy > state.cpus and busy > busy_before:
        return "a worker was put to work though no CPU was free"
    first = state.exclusive[0] if state.exclusive else None
    for computation in state.computations.values():
        client = computation.client
        if state.has_node and computation.busy and computation is not first:
            return "an exclusive computation has the node, and another one runs there"
        if computation.ready and busy < state.cpus and computation.status is execution.Status.READY:
            may_start = client.busy < client.cpus_max and (first is None or first is computation)
            may_start &= client.is_dead or not state.is_draining
            is_alone = first is None or busy == computation.busy
            can_fork = len(computation.workers) < workers_max(state.cpus)
            has_place = computation.idle or (can_fork and computation.stillborn <= STILLBORN_MAX)
            if may_start and is_alone and has_place:
                return f"{len(computation.ready)} jobs wait while a CPU is free"
    return None


def find_offered(state: execution.State, actions: list[execution.Action]) -> str | None:
    """What is wrong with who was given a job. One whose program was away may still run what it had, beside others."""
    if not state.exclusive:
        return None
    for action in actions:
        worker = state.workers.get(action.worker) if type(action) is execution.Offer else None
        if worker is not None and not (worker.computation is state.exclusive[0] and state.has_node):
            return "a job is started though an exclusive computation has or awaits the node"
    return None


def find_slowly_in_node(state: execution.State) -> str | None:
    """What is wrong with a node's jobs: every one that has not ended is ready or in a record, once."""
    members = [worker for computation in state.computations.values() for worker in computation.workers]
    if sorted(members) != sorted(state.workers):
        return "workers of no computation"
    for client in state.clients.values():
        if client.busy != sum(c.busy for c in state.computations.values() if c.client is client):
            return "a client is said to use another number of CPUs than its computations do"
    for key, computation in state.computations.items():
        if state.clients.get(key[0]) is not computation.client:
            return f"computation {key[1]} of no client"
        if computation.busy != sum(bool(worker.records) for worker in computation.workers.values()):
            return f"computation {key[1]} is said to use {computation.busy} CPUs, and it uses others"
        there = [*(job.number for job in computation.ready), *computation.staging]
        recorded = set()
        for worker in computation.workers.values():
            for record in worker.records:
                there += [job.number for job in record.jobs if computation.open.get(job.number) is job]
                recorded.update((job.number, job.attempt) for job in record.jobs)
            if (worker.id in computation.single) != (len(worker.records) == 1):
                return (
                    f"worker {worker.id} has {len(worker.records)} records and is booked for another number"
                )
            if (worker.id in computation.idle) != (not worker.records and not worker.is_killed):
                return f"worker {worker.id} is idle and not booked so, or the other way round"
        if sorted(there) != sorted(computation.open):
            return f"jobs {sorted(computation.open)} are open, and {sorted(there)} are there"
        if not computation.cancelling <= recorded:
            return "cancelled jobs are remembered for ever"
    return None


def find_in_scheduler(state: scheduling.State) -> str | None:
    """What is wrong with the jobs of a scheduler, counted."""
    for computation in state.computations.values():
        waiting = len(computation.queue) - len(computation.cancelled)
        if waiting and computation.free:
            return f"{waiting} jobs of computation {computation.number} wait while a CPU is free"
        if waiting and computation.backlogs:
            return f"{waiting} jobs of computation {computation.number} wait here, though they could wait on a node"
        there = waiting
        for placement in computation.placements.values():
            there += len(placement.assigned) + len(placement.pinned)
            if placement.slots < 0 or placement.backlog < 0:
                return "negative credit"
            known = placement.node
            is_free = known.id in computation.free
            is_usable = _is_usable(placement)
            if is_free is not (is_usable and placement.slots > len(placement.assigned)):
                return f"where computation {computation.number} has room is not booked so, or the other way round"
            credit = placement.slots + placement.backlog
            has_backlog = is_usable and credit - len(placement.assigned) > credit // 8
            if (known.id in computation.backlogs) is not has_backlog:
                return f"a backlog for computation {computation.number} is not booked so, or the other way round"
            if is_free and placement.pinned:
                return "a pinned job waits while its CPU is idle"
            is_waiting = len(placement.assigned) > len(placement.started)
            if (known.id in computation.waiting) is not is_waiting:
                return f"what waits of computation {computation.number} is not booked so, or the other way round"
        if computation.free and computation.waiting and computation.key not in state.uneven:
            return f"nothing of computation {computation.number} would be stolen"
        if not computation.placements.keys() >= computation.waiting.keys():
            return "jobs wait on a node that is lost"
        if there != computation.open:
            return f"computation {computation.number}: {computation.open} jobs are open, {there} are there"
    return None


def _is_usable(placement: scheduling.Placement) -> bool:
    return (
        placement.status is scheduling.Status.READY
        and placement.node.is_connected
        and not placement.node.is_comparing
        and not placement.storing
    )


def find_slowly_in_scheduler(state: scheduling.State) -> str | None:
    """What is wrong with the jobs of a scheduler, one by one."""
    for computation in state.computations.values():
        queued = [job.number for job in computation.queue]
        if not computation.cancelled <= set(queued):
            return "cancelled jobs are remembered for ever"
        there = [number for number in queued if number not in computation.cancelled]
        for placement in computation.placements.values():
            there += [job.number for job in placement.pinned]
            there += placement.assigned
            if not placement.started <= placement.assigned.keys():
                return "jobs are remembered as started for ever"
            if not placement.cancelling <= placement.assigned.keys():
                return "jobs are remembered as cancelled for ever"
            if state.nodes.get(placement.node.id) is not placement.node:
                return "a placement on a node that is lost"
        if len(set(there)) != len(there):
            return f"a job of computation {computation.number} is there twice"
        if not computation.pinned.keys() <= set(there):
            return "pinned jobs are remembered for ever"
        if not computation.deaths.keys() <= set(there):
            return "jobs whose process has died are remembered for ever"
    return None
