"""Turns: which of the computations that wait for a node gets its room, and how many jobs at a time.

What several wait for is given out in *quanta*, some milliseconds of work each, so that an order costs one move in a
heap per message and not per job. Where one waits alone it gets all that fits, and no order is looked at.
"""

from __future__ import annotations

from typing import NamedTuple

from dispy.core.scheduling.lines.accounts import room, room_behind
from dispy.core.scheduling.lines.parties import enter, key, note_head
from dispy.core.scheduling.state import Computation, Lines, Party, Placement, Policy

QUANTUM_US = 4000
"""Work for each slot of a node (microseconds) that one turn gives to a computation, if others wait for the node: at
least one job. As much as a node gives to a worker at once."""

LOOK_MAX = 32
"""Number of parked placements up to which all are looked at."""

PASS_MAX = 8
"""Number of computations in line that are passed over, as they do not wait for the node in question, before all that
are parked there are looked at."""

UNBOUNDED = 1 << 62
"""Number of jobs that may be sent where nothing bounds it."""


def most_now(computation: Computation) -> int:
    """Returns the number of further jobs of a computation that its user's limit, and exclusive computations, let go
    to nodes now; 0: it is kept waiting."""
    party = computation.party
    if party is not None and party.lines.exclusive and not has_turn(party.lines, computation):
        return 0
    tenant = computation.tenant
    if tenant is None or tenant.cpus_max is None:
        return UNBOUNDED
    left = tenant.cpus_max - tenant.assigned
    if left <= 0:
        tenant.held[computation.key] = computation
    return max(0, left)


def has_turn(lines: Lines, computation: Computation) -> bool:
    """True unless exclusive use keeps a computation waiting: the first exclusive one waits until all that came before
    it are closed, and all that came after it wait for its end. There must be an exclusive one."""
    first = lines.exclusive[0]
    if computation is first:
        return next(iter(lines.computations.values())) is first
    return computation.serial < first.serial


class Turn(NamedTuple):
    """The turn of a computation at a node.

    Attributes:
        placement: Placement of the computation.
        most: Number of its jobs that may be sent at most.
        rival: Mark (``Party.mark``) of the computation that comes next; None if no other one waits for the node.
    """

    placement: Placement
    most: int
    rival: float | None


def next_here(lines: Lines, parked: dict[int, Placement]) -> Turn | None:
    """Find whose turn it is of the parked placements of a node; None if none of them has jobs that may be sent."""
    if len(parked) <= LOOK_MAX:
        return _first_of(list(parked.values()))
    return _first_in_line(lines, parked)


def _first_of(placements: list[Placement]) -> Turn | None:
    """Find whose turn it is by looking at all of some placements; see ``next_here``."""
    waiting = [placement for placement in placements if placement.computation.queue]
    while waiting:
        first = _smallest(waiting) if len(waiting) > 1 else waiting[0]
        most = most_now(first.computation)
        rivals = [placement for placement in waiting if placement is not first]
        if most:
            return Turn(first, most, min([_mark(each.computation) for each in rivals], default=None))
        waiting = rivals
    return None


def _smallest(placements: list[Placement]) -> Placement:
    """Returns the placement of the computation whose turn it is: first of the user, then of the program.

    The keys of users and programs are looked at once for all of their computations.
    """
    party = placements[0].computation.party
    assert party is not None  # each that waits beside others has one
    lines = party.lines
    if lines.policy is Policy.FIFO:
        for placement in placements:
            note_head(placement.computation)
    level = 0
    while True:
        best: Party | None = None
        best_key = 0.0
        chosen = placements
        seen: set[Party] = set()
        for placement in placements:
            party = placement.computation.party
            assert party is not None
            party = party.path[level]
            if party is best:
                chosen.append(placement)
            elif party not in seen:
                seen.add(party)
                found = lines.key(party)
                if best is None or found < best_key:
                    best, best_key, chosen = party, found, [placement]
        if len(chosen) == 1 or best is None or best.computation is not None:
            return chosen[0]
        placements = chosen
        level += 1


def _mark(computation: Computation) -> float:
    """Returns the mark of a computation that waits beside others."""
    return computation.party.mark if computation.party is not None else 0


def path_keys(computation: Computation) -> list[float]:
    """Returns the keys of a computation and of those above it, from the top: the smaller list has its turn first."""
    note_head(computation)
    return [key(party) for party in computation.party.path] if computation.party is not None else []


def _first_in_line(lines: Lines, parked: dict[int, Placement]) -> Turn | None:
    """Find whose turn it is by going along the line; see ``next_here``.

    Those that wait for other nodes only are passed over. If these are many, all parked placements are looked at.
    Those that are kept waiting leave the line until they may be sent.
    """
    passed: list[Computation] = []
    turn: Turn | None = None
    while turn is None and len(passed) < PASS_MAX:
        computation = _descend(lines)
        if computation is None:
            break
        placement = parked.get(computation.wire)
        most = most_now(computation)
        if placement is not None and most:
            turn = Turn(placement, most, 0)
        if turn is None or lines.policy is Policy.FIFO:
            _step_aside(computation)
            if most:
                passed.append(computation)
    if turn is not None and lines.policy is Policy.FIFO:
        second = _descend(lines)
        turn = turn._replace(rival=None if second is None else _mark(second))
    for computation in passed:
        enter(computation)
    if turn is None and len(passed) == PASS_MAX:
        return _first_of(list(parked.values()))
    return turn


def _step_aside(computation: Computation) -> None:
    """Take a computation out of the line."""
    party = computation.party
    if party is not None and party.parent is not None:
        party.parent.turns.discard(party)


def _descend(lines: Lines) -> Computation | None:
    """Returns the computation with waiting jobs whose turn it is next anywhere; None if none waits.

    Those that have no waiting jobs any more are taken out of the line.
    """
    party = lines.root
    while True:
        below = party.turns.first()
        if below is None:
            if party.parent is None:
                return None
            party.parent.turns.discard(party)
            party = party.parent
            continue
        computation = below.computation
        if computation is None:
            party = below
        elif not computation.queue:
            party.turns.discard(below)
        elif not _has_aged(lines, below, computation):
            return computation


def _has_aged(lines: Lines, party: Party, computation: Computation) -> bool:
    """True if the head of a computation's queue is a younger one than when it was put in line: its place is another
    one now."""
    if lines.policy is not Policy.FIFO:
        return False
    before = party.mark
    note_head(computation)
    return party.mark != before


def quantum(turn: Turn) -> int:
    """Returns the number of jobs that one turn gives to a computation, at least 1.

    If others wait for the node: some milliseconds of work, and no job that came later than theirs (policy ``fifo``).
    """
    placement = turn.placement
    if turn.rival is None:
        return turn.most
    count = QUANTUM_US * max(1, placement.slots) // placement.expected_us if placement.expected_us else 1
    party = placement.computation.party
    if party is not None and party.arrivals:
        later = [first for first, arrived in party.arrivals if arrived > turn.rival]
        if later:
            count = min(count, later[0] - placement.computation.queue[0].number)
    return max(1, min(count, turn.most))


def room_now(placement: Placement) -> int:
    """Returns the number of further jobs of a placement that go to its node now: into free slots, or else ahead."""
    free = room(placement)
    return free if free > 0 else room_behind(placement)
