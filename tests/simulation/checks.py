"""What must hold in the state of the machines, looked at after every event that one of them has handled.

The cheap checks are made every time, those that look at every job now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution import Machine as ExecutionMachine
from dispy.core.execution.dispatch import STILLBORN_MAX, workers_max
from dispy.core.scheduling import Machine as SchedulingMachine
from dispy.protocol.node import CancelJobs, RunJobs
from dispy.protocol.worker import object_name

if TYPE_CHECKING:
    from dispy.node.state import Loaded

    from .computer import Computer
    from .program import Program

EVERY = 64
"""Events from one slow look to the next."""


def watch_node(computer: Computer, machine: ExecutionMachine) -> None:
    """Look at a node's machine after each event."""
    decide = machine.handle
    state = machine.state
    world = computer.world
    count = 0

    def handle(event: execution.Event, now: float) -> list[execution.Action]:
        nonlocal count
        before = state.busy
        clients = list(state.clients) if computer.disk is not None else ()
        actions = decide(event, now)
        if clients and type(event) is execution.Tick:
            _note_ended_leases(computer, [client for client in clients if client not in state.clients])
        if world.is_traced:
            computer.show(event, actions)
        if type(event) is execution.Stopping:
            return actions  # it is of no use any more to anybody
        problem = find_in_node(state, before) or find_offered(state, actions)
        count += 1
        if problem is None and count % EVERY == 0:
            problem = find_slowly_in_node(state)
        if problem is not None:
            world.fail(f"{computer.name}: {problem}")
        return actions

    machine.handle = handle  # type: ignore[method-assign]


def _note_ended_leases(computer: Computer, clients: list[execution.ClientId]) -> None:
    """Clients are forgotten because they were silent for too long."""
    for client in clients:
        assert computer.disk is not None
        computer.disk.forgotten.add((computer.incarnation, client))
        computer.deaths += 1
        computer.world.note(computer.name, f"the lease of {client[:3].hex()} has ended")


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
    for key, computation in state.computations.items():
        if state.clients.get(key[0]) is not computation.client:
            return f"computation {key[1]} of no client"
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


def watch_scheduler(program: Program, machine: SchedulingMachine) -> None:
    """Look at a scheduler's machine after each event, and note what it sends."""
    decide = machine.handle
    state = machine.state
    world = program.world
    account = program.account
    count = 0

    def handle(event: scheduling.Event, now: float) -> list[scheduling.Action]:
        nonlocal count
        kind = type(event)
        if kind is scheduling.NodeLost or (kind is scheduling.NodeUp and not event.known):
            account.has_losses = True
        actions = decide(event, now)
        if world.is_traced:
            program.show(event, actions)
        for action in actions:
            if type(action) is scheduling.Send:
                message = action.message
                if type(message) is CancelJobs:
                    for attempt in message.attempts:
                        account.entries[attempt.number].is_ended_by_us = True
                elif type(message) is RunJobs:
                    for job in message.jobs:
                        account.on_sent(action.node, job)
                    known = state.nodes.get(action.node)
                    if known is None or not known.is_connected:
                        world.fail(f"{program.name}: jobs are sent to a node that is not there")
        problem = find_in_scheduler(state)
        count += 1
        if problem is None and count % EVERY == 0:
            problem = find_slowly_in_scheduler(state)
        if problem is not None:
            world.fail(f"{program.name}: {problem}")
        return actions

    machine.handle = handle  # type: ignore[method-assign]


def find_in_scheduler(state: scheduling.State) -> str | None:
    """What is wrong with the jobs of a scheduler, counted."""
    for computation in state.computations.values():
        waiting = len(computation.queue) - len(computation.cancelled)
        if waiting and computation.free:
            return f"{waiting} jobs of computation {computation.number} wait while a CPU is free"
        there = waiting
        for placement in computation.placements.values():
            there += len(placement.assigned) + len(placement.pinned)
            if placement.slots < 0 or placement.backlog < 0:
                return "negative credit"
            known = placement.node
            is_free = known.id in computation.free
            if is_free is not _has_room(placement):
                return f"where computation {computation.number} has room is not booked so, or the other way round"
            if is_free and placement.pinned:
                return "a pinned job waits while its CPU is idle"
        if there != computation.open:
            return f"computation {computation.number}: {computation.open} jobs are open, {there} are there"
    return None


def _has_room(placement: scheduling.Placement) -> bool:
    return (
        placement.status is scheduling.Status.READY
        and placement.node.is_connected
        and not placement.node.is_comparing
        and not placement.storing
        and placement.slots > len(placement.assigned)
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


def find_kept_by_program(program: Program) -> str | None:
    """What a scheduler keeps of jobs though all have ended."""
    service = program.service
    for computation in service.state.computations.values():
        kept = {
            "jobs in its queue": len(computation.queue) - len(computation.cancelled),
            "open jobs": computation.open,
            "pinned jobs": len(computation.pinned),
            "deaths": len(computation.deaths),
            "files of jobs": len(computation.files),
            "watched jobs": len(computation.watched),
            "jobs on nodes": sum(len(place.assigned) for place in computation.placements.values()),
        }
        for what, count in kept.items():
            if count:
                return f"{count} {what}"
    for cluster in program.clusters.values():
        if cluster.sending:
            return f"{len(cluster.sending)} files that it has sent, of which nothing is told"
    for link in service._by_node.values():
        under_way = link.large_arguments.under_way()
        if under_way:
            return f"arguments of {under_way} on their way"
        if link.arrived.ahead:
            return f"batches {sorted(link.arrived.ahead)} as arrived before others"
    return None


def find_kept_by_node(computer: Computer, program: Program) -> str | None:
    """What a node keeps of jobs of a program though all have ended."""
    service = computer.service
    assert service is not None
    client = service.machine.state.clients.get(execution.ClientId(program.identity))
    if client is None:
        return None
    if client.sent.kept:
        return f"{len(client.sent.kept)} batches of results"
    for key, computation in service.machine.state.computations.items():
        if computation.client is not client:
            continue
        kept = {
            "open jobs": len(computation.open),
            "ready jobs": len(computation.ready),
            "cancelled jobs": len(computation.cancelling),
            "jobs that wait for the acknowledgement of a value": len(computation.sending),
            "results that were not told": len(computation.untold),
            "records": sum(len(worker.records) for worker in computation.workers.values()),
        }
        for what, count in kept.items():
            if count:
                return f"{count} {what}"
        loaded = service.loaded.get(key)
        if loaded is not None:
            files = set(computer.files.directories.get(loaded.segments, ()))  # type: ignore[call-overload]
            wanted = program.service.state.computations.get((scheduling.EMBEDDED, key[1]))
            files -= {object_name(number) for number in (wanted.objects if wanted is not None else ())}
            if files:
                return f"the files {sorted(files)}"
            kept_files = find_kept_files(computer, loaded)
            if kept_files is not None:
                return kept_files
    return None


def find_kept_files(computer: Computer, loaded: Loaded) -> str | None:
    """What a node keeps of files of jobs that have ended, and what is not in a working directory as it has to be."""
    if computer.work is None:
        return None
    brought = loaded.brought
    kept = {
        "files on their way": len(loaded.stages),
        "files that are to be put there": len(loaded.requests),
        "files of jobs": len(brought._placed) if brought is not None else 0,
        "jobs that wait for their files": len(brought._offered) if brought is not None else 0,
    }
    for what, count in kept.items():
        if count:
            return f"{count} {what}"
    wrong = computer.work.find_wrong(loaded.work, ())
    if wrong is not None:
        return f"a working directory in which {wrong}"
    left = computer.work.find_left(loaded.work)
    return f"{left} in a working directory" if left is not None else None
