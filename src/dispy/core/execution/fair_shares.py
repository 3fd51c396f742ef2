"""Whose turn it is, and what each can count on: shares of clients, exclusive use, credit.

A free CPU goes to the waiting client that uses the fewest, then to the one that has had the least CPU
time; among the computations of a client likewise. So programs that always have jobs waiting have equal
shares at any moment, however long their jobs run, and what an idle one does not use is the others'.
Times are *virtual* in the sense of fair queueing: whoever comes back starts level with the others, neither
with a claim for the time in which it wanted nothing nor with a debt for what it had alone (Goyal, Vin and
Cheng 1996, "Start-time Fair Queueing").

An exclusive computation keeps all others from starting jobs from the moment it comes; it starts itself
when what the others run has ended. Several have their turns in the order in which they came. There is no
order between nodes: each grants for itself, and a client runs on what it was granted, so clients that hold
different nodes wait for no more than each other's end.

Silent clients keep their share for a while, then they are dead: what was given to the node runs only on CPUs
that nobody else wants, and they use nothing exclusively. All is as before once they are back.
"""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, Tell
from dispy.core.execution.ids import Seconds
from dispy.core.execution.state import UNTOLD, Client, Computation, Grant, State, Status, Worker
from dispy.protocol.node import DRAINING, Credit

SHARE_S = 0.1
"""How often shares are looked at while several clients are there: a message for each change of them."""

ACTIVE_S = 0.5
"""How long a client counts as one that wants CPUs after it was last seen with jobs."""

LONG_S = 0.2
"""A job that has run so long is not expected to end this moment."""

BACKLOG_US = 50_000
"""Work that a node holds beyond its running jobs (microseconds): a scheduler that shares its
interpreter with a busy program comes to speak every 5 to 20 ms."""

BACKLOG_MAX = 4096
"""Most jobs of a computation held so: what 50 ms takes of the shortest."""

BACKLOGS_MAX = 200_000
"""Most jobs held so of all computations together, which clients and nodes list in one message after a reconnect: with
15 bytes each at most, 3 MB. What was granted before others came may be that much more."""

NAMES_MAX = 3
"""Clients that a reason names."""

# CPU time.


def join(state: State, computation: Computation) -> None:
    """Have a computation that had no jobs start level with the others, and its client likewise."""
    client = computation.client
    client.vtime = max(client.vtime, state.level)
    computation.vtime = max(computation.vtime, client.level)


def occupy(state: State, worker: Worker, now: Seconds) -> None:
    """A worker without a record gets one: it uses a CPU."""
    computation = worker.computation
    client = computation.client
    state.busy += 1
    computation.busy += 1
    client.busy += 1
    worker.since = worker.moved = now
    _rise(state, computation)


def vacate(state: State, worker: Worker) -> None:
    """A worker has no record any more."""
    state.busy -= 1
    worker.computation.busy -= 1
    worker.computation.client.busy -= 1


def charge(state: State, worker: Worker, now: Seconds) -> None:
    """Account for the CPU that a worker has used since the last time."""
    _rise(state, worker.computation)
    seconds = now - worker.since
    worker.since = now
    worker.computation.vtime += seconds
    worker.computation.client.vtime += seconds


def _rise(state: State, computation: Computation) -> None:
    """Those who come start where those are that are served now."""
    client = computation.client
    if client.vtime > state.level:
        state.level = client.vtime
    if computation.vtime > client.level:
        client.level = computation.vtime


def turn(computation: Computation) -> tuple[int, float, int, float]:
    """Who is served next among those that wait: the smallest."""
    client = computation.client
    return (client.busy, client.vtime, computation.busy, computation.vtime)


# Exclusive use.


def ask_exclusive(state: State, computation: Computation) -> None:
    """An exclusive computation takes its place in the line; ``restrict`` must follow."""
    if computation.spec.exclusive and computation not in state.exclusive:
        state.exclusive.append(computation)


def leave_exclusive(state: State, computations: list[Computation]) -> None:
    """These want the node for themselves no more."""
    left = [computation for computation in state.exclusive if computation not in computations]
    if left[:1] != state.exclusive[:1]:
        state.has_node = False
    state.exclusive = left
    restrict(state)


def admit_exclusive(state: State, out: Outbox, now: Seconds) -> None:
    """Let the first in the line start once the others' jobs have ended."""
    if not state.has_node and state.busy == state.exclusive[0].busy:
        restrict(state)
        share_out(state, out, now)


def restrict(state: State) -> None:
    """Note who may not start jobs."""
    first = state.exclusive[0] if state.exclusive else None
    state.has_node = (
        first is not None and not state.is_draining and (state.has_node or state.busy == first.busy)
    )
    for computation in state.computations.values():
        if state.is_draining:
            # Those of dead clients run to their ends, whoever had asked for the node: nobody can take them back.
            computation.is_held_off = not computation.client.is_dead
        else:
            computation.is_held_off = first is not None and (computation is not first or not state.has_node)
    is_closed = any(client.cpus_max == 0 for client in state.clients.values())
    state.is_restricted = first is not None or state.cpus == 0 or is_closed or state.is_draining


def may_start(state: State, computation: Computation) -> bool:
    """Whether jobs of a computation may start here as things are."""
    return not computation.is_held_off and state.cpus > 0 and computation.client.cpus_max > 0


# Credit.


def share_out(state: State, out: Outbox, now: Seconds) -> None:
    """Find what each computation can count on, and tell whom it concerns."""
    state.share_at = now
    wanted: dict[Client, int] = {}
    for computation in state.computations.values():
        client = computation.client
        wanted[client] = wanted.get(client, 0) + len(computation.open)
        if computation.open and not client.is_dead:
            client.active_at = now
    long: dict[Client, int] = {}
    for worker in state.workers.values():
        if worker.records and now - worker.moved > LONG_S:
            client = worker.computation.client
            long[client] = long.get(client, 0) + 1
    rivals = [
        client
        for client in state.clients.values()
        if client in long or (not client.is_dead and now - client.active_at < ACTIVE_S)
    ]
    for computation in state.computations.values():
        computation.grant = _grant(state, computation, rivals, wanted, long)
        tell_credit(state, out, computation)


def _grant(
    state: State,
    computation: Computation,
    rivals: list[Client],
    wanted: dict[Client, int],
    long: dict[Client, int],
) -> Grant:
    client = computation.client
    if state.is_draining:
        return Grant(0, 0, DRAINING)
    if computation.is_held_off:
        return Grant(0, 0, _why_held_off(state, computation))
    if computation.shortage:
        return Grant(0, 0, computation.shortage)
    most = min(state.cpus, client.cpus_max)
    if not most:
        return Grant(
            0, 0, "it offers no CPUs now" if not state.cpus else "set_node_cpus allows none of its CPUs"
        )
    reason = f"set_node_cpus allows {most} of its CPUs" if most < state.cpus else ""
    others = [rival for rival in rivals if rival is not client]
    if not others or state.has_node:
        return Grant(most, most, reason)
    living = [other for other in others if not other.is_dead]
    fair = -(-state.cpus // (len(living) + 1))
    unused = sum([max(0, fair - max(1, wanted.get(other, 0))) for other in living])
    share = min(most, fair + unused)
    slots = min(share, max(0, state.cpus - sum([long.get(other, 0) for other in others])))
    return Grant(slots, share, f"shared with {_names(others)}")


def _why_held_off(state: State, computation: Computation) -> str:
    first = state.exclusive[0]
    if computation is not first:
        return f"used exclusively by cluster {first.spec.name} of {first.client.name}"
    others = {c.client: None for c in state.computations.values() if c.busy and c is not first}
    return f"jobs of {_names(list(others))} have to end before it can be used exclusively"


def _names(clients: list[Client]) -> str:
    names = [client.name for client in clients[:NAMES_MAX]]
    more = len(clients) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def tell_credit(state: State, out: Outbox, computation: Computation) -> None:
    """Tell the scheduler how many jobs it may have here, if that has changed enough to matter."""
    slots, share, reason = computation.grant
    # One whose host is started again would otherwise be sent what may not start here, again and again.
    if computation.status is not Status.READY and (share or computation.credit is UNTOLD):
        return
    backlog = 0
    if computation.sampled and share:
        backlog = max(slots, 1) * BACKLOG_US // computation.runtimes.expected_us(BACKLOG_US)
        most = min(BACKLOG_MAX, BACKLOGS_MAX // max(1, len(state.computations)))
        backlog = min(max(state.cpus, backlog), most, 4 * computation.sampled)
    backlog = max(backlog, share - slots)
    told_slots, told_backlog, told_reason = computation.credit
    if slots != told_slots or backlog > told_backlog or backlog * 2 < told_backlog or reason != told_reason:
        # Grows at once, shrinks by halves: the quantile of a steady function wavers by a factor of two.
        computation.credit = (slots, backlog, reason)
        out.append(Tell(computation.client.id, Credit(computation.key[1], slots, backlog, reason)))
