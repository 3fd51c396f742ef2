"""What must hold in the state of the machines, looked at after every event that one of them has handled.

The cheap checks are made every time, those that look at every job now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution import Machine as ExecutionMachine
from dispy.core.scheduling import Machine as SchedulingMachine
from dispy.protocol.node import CancelJobs, RunJobs
from dispy.protocol.worker import object_name
from tests.models.invariants import (
    find_in_node,
    find_in_scheduler,
    find_offered,
    find_slowly_in_node,
    find_slowly_in_scheduler,
)

if TYPE_CHECKING:
    from dispy.node.state import Loaded

    from .computer import Computer
    from .jobs import Account
    from .program import Program
    from .world import World

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


class Owner(Protocol):
    """Who has a scheduling core: a program, or a shared scheduler."""

    name: str
    world: World

    def account_of(self, client: scheduling.ClientId) -> Account:
        """The account of one of its clients."""

    def of(self, computation: int) -> tuple[Account, int]:
        """The account that a computation is in, as nodes number it, and its number there."""

    def accounts(self) -> list[Account]:
        """Those of all its clients."""

    def show(self, event: scheduling.Event, actions: list[scheduling.Action]) -> None:
        """Tell who reads the trace."""


def watch_scheduler(owner: Owner, machine: SchedulingMachine) -> None:
    """Look at a scheduler's machine after each event, and note what it sends."""
    decide = machine.handle
    state = machine.state
    world = owner.world
    count = 0

    def handle(event: scheduling.Event, now: float) -> list[scheduling.Action]:
        nonlocal count
        kind = type(event)
        if kind is scheduling.CancelJobs:
            account = owner.account_of(event.client)  # type: ignore[union-attr]
            for number in event.numbers:  # type: ignore[union-attr]
                account.entries[event.computation, number].is_cancelled = True  # type: ignore[union-attr]
        if kind is scheduling.NodeLost or (kind is scheduling.NodeUp and not event.known):
            for account in owner.accounts():
                account.has_losses = True
        actions = decide(event, now)
        if world.is_traced:
            owner.show(event, actions)
        for action in actions:
            if type(action) is scheduling.TellVacated:
                ends = [
                    told
                    for told in actions
                    if type(told) in (scheduling.TellEnded, scheduling.TellEndedHere)
                ]
                account = owner.account_of(action.client)
                if not account.tag:  # a program of a shared scheduler hears of ends later
                    _check_vacated(account, action, ends)
            elif type(action) is scheduling.Send:
                message = action.message
                if type(message) is CancelJobs:
                    account, number = owner.of(message.computation)
                    for attempt in message.attempts:
                        account.entries[number, attempt.number].is_ended_by_us = True
                elif type(message) is RunJobs:
                    account, number = owner.of(message.computation)
                    for job in message.jobs:
                        account.on_sent(number, action.node, job)
                    known = state.nodes.get(action.node)
                    if known is None or not known.is_connected:
                        world.fail(f"{owner.name}: jobs are sent to a node that is not there")
        problem = find_in_scheduler(state)
        count += 1
        if problem is None and count % EVERY == 0:
            problem = find_slowly_in_scheduler(state)
        if problem is not None:
            world.fail(f"{owner.name}: {problem}")
        return actions

    machine.handle = handle  # type: ignore[method-assign]


def _check_vacated(account: Account, action: scheduling.TellVacated, ends: list[Any]) -> None:
    """A computation has left a node, and may come back to it; some jobs end at the same moment."""
    ended = {job.number for told in ends if type(told) is scheduling.TellEnded for job in told.ended}
    for told in ends:
        if type(told) is scheduling.TellEndedHere:
            ended.update(told.numbers)
    for entry in account.open.get(action.computation, {}).values():
        is_there = entry.attempt in entry.starts and entry.attempt not in entry.died
        if entry.node == action.node and is_there and entry.number not in ended:
            account.fail(f"a node is left while job {entry.number} is there")


def find_kept_by_program(program: Program) -> str | None:
    """What a scheduler keeps of jobs though all have ended."""
    service = program.service
    if service is None:
        return "its scheduler, which is away,"
    for computation in service.state.computations.values():
        if computation.client != program.client:
            continue
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
        session = cluster.session
        kept = {
            "files that it has sent, of which nothing is told": len(session.sent.under_way),
            "jobs in its session": len(session.jobs),
            "jobs that the scheduler has not got": len(session.inbox),
            "holders of what jobs need": len(session.held),
            "provisional results that are not loaded": len(session.loading),
            "results that are not loaded": len(session.ended),
        }
        for what, count in kept.items():
            if count:
                return f"{count} {what}"
    for link in service.links.by_node.values():
        under_way = link.large_arguments.under_way()
        if under_way:
            return f"arguments of {under_way} on their way"
        if link.batches.arrived.ahead:
            return f"batches {sorted(link.batches.arrived.ahead)} as arrived before others"
    return None


def find_kept_by_node(computer: Computer, program: Program) -> str | None:
    """What a node keeps of jobs of a program though all have ended."""
    service = computer.service
    assert service is not None
    client = service.machine.state.clients.get(execution.ClientId(program.seen_as))
    if client is None or program.service is None:
        return None
    if client.sent.kept:
        return f"{len(client.sent.kept)} batches of results"
    for key, computation in service.machine.state.computations.items():
        if computation.client is not client:
            continue
        account, number = computer.ledger[program.seen_as].of(key[1])
        if account is not program.account:
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
            files = set(computer.files.contents.get(loaded.segments, ()))  # type: ignore[call-overload]
            wanted = program.service.state.computations.get((program.client, number))
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
