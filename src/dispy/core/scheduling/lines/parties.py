"""Parties: users, their programs, and the computations of these, each with what it has had of the CPUs.

Parties are a tree: a computation is below its program, a program below its user, users are below the root. Programs
without a user are below the root themselves. With the policy ``fair`` a turn goes down the tree, on each level to the
party with the smallest *virtual time*. That is the CPU time that its jobs have had, as nodes account it, and the time
that its jobs are about to have, up to ``ADVANCE_S`` for each of them, divided by its weight (Goyal, Vin and Cheng
1996, "Start-time Fair Queueing"). So of parties with long jobs those come first that have fewer of them: CPUs in use
decide first, time second.

The accounts are kept only where there are several computations: with one, ``Computation.party`` is None.
"""

from __future__ import annotations

from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.state import Computation, Lines, Party, Placement, Policy
from dispy.protocol.node import Job

ADVANCE_S = 0.2
"""CPU time (seconds) that a job is charged at most before it has had any; also of jobs of which no time is known. For
that long a party that had more CPUs than others may have fewer in return."""


def key(party: Party) -> float:
    """Returns the key of a party among its siblings: the smallest one has the next turn."""
    return party.lines.key(party)


def charge(party: Party, advance_s: Seconds, spent_s: Seconds = 0.0) -> None:
    """Charge a party, and those above it, CPU time (seconds) that jobs are about to have, and that they have had.

    Negative: time that was charged before and is not to count any more.
    """
    falls = advance_s + spent_s < 0
    while party.parent is not None:
        party.advance_s += advance_s
        party.spent_s += spent_s
        if falls:
            party.parent.turns.fall(party)
        party = party.parent


def count_running(placement: Placement, running: int) -> None:
    """Note how many jobs of a placement are known to run (``started``): their time counts while they do.

    Until the node has told it (``spend``) it is taken from the clock: ``running_from`` changes so that the time since
    ``ran_from`` stays.
    """
    party = placement.computation.party
    assert party is not None
    now = party.lines.now
    before = placement.running
    so_far = before * (now - placement.ran_from)
    placement.running = running
    placement.ran_from = now - so_far / running if running else now
    lost = so_far if not running else 0.0
    while party.parent is not None:
        party.running += running - before
        party.running_from += (running - before) * now + lost
        if lost:
            party.parent.turns.fall(party)
        party = party.parent


def spend(placement: Placement, used_us: int) -> None:
    """Charge what a node says that jobs of a placement have used of its CPUs since it said so before (microseconds).

    It stands for what was charged by the clock for those that run.
    """
    party = placement.computation.party
    if party is None:
        return
    now = party.lines.now
    so_far = placement.running * (now - placement.ran_from)
    placement.ran_from = now
    charge(party, 0.0, used_us * 1e-6 - so_far)


def join(computation: Computation) -> None:
    """Have a computation that had no jobs start level with its siblings, and its program and user as well if those
    had none: time in which nothing was wanted is no claim. Call when jobs come for a computation without jobs."""
    party = computation.party
    while party is not None and party.parent is not None:
        party.active += 1
        if party.active > 1:
            return
        catch_up(party)
        party = party.parent


def catch_up(party: Party) -> None:
    """Have a party that has had less CPU time than its siblings start level with them."""
    if party.parent is not None:
        behind = _level(party.parent) - key(party)
        if behind > 0:
            party.spent_s += behind * party.weight


def note_arrival(computation: Computation, jobs: list[Job]) -> None:
    """Note that jobs come for a computation: call before they are counted in ``Computation.open``."""
    party = computation.party
    if party is None:
        return
    if not computation.open:
        join(computation)
    if computation.tenant is not None:
        computation.tenant.open += len(jobs)
    if party.lines.policy is Policy.FIFO and jobs:
        party.lines.arrived += 1
        party.arrivals.append((jobs[0].number, party.lines.arrived))


def note_ended(computation: Computation, count: int) -> None:
    """Note that so many jobs of a computation have ended, or are forgotten: call after ``Computation.open`` has
    fallen by as many."""
    if computation.tenant is not None:
        computation.tenant.open -= count
    if count and not computation.open:
        _rest(computation)


def _rest(computation: Computation) -> None:
    """Note that a computation has no jobs any more."""
    party = computation.party
    while party is not None and party.parent is not None:
        party.active -= 1
        if party.active:
            return
        party = party.parent


def _level(parent: Party) -> float:
    """Returns the key at which a child starts that wanted nothing before: that of the child which has had most, less
    one job, so that it has the next turn."""
    leader = parent.leader
    if leader is None:
        return parent.level
    return max(parent.level, key(leader) - min(leader.advance_s, ADVANCE_S) / leader.weight)


def rise(party: Party) -> None:
    """Note that jobs of a computation were sent: whoever comes later starts level with those that have had most."""
    lines = party.lines
    if lines.policy is Policy.ROUND_ROBIN:
        lines.served += 1
        party.mark = lines.served
    while party.parent is not None:
        parent = party.parent
        if parent.leader is not party and (parent.leader is None or key(party) >= key(parent.leader)):
            parent.leader = party
        party = parent


def add_party(lines: Lines, computation: Computation) -> None:
    """Make a computation a party, below its program. The caller enters the jobs that it has on nodes."""
    program = lines.programs.get(computation.client)
    is_below = program is not None and lines.policy is Policy.FAIR
    parent = program.party if program is not None and is_below else lines.root
    party = computation.party = Party(lines, computation.compute.name, parent)
    party.computation = computation
    party.mark = computation.serial if lines.policy is Policy.EARLY else 0
    if computation.open:
        join(computation)
    if computation.queue:
        enter(computation)


def leave(party: Party) -> None:
    """Take a party out of its parent, which remembers how much it has had."""
    parent = party.parent
    if parent is None:
        return
    parent.turns.discard(party)
    if parent.leader is party:
        parent.level = _level(parent)
        parent.leader = None


def enter(computation: Computation) -> None:
    """Have a computation with waiting jobs stand in line. It is taken out when its turn comes and it has none."""
    note_head(computation)
    party = computation.party
    while party is not None and party.parent is not None:
        party.parent.turns.add(party)
        party = party.parent


def note_head(computation: Computation) -> None:
    """Set the mark of a computation to the arrival of the job at the head of its queue (policy ``fifo``).

    Jobs are numbered as they come. One with a smaller number than all that are known to wait has come back, and is
    older than these.
    """
    party = computation.party
    if party is None or party.lines.policy is not Policy.FIFO or not computation.queue:
        return
    head = computation.queue[0].number
    arrivals = party.arrivals
    while len(arrivals) > 1 and arrivals[1][0] <= head:
        arrivals.popleft()
    party.mark = arrivals[0][1] if arrivals and arrivals[0][0] <= head else 0
    assert party.parent is not None
    party.parent.turns.fall(party)
