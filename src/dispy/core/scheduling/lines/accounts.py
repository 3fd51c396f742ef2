"""Accounts of nodes: how many further jobs a node takes, of one computation and of all together.

Theory of operation. A node grants this scheduler *slots*, jobs that start at once, of all computations together
(``NodeCredit``). The jobs above them wait there: they are *ahead*. Each of them fills a part of one account of the
node, which is full at 1: one in as many as the computation may have there if it is alone (``Placement.width``), which
is some 50 ms of work. Which of the jobs are ahead is not known, so they count with the mean of all. A computation
without a backlog, as nothing is known of its jobs, may have some ahead all the same: its first job would never come
to a node on which others keep all slots in use.

So the room of one computation changes with the jobs of the others, and to tell all of them each time would cost as
much as there are. Therefore the indexes ``Computation.free`` and ``backlogs`` may have nodes whose room others have
taken. Whoever finds one so *parks* the placement at its node (``Node.for_slot``, ``Node.for_room``). When a node with
parked placements has room again, it is put into ``Lines.due``; after the event those that wait there are served in
their order, and what room they leave is entered in the indexes of all that are parked (``placement.serve``).

A client may have a limit of its own at a node (``Quota``). While it is below the node's CPUs, nothing is sent ahead,
so the jobs there are at most those that run. Placements that wait for the limit are held by it, not by the node.

With one computation alone in the scheduler (``Computation.party`` is None) the accounts are not kept.
"""

from __future__ import annotations

from dispy.core.scheduling.lines.parties import add_party, charge, count_running
from dispy.core.scheduling.state import Computation, Lines, Node, Placement, Quota
from dispy.protocol.views import PlacementStatus as Status

REFILL_AT = 7 / 8
"""Jobs are sent ahead while the node's account is filled to less than this: a message for each freed place would cost
more than the jobs."""


def note_room(placement: Placement) -> None:
    """Put a placement into the indexes ``free`` (jobs would start at once), ``backlogs`` (jobs may be sent ahead) and
    ``waiting`` (jobs may be stolen) of its computation, or take it out, as its room and jobs are now.

    Call after any change of its status, credit, jobs or objects, or of its node's connection: otherwise ``place``
    would send too many jobs, or leave a free CPU idle.
    """
    computation = placement.computation
    known = placement.node
    node = known.id
    usable = (
        placement.status is Status.READY
        and known.is_connected
        and not known.is_comparing
        and not placement.storing
    )
    count = len(placement.assigned)
    is_free = usable and placement.slots > count
    # A backlog is refilled by eighths: a message for each freed place would cost more than the jobs.
    behind = placement.slots + placement.backlog
    may_refill = usable and behind - count > behind >> 3
    if computation.party is not None:
        is_free, may_refill = _note_shared(placement, usable, is_free, may_refill)
    if is_free:
        computation.free[node] = placement
    else:
        computation.free.pop(node, None)
    if may_refill:
        computation.backlogs[node] = placement
    else:
        computation.backlogs.pop(node, None)
    if count > len(placement.started):
        computation.waiting[node] = placement
    else:
        computation.waiting.pop(node, None)
    # Both come and go with each job: ``steal`` takes it out again, not this.
    if computation.waiting and computation.free:
        computation.uneven[computation.key] = computation


def _note_shared(
    placement: Placement, is_usable: bool, is_free: bool, may_refill: bool
) -> tuple[bool, bool]:
    """Enter the jobs of a placement in the accounts. Park the placement at a node where others have jobs, or wait, if
    it has room of its own and the node has none, or has some for which others wait already.

    Args:
        placement: The placement.
        is_usable: Whether its node takes jobs of it at all.
        is_free: Whether a job would start at once as far as the placement itself is concerned.
        may_refill: Whether jobs may be sent ahead as far as the placement itself is concerned.

    Returns:
        Both, as they are with the others on the node; False if the placement is parked.
    """
    known = placement.node
    count = len(placement.assigned)
    if count != placement.counted:
        _count_jobs(placement, count)
    if len(placement.started) != placement.running:
        count_running(placement, len(placement.started))
    for_slot, for_room = known.for_slot, known.for_room
    quota = placement.quota
    if quota is not None and _is_held(quota, placement, is_free):
        return False, False
    if known.assigned == count and not for_slot and not for_room:
        return is_free, may_refill
    wire = placement.computation.wire
    has_slot, has_room = known.slots > known.assigned, has_room_ahead(known)
    # What the node's account is refilled at is said by ``has_room``: others would be sent what this one waits for.
    may_refill = is_usable and placement.slots + placement.backlog > count
    for_slot.pop(wire, None)
    for_room.pop(wire, None)
    if is_free and (not has_slot or for_slot):
        for_slot[wire] = placement
        is_free = False
    if may_refill and (not has_room or for_room or (has_slot and for_slot)):
        for_room[wire] = placement
        may_refill = False
    if (has_slot and for_slot) or (has_room and for_room):
        known.due[known.id] = known
    return is_free, may_refill


def _is_held(quota: Quota, placement: Placement, is_free: bool) -> bool:
    """Have a placement with room of its own wait for the limit of its client at the node, if that is reached; returns
    whether it has to."""
    known, wire = placement.node, placement.computation.wire
    quota.held.pop(wire, None)
    if not is_free or quota.left() > 0:
        return False
    quota.held[wire] = placement
    known.for_slot.pop(wire, None)
    known.for_room.pop(wire, None)
    if known.for_slot or known.for_room:
        # Others may have waited behind it.
        known.due[known.id] = known
    return True


def limit_client(quota: Quota, cpus_max: int) -> None:
    """Set the limit of a client at a node. The caller brings the credit of its placements up to date."""
    quota.cpus_max = cpus_max
    if quota.held:
        quota.node.due[quota.key] = quota


def join_quota(quota: Quota, placement: Placement) -> None:
    """Count a placement, and the jobs that it has, in the limit of its client at the node."""
    placement.quota = quota
    quota.node = placement.node
    quota.placements[placement.computation.wire] = placement
    quota.assigned += placement.counted


def enroll(lines: Lines, computation: Computation) -> None:
    """Keep accounts of a computation, and of the jobs that it has on nodes, from now on. Without effect if they are
    kept already."""
    if computation.party is None:
        add_party(lines, computation)
        for placement in computation.placements.values():
            note_room(placement)


def _count_jobs(placement: Placement, count: int) -> None:
    """Enter in the accounts that a placement has ``count`` jobs now."""
    more = count - placement.counted
    placement.counted = count
    known = placement.node
    known.assigned += more
    quota = placement.quota
    if quota is not None:
        quota.assigned += more
        if more < 0 and quota.held:
            known.due[quota.key] = quota
    # Of no jobs it is 0 again, whatever was lost in rounding.
    known.filled = known.filled + more / placement.width if known.assigned else 0.0
    computation = placement.computation
    assert computation.party is not None
    charge(computation.party, more * placement.cost_s)
    tenant = computation.tenant
    if tenant is not None:
        tenant.assigned += more
        if more < 0 and tenant.held:
            known.due[tenant.user] = tenant


def leave_account(placement: Placement) -> None:
    """Take the jobs of a placement that is forgotten out of all accounts."""
    known, wire = placement.node, placement.computation.wire
    if placement.computation.party is not None:
        _count_jobs(placement, 0)
        count_running(placement, 0)
    if placement.quota is not None:
        placement.quota.placements.pop(wire, None)
        placement.quota.held.pop(wire, None)
    known.for_slot.pop(wire, None)
    known.for_room.pop(wire, None)
    known.pinned.pop(wire, None)
    if known.for_slot or known.for_room:
        known.due[known.id] = known


def park_all(known: Node) -> None:
    """Have all placements on a node that have room wait for their turns: call when the node has room for several of
    them at once, which the first would otherwise take."""
    for wire, placement in known.placements.items():
        computation = placement.computation
        if computation.party is not None:
            if computation.free.pop(known.id, None) is not None:
                known.for_slot[wire] = placement
            if computation.backlogs.pop(known.id, None) is not None:
                known.for_room[wire] = placement
            known.due[known.id] = known


def set_rates(placement: Placement, width: int, cost_s: float) -> None:
    """Set the part of the node's account that a job of a placement fills (one in ``width``), and the CPU time that it
    is charged in advance (seconds)."""
    count = placement.counted
    if width != placement.width:
        placement.node.filled += count / width - count / placement.width
        placement.width = width
    if cost_s != placement.cost_s:
        if placement.computation.party is not None:
            charge(placement.computation.party, count * (cost_s - placement.cost_s))
        placement.cost_s = cost_s


def has_room_ahead(known: Node) -> bool:
    """True if a node takes further jobs ahead of need, of whichever computation."""
    ahead = known.assigned - known.slots
    if ahead <= 0:
        return known.slots > 0
    return ahead < known.waiting or (known.slots + known.waiting > 0 and _filled(known, ahead) < REFILL_AT)


def _filled(known: Node, ahead: int) -> float:
    """Returns the part of a node's account that the jobs ahead fill, each with the mean of all jobs."""
    return ahead * known.filled / known.assigned


def room(placement: Placement) -> int:
    """Returns the number of further jobs of a placement that would start at once; 0 or less: no slot is free."""
    own = placement.slots - len(placement.assigned)
    if placement.computation.party is None:
        return own
    if placement.quota is not None:
        own = min(own, placement.quota.left())
    return min(own, placement.node.slots - placement.node.assigned)


def room_behind(placement: Placement) -> int:
    """Returns the number of further jobs of a placement that its node takes, to start at once or to wait; 0 or less:
    the node takes none. At least one if the node has room at all, however long it takes."""
    known = placement.node
    count = len(placement.assigned)
    own = placement.slots + placement.backlog - count
    if placement.quota is not None:
        own = min(own, placement.quota.left())
    if placement.computation.party is None or known.assigned == count:
        return own
    ahead = known.assigned - known.slots
    if ahead <= 0:
        return min(own, placement.width - ahead)
    if not has_room_ahead(known):
        return 0
    part = int((1 - _filled(known, ahead)) * placement.width)
    return min(own, max(1, part, known.waiting - ahead))
