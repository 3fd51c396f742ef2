"""What must hold in the state of the machines after every event, and between any two.

Each function says what is wrong, or returns None. Those that look at every job are for now and then.
"""

from __future__ import annotations

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution.dispatch import STILLBORN_MAX, workers_max
from dispy.core.scheduling.lines.accounts import has_room_ahead, room, room_behind
from dispy.core.scheduling.lines.waiting import most_now


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
        is_kept = computation.party is not None and most_now(computation) == 0
        if waiting and not is_kept and any(room(each) > 0 for each in computation.free.values()):
            return f"{waiting} jobs of computation {computation.number} wait while a CPU is free"
        if waiting and not is_kept and any(room_behind(each) > 0 for each in computation.backlogs.values()):
            return f"{waiting} jobs of computation {computation.number} wait here, though they could wait on a node"
        there = waiting
        for placement in computation.placements.values():
            there += len(placement.assigned) + len(placement.pinned)
            if placement.slots < 0 or placement.backlog < 0:
                return "negative credit"
            known, wire = placement.node, computation.wire
            is_booked, is_usable = known.id in computation.free, _is_usable(placement)
            # Others may have taken the room since it was booked, but nothing has room that is not booked.
            is_free = is_usable and placement.slots > len(placement.assigned)
            if is_booked and not is_free:
                return f"computation {computation.number} has no room where it is booked so"
            is_held = placement.quota is not None and wire in placement.quota.held
            if is_held and (is_booked or known.id in computation.backlogs or placement.quota.left() > 0):
                return f"computation {computation.number} is held by a limit that is not reached"
            if is_held:
                continue
            if is_free and not is_booked and (room(placement) > 0 or wire not in known.for_slot):
                return f"computation {computation.number} has room that is not booked"
            credit = placement.slots + placement.backlog
            has_backlog = is_usable and credit - len(placement.assigned) > credit // 8
            is_booked = known.id in computation.backlogs
            if is_booked and not (is_usable and credit > len(placement.assigned)):
                return f"computation {computation.number} has no backlog where it is booked so"
            if has_backlog and not is_booked and (has_room_ahead(known) or wire not in known.for_room):
                return f"a backlog for computation {computation.number} is not booked"
            if is_free and room(placement) > 0 and placement.pinned and not is_kept:
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
    return _find_in_accounts(state)


def _find_in_accounts(state: scheduling.State) -> str | None:
    """What is wrong with the accounts of nodes and users."""
    if state.lines.due:
        return "something is to be done after an event and was not"
    for known in state.nodes.values():
        # One that is alone in the scheduler needs no accounts.
        placements = [p for p in known.placements.values() if p.computation.party is not None]
        if known.assigned != sum(len(placement.assigned) for placement in placements):
            return f"{known.assigned} jobs are said to be on a node, and others are"
        filled = sum(len(placement.assigned) / placement.width for placement in placements)
        if abs(known.filled - filled) > 1e-6:
            return f"the account of a node is filled to {known.filled}, and should be to {filled}"
        parked = {*known.for_slot, *known.for_room}
        if any(wire not in known.placements or not _is_usable(known.placements[wire]) for wire in parked):
            return "a placement is parked that gets no jobs"
    for client, program in state.lines.programs.items():
        for node_id, quota in program.quotas.items():
            known_node = state.nodes.get(node_id)
            own = (
                {}
                if known_node is None
                else {w: p for w, p in known_node.placements.items() if p.computation.client == client}
            )
            if quota.placements != own or any(placement.quota is not quota for placement in own.values()):
                return f"the limit of client {client} at a node is not that of its computations there"
            if quota.assigned != sum(len(placement.assigned) for placement in own.values()):
                return f"the jobs of client {client} at a node are counted wrong"
            if not quota.held.keys() <= own.keys():
                return f"the limit of client {client} holds a computation that is gone"
    for tenant in state.lines.tenants.values():
        own = [computation for computation in state.computations.values() if computation.tenant is tenant]
        assigned = sum(len(p.assigned) for computation in own for p in computation.placements.values())
        if tenant.assigned != assigned or tenant.open != sum(computation.open for computation in own):
            return f"the jobs of {tenant.user} are counted wrong"
    for computation in state.computations.values():
        party = computation.party
        if party is None:
            continue
        advance = sum(len(p.assigned) * p.cost_s for p in computation.placements.values())
        running = sum(len(p.started) for p in computation.placements.values())
        if abs(party.advance_s - advance) > 1e-6 or party.running != running:
            return f"what computation {computation.number} has had is counted wrong"
        if party.active != bool(computation.open):
            return (
                f"computation {computation.number} is said to have jobs, or none, and the other way round"
            )
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
