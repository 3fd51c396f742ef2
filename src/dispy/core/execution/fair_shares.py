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

*Credit* is back-pressure: the number of jobs that a scheduler may have here, slots and backlog. It follows from the
fair share, and is sent again when it has changed enough to matter.

Silent clients keep their share for ``State.silence_s``, then they are dead: their jobs run only on CPUs that no other
client wants, and they use nothing exclusively. All is as before once they are back.
"""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, Tell
from dispy.core.execution.ids import Seconds
from dispy.core.execution.state import UNTOLD, Client, Computation, Grant, State, Status, Worker
from dispy.protocol.node import DRAINING, Credit

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
"""Largest backlog of all computations together (jobs); each is granted its part of it. After a reconnect these jobs
are listed in one message: with at most 15 bytes each, 3 MB. Backlogs granted before other computations came may
exceed this by as much again."""

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
    state.busy += 1
    computation.busy += 1
    client.busy += 1
    worker.since = worker.moved = now
    _rise(state, computation)


def vacate(state: State, worker: Worker) -> None:
    """Count a worker as one that uses no CPU any more: call when its last record is gone, after ``charge``."""
    state.busy -= 1
    worker.computation.busy -= 1
    worker.computation.client.busy -= 1


def charge(state: State, worker: Worker, now: Seconds) -> None:
    """Add the seconds since a worker was last charged to the virtual times of its computation and its client.

    For workers that use a CPU: called at each tick, and when the worker loses a record.
    """
    _rise(state, worker.computation)
    seconds = now - worker.since
    worker.since = now
    worker.computation.vtime += seconds
    worker.computation.client.vtime += seconds


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


def turn(computation: Computation) -> tuple[int, float, int, float]:
    """Returns the sort key by which a free CPU goes to one of the waiting computations: to that with the smallest.

    The key has, in this order: CPUs that the client uses, the client's virtual time (seconds), CPUs that the
    computation uses, the computation's virtual time.
    """
    client = computation.client
    return (client.busy, client.vtime, computation.busy, computation.vtime)


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
    left = [computation for computation in state.exclusive if computation not in computations]
    if left[:1] != state.exclusive[:1]:
        state.has_node = False
    state.exclusive = left
    restrict(state)


def admit_exclusive(state: State, out: Outbox, now: Seconds) -> None:
    """Let the first computation in the line for exclusive use start its jobs, once the jobs of all others have ended.

    The line (``State.exclusive``) must not be empty. Call at each event.
    """
    if not state.has_node and state.busy == state.exclusive[0].busy:
        restrict(state)
        share_out(state, out, now)


def restrict(state: State) -> None:
    """Set ``is_held_off`` of each computation, and ``has_node`` and ``is_restricted`` of the node.

    These say which computations may not start jobs. Call after the number of CPUs, the line for exclusive use, a
    client's limit or draining has changed.
    """
    first = state.exclusive[0] if state.exclusive else None
    state.has_node = (
        first is not None and not state.is_draining and (state.has_node or state.busy == first.busy)
    )
    for computation in state.computations.values():
        if state.is_draining:
            # Jobs of dead clients cannot be given back: they run to their ends, also beside an exclusive computation.
            computation.is_held_off = not computation.client.is_dead
        else:
            computation.is_held_off = first is not None and (computation is not first or not state.has_node)
    is_closed = any(client.cpus_max == 0 for client in state.clients.values())
    state.is_restricted = first is not None or state.cpus == 0 or is_closed or state.is_draining


def may_start(state: State, computation: Computation) -> bool:
    """True if jobs of a computation may start here now, given a free CPU."""
    return not computation.is_held_off and state.cpus > 0 and computation.client.cpus_max > 0


# Credit.


def share_out(state: State, out: Outbox, now: Seconds) -> None:
    """Set the fair share (``Computation.grant``) of each computation, and tell clients the credits that have changed.

    Call when a client, a computation, the CPUs, a limit or exclusive use has changed. With several clients call it at
    ticks, too, every ``SHARE_S``, as they begin and cease to want CPUs.
    """
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
    """Returns the fair share of a computation, in jobs: 0 slots with a reason if it may not start jobs now.

    Args:
        state: State of the node.
        computation: The computation whose share is asked for.
        rivals: Clients that want CPUs now, or have long jobs here; the computation's client may be among them.
        wanted: Number of open jobs, by client. A client with fewer jobs than its share leaves CPUs to others.
        long: Number of jobs that have run for longer than ``LONG_S``, by client.
    """
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
    """Returns in words, for the client, why a computation may not start jobs: another one has the turn for exclusive
    use, or the computation has it itself and jobs of others have to end first.

    There must be a computation in the line for exclusive use.
    """
    first = state.exclusive[0]
    if computation is not first:
        return f"used exclusively by cluster {first.spec.name} of {first.client.name}"
    others = {c.client: None for c in state.computations.values() if c.busy and c is not first}
    return f"jobs of {_names(list(others))} have to end before it can be used exclusively"


def _names(clients: list[Client]) -> str:
    """Returns the names of clients as one text for the reason of a credit: at most ``NAMES_MAX`` names in the order
    given, then how many clients there are besides ("a, b, c and 2 more")."""
    names = [client.name for client in clients[:NAMES_MAX]]
    more = len(clients) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def tell_credit(state: State, out: Outbox, computation: Computation) -> None:
    """Tell the scheduler how many jobs of a computation it may have here, if that has changed enough to matter.

    Other slots, another reason and a larger backlog are told at once, a smaller backlog once it has halved. While the
    computation is LOADING only zero credit is told, if another one was told before.
    """
    slots, share, reason = computation.grant
    # While a host is restarted only zero credit is told, where some was told before: the client would otherwise go
    # on sending jobs that may not start here, again and again.
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
        # The quantile of a steady function wavers by a factor of two.
        computation.credit = (slots, backlog, reason)
        out.append(Tell(computation.client.id, Credit(computation.key[1], slots, backlog, reason)))
