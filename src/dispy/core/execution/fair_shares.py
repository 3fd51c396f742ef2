"""Fair shares: whose turn a free CPU is, exclusive use of the node, and the credit of each computation.

*Fair share.* A free CPU goes to the waiting client that uses the fewest CPUs, then to the one that has had the least
CPU time; among the computations of a client the same rule holds. So programs that always have jobs waiting have equal
shares at any moment, however long their jobs run, and the CPUs that an idle one does not use go to the others. Times
are *virtual* in the sense of fair queueing: a client that comes back starts level with the others, neither with a
claim for the time in which it wanted nothing nor with a debt for the CPUs that it had alone (Goyal, Vin and Cheng
1996, "Start-time Fair Queueing").

*Exclusive use.* An exclusive computation keeps all others from starting jobs from the moment it comes; its own jobs
start when those that others run have ended. Several have their turns in the order in which they came. There is no
order between nodes: each grants for itself, and a client runs on the nodes that it was granted, so clients that hold
different nodes wait for each other's end and for nothing more.

*Lines.* Computations with ready jobs stand in a line, in which the next one is found without looking at the others
(``dispy.core.turns``): first the client, then one of its computations. Dead clients have a line of their own.

*Credit* is back-pressure: the number of jobs that a scheduler may have here. The slots of a client follow from its
fair share, and are those of all its computations together (``NodeCredit``): a scheduler with a hundred computations
has no more jobs here than one with one. The backlog of a computation follows from the run times of its jobs
(``Credit``). Both are sent again when they have changed enough to matter.

Silent clients keep their share for ``State.silence_s``, then they are dead: their jobs run only on CPUs that no other
client wants, and they use nothing exclusively. All is as before once they are back.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from dispy.core.execution.actions import Outbox, Tell
from dispy.core.execution.ids import Seconds
from dispy.core.execution.state import UNTOLD, Client, Computation, Grant, Line, State, Status, Worker
from dispy.protocol.node import DRAINING, Credit, NodeCredit

SHARE_S = 0.1
"""Shortest time (seconds) from one ``share_out`` to the one at a tick, while there are several clients: each change
of a share costs a message. Other events share out at once."""

ACTIVE_S = 0.5
"""Time (seconds) for which a client counts as one that wants CPUs after it was last seen with jobs: for that long
the CPUs are divided between it and the others."""

LONG_S = 0.2
"""Run time (seconds) after which a job is not expected to end this moment: its CPU is not among the slots granted to
other clients, whose jobs would wait for it."""

BACKLOG_US = 50_000
"""Work that waits on a node for each slot beyond the running job (microseconds): divided by the expected run time,
the backlog in jobs. A scheduler that shares its interpreter with a busy program gets to send every 5 to 20 ms."""

BACKLOG_MAX = 4096
"""Largest backlog (jobs that wait on this node) that a computation is granted: 50 ms of work if its jobs are of the
shortest kind. Further jobs wait at the client."""

BACKLOGS_MAX = 200_000
"""Largest backlog of all clients together (jobs), for the memory of the node; each is granted its part of it.
Backlogs granted before other clients came may exceed this by as much again."""

NAMES_MAX = 3
"""Number of clients that the reason for a credit ("shared with …") gives by name; of further clients it says only
how many there are."""

# CPU time.


def join(state: State, computation: Computation) -> None:
    """Have a computation that had no jobs start level with the others, and its client with the other clients.

    Raises the virtual times of both (``vtime``) to the levels; otherwise idle time would count as a claim for CPUs.
    Called when jobs come for a computation that has none.
    """
    client = computation.client
    client.vtime = max(client.vtime, state.level)
    computation.vtime = max(computation.vtime, client.level)


def occupy(state: State, worker: Worker, now: Seconds) -> None:
    """Count a worker as one that uses a CPU, from now on: call when it gets a record and had none."""
    computation = worker.computation
    client = computation.client
    state.running[worker.id] = worker
    computation.busy += 1
    client.busy += 1
    worker.since = worker.moved = now
    _rise(state, computation)


def vacate(state: State, worker: Worker) -> None:
    """Count a worker as one that uses no CPU any more: call when its last record is gone, after ``charge``."""
    computation = worker.computation
    client = computation.client
    del state.running[worker.id]
    computation.busy -= 1
    client.busy -= 1
    client.turns.fall(computation)
    _line_of(state, client).clients.fall(client)


def charge(state: State, worker: Worker, now: Seconds) -> None:
    """Add the seconds since a worker was last charged to the virtual times of its computation and its client.

    For workers that use a CPU: called at each tick, and when the worker loses a record.
    """
    _rise(state, worker.computation)
    computation = worker.computation
    seconds = now - worker.since
    worker.since = now
    computation.vtime += seconds
    computation.used_s += seconds
    computation.client.vtime += seconds


def _rise(state: State, computation: Computation) -> None:
    """Raise the levels, the virtual times at which newcomers start, as a computation uses a CPU now.

    ``State.level`` rises to the client's ``vtime`` and ``Client.level`` to the computation's, if these are higher.
    Called when a worker gets a CPU, and at each ``charge``.
    """
    client = computation.client
    if client.vtime > state.level:
        state.level = client.vtime
    if computation.vtime > client.level:
        client.level = computation.vtime


# Whose turn it is.


def _line_of(state: State, client: Client) -> Line:
    """Returns the line in which computations of a client wait for CPUs."""
    return state.orphans if client.is_dead else state.living


def wait(state: State, computation: Computation) -> None:
    """Have a computation wait for CPUs, if it has ready jobs and is READY, or for its jobs to go back if it may not
    start them here. Call when jobs have come to ``ready`` or ``staging``, or the computation has become READY."""
    if state.is_restricted:
        state.returning[computation.key] = computation
    if computation.ready and computation.status is Status.READY:
        client = computation.client
        line = _line_of(state, client)
        line.computations[computation.key] = computation
        line.clients.add(client)
        client.turns.add(computation)


def change_line(state: State, client: Client) -> None:
    """Have computations of a client wait in the other line: call when ``Client.is_dead`` has changed."""
    before = state.living if client.is_dead else state.orphans
    before.clients.discard(client)
    for computation in client.computations.values():
        before.computations.pop(computation.key, None)
        wait(state, computation)


def some_waiting(line: Line) -> list[Computation]:
    """Returns two of the computations that wait in a line, or the only one, or none; not those whose turn it is.

    Computations that do not wait any more are taken out of the line.
    """
    while line.computations:
        found = list(islice(line.computations.values(), 2))
        for computation in found:
            if not computation.ready or computation.status is not Status.READY:
                del line.computations[computation.key]
                break
        else:
            return found
    return []


def next_in_turn(line: Line) -> Computation | None:
    """Returns the computation in a line to which the next free CPU goes, and leaves it there; None if none waits.

    The client comes first that uses the fewest CPUs, then the one that has had the least CPU time; among its
    computations the same rule holds.
    """
    while (client := line.clients.first()) is not None:
        while (computation := client.turns.first()) is not None:
            if computation.ready and computation.status is Status.READY:
                return computation
            client.turns.discard(computation)
        line.clients.discard(client)
    return None


def remove(state: State, computation: Computation) -> None:
    """Forget a computation: take it out of the state and of all indexes. Its workers are gone already."""
    key = computation.key
    client = computation.client
    del state.computations[key]
    del client.computations[key[1]]
    client.turns.discard(computation)
    for index in (
        state.living.computations,
        state.orphans.computations,
        state.active,
        state.ahead,
        state.unflushed,
        state.returning,
    ):
        index.pop(key, None)


# Exclusive use.


def ask_exclusive(state: State, computation: Computation) -> None:
    """Put a computation at the end of the line for exclusive use (``State.exclusive``), if it was opened with that
    wish (``Compute.exclusive``) and is not in the line. The caller must call ``restrict`` next."""
    if computation.spec.exclusive and computation not in state.exclusive:
        state.exclusive.append(computation)


def leave_exclusive(state: State, computations: list[Computation]) -> None:
    """Take computations out of the line for exclusive use, as they are gone or their client is dead.

    If the first one leaves, the next one has its turn. Computations that are not in the line are ignored.
    """
    gone = set(computations)
    left = [computation for computation in state.exclusive if computation not in gone]
    if left[:1] != state.exclusive[:1]:
        state.has_node = False
    state.exclusive = left
    restrict(state)


def admit_exclusive(state: State, out: Outbox, now: Seconds) -> None:
    """Let the first computation in the line for exclusive use start its jobs, once the jobs of all others have ended.

    The line (``State.exclusive``) must not be empty. Call at each event.
    """
    if not state.has_node and len(state.running) == state.exclusive[0].busy:
        restrict(state)
        share_out(state, out, now)


def restrict(state: State) -> None:
    """Set ``has_node`` and ``is_restricted`` of the node, which say whether computations may not start jobs.

    Call after the number of CPUs, the line for exclusive use, a client's limit or draining has changed.
    """
    first = state.exclusive[0] if state.exclusive else None
    state.has_node = (
        first is not None and not state.is_draining and (state.has_node or len(state.running) == first.busy)
    )
    restriction = (first, state.has_node, state.is_draining, state.cpus == 0, len(state.barred))
    if restriction != state.restriction:
        state.restriction = restriction
        state.is_swept = False
    state.is_restricted = first is not None or state.cpus == 0 or bool(state.barred) or state.is_draining


def is_held_off(state: State, computation: Computation) -> bool:
    """True if no job of a computation may start, as the node drains, or is used exclusively or is to be.

    Either another computation has the node or waits for it, or this one waits for it itself. Jobs of dead clients
    cannot be given back: while the node drains they run to their ends, also beside an exclusive computation.
    """
    if state.is_draining:
        return not computation.client.is_dead
    return bool(state.exclusive) and (state.exclusive[0] is not computation or not state.has_node)


def may_start(state: State, computation: Computation) -> bool:
    """True if jobs of a computation may start here now, given a free CPU."""
    return state.cpus > 0 and computation.client.cpus_max > 0 and not is_held_off(state, computation)


# Credit.


class Demand(NamedTuple):
    """Demand for the CPUs of the node, from which the share of each client follows.

    Attributes:
        rivals: Clients that want CPUs now, or have long jobs here, in the order in which they came.
        living: Number of those that are not dead.
        wanted: Number of open jobs, by client. A client with fewer jobs than its share leaves CPUs to others.
        long: Number of jobs that have run for longer than ``LONG_S``, by client.
        long_sum: Number of all those jobs.
        unused: Number of CPUs that all living rivals together leave to others, by the fair share of each (CPUs): it
            is another one for those among the rivals than for others.
    """

    rivals: dict[Client, None]
    living: int
    wanted: dict[Client, int]
    long: dict[Client, int]
    long_sum: int
    unused: dict[int, int]


def share_out(state: State, out: Outbox, now: Seconds) -> None:
    """Set the fair share (``Client.grant``) of each client, and tell clients the credits that have changed.

    Call when a client, a computation, the CPUs, a limit or exclusive use has changed. With several clients call it at
    ticks, too, every ``SHARE_S``, as they begin and cease to want CPUs. Computations are touched only if exclusive
    use or draining makes differences between those of a client, or the client may use CPUs again or none any more.
    """
    state.share_at = now
    demand = _demand(state, now)
    differ = bool(state.exclusive) or state.is_draining
    for client in state.clients.values():
        if client.computations:
            grant = _share(state, client, demand)
            is_other = bool(grant.share) is not bool(client.grant.share)
            client.grant = grant
            tell_slots(out, client)
            for computation in (
                client.computations.values() if is_other or differ or state.shares_differ else ()
            ):
                recredit(state, out, computation)
    state.shares_differ = differ


def tell_slots(out: Outbox, client: Client) -> None:
    """Tell a client its fair share (``NodeCredit``), if that has changed since it was told the last time."""
    if client.grant != client.told:
        client.told = client.grant
        slots, share, reason = client.grant
        out.append(Tell(client.id, NodeCredit(slots, share - slots, reason)))


def _demand(state: State, now: Seconds) -> Demand:
    """Returns who wants CPUs now; notes the time for clients that have jobs here (``Client.active_at``)."""
    wanted: dict[Client, int] = {}
    for key, computation in list(state.active.items()):
        if not computation.open:
            del state.active[key]
            continue
        client = computation.client
        wanted[client] = wanted.get(client, 0) + len(computation.open)
        if not client.is_dead:
            client.active_at = now
    long: dict[Client, int] = {}
    for worker in state.running.values():
        if now - worker.moved > LONG_S:
            client = worker.computation.client
            long[client] = long.get(client, 0) + 1
    rivals = dict.fromkeys(
        client
        for client in state.clients.values()
        if client in long or (not client.is_dead and now - client.active_at < ACTIVE_S)
    )
    living = [wanted.get(client, 0) for client in rivals if not client.is_dead]
    unused = {}
    for shares in (len(living), len(living) + 1):
        fair = -(-state.cpus // max(1, shares))
        unused[fair] = sum([max(0, fair - max(1, count)) for count in living])
    return Demand(rivals, len(living), wanted, long, sum(long.values()), unused)


def _share(state: State, client: Client, demand: Demand) -> Grant:
    """Returns the fair share of a client, in jobs, if nothing keeps its computations from starting some."""
    most = min(state.cpus, client.cpus_max)
    if not most:
        return Grant(
            0, 0, "it offers no CPUs now" if not state.cpus else "set_node_cpus allows none of its CPUs"
        )
    reason = f"set_node_cpus allows {most} of its CPUs" if most < state.cpus else ""
    is_rival = client in demand.rivals
    if len(demand.rivals) == is_rival or state.has_node:
        return Grant(most, most, reason)
    is_living = is_rival and not client.is_dead
    fair = -(-state.cpus // (demand.living - is_living + 1))
    unused = demand.unused[fair]
    if is_living:
        unused -= max(0, fair - max(1, demand.wanted.get(client, 0)))
    share = min(most, fair + unused)
    slots = min(share, max(0, state.cpus - demand.long_sum + demand.long.get(client, 0)))
    others = [rival for rival in islice(demand.rivals, NAMES_MAX + 1) if rival is not client]
    return Grant(slots, share, f"shared with {_names(others, len(demand.rivals) - is_rival)}")


def recredit(state: State, out: Outbox, computation: Computation) -> None:
    """Look whether something keeps a computation from starting jobs, and tell its credit if that has changed: 0 with
    the reason, in that case."""
    if state.is_draining:
        computation.obstacle = DRAINING
    elif is_held_off(state, computation):
        computation.obstacle = _why_held_off(state, computation)
    else:
        computation.obstacle = computation.shortage
    tell_credit(state, out, computation)


def _why_held_off(state: State, computation: Computation) -> str:
    """Returns in words, for the client, why a computation may not start jobs: another one has the turn for exclusive
    use, or the computation has it itself and jobs of others have to end first.

    There must be a computation in the line for exclusive use.
    """
    first = state.exclusive[0]
    if computation is not first:
        return f"used exclusively by cluster {first.spec.name} of {first.client.name}"
    others = [c for c in state.clients.values() if c.busy > (first.busy if c is first.client else 0)]
    return f"jobs of {_names(others, len(others))} have to end before it can be used exclusively"


def _names(clients: list[Client], count: int) -> str:
    """Returns the names of ``count`` clients, of which the first are given, as one text for the reason of a credit.

    At most ``NAMES_MAX`` names are in it, then how many clients there are besides ("a, b, c and 2 more").
    """
    names = [client.name for client in clients[:NAMES_MAX]]
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def tell_credit(state: State, out: Outbox, computation: Computation) -> None:
    """Tell the scheduler what one computation may use of the client's credit, if that has changed enough to matter.

    Other slots, another reason and a larger backlog are told at once, a smaller backlog once it has halved. While the
    computation is LOADING only zero credit is told, if another one was told before.
    """
    grant, reason = computation.client.grant, computation.obstacle
    slots = state.cpus if grant.share and not reason else 0
    # While a host is restarted only zero credit is told, where some was told before: the client would otherwise go
    # on sending jobs that may not start here, again and again.
    if computation.status is not Status.READY and (slots or computation.credit is UNTOLD):
        return
    backlog = expected_us = 0
    if computation.sampled and slots:
        expected_us = computation.runtimes.expected_us(BACKLOG_US)
        backlog = max(grant.slots, 1) * BACKLOG_US // expected_us
        most = min(BACKLOG_MAX, BACKLOGS_MAX // max(1, len(state.clients)))
        backlog = min(max(state.cpus, backlog), most, 4 * computation.sampled)
    told_slots, told_backlog, told_reason = computation.credit
    if slots != told_slots or backlog > told_backlog or backlog * 2 < told_backlog or reason != told_reason:
        # The quantile of a steady function wavers by a factor of two.
        computation.credit = (slots, backlog, reason)
        message = Credit(computation.key[1], slots, backlog, reason, expected_us)
        out.append(Tell(computation.client.id, message))
