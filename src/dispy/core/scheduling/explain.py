"""Explanations for people: why a job has not ended, why a node gets no more jobs, and what stands still."""

from __future__ import annotations

from dispy.core.scheduling.ids import ClientId
from dispy.core.scheduling.lines.accounts import room
from dispy.core.scheduling.lines.waiting import has_turn, path_keys
from dispy.core.scheduling.state import Computation, Placement
from dispy.core.scheduling.views import describe_progress
from dispy.protocol.views import PlacementStatus as Status
from dispy.system.wording import counted


def why_open(computation: Computation, number: int) -> str:
    """Returns in words, for people, where an open job (by number) is and what it waits for.

    Empty if the computation has no node, or no longer has the node that the job is pinned to.
    """
    for placement in computation.placements.values():
        if number in placement.assigned:
            return _why_assigned(placement, number)
    pinned_to = computation.pinned.get(number)
    places = [p for node, p in computation.placements.items() if pinned_to in (None, node)]
    if not places:
        return ""
    return "it waits: " + "; ".join(f"node {place.node.name}: {why_full(place)}" for place in places)


def _why_assigned(placement: Placement, number: int) -> str:
    """Returns in words, for people, what a job (by number) does, or waits for, on the node that it is assigned to."""
    name = placement.node.name
    if not placement.node.is_connected:
        return f"it is on node {name}; the connection to it is broken and is being made again"
    if number in placement.cancelling:
        return f"it was cancelled, and node {name} has not told its end yet"
    if number in placement.started:
        return f"it runs on node {name}"
    shortage = placement.shortage or placement.node.shortage
    shortage = f" ({shortage})" if shortage else ""
    if number in placement.computation.files:
        progress = f"; {describe_progress(placement.progress)}" if placement.progress is not None else ""
        return (
            f"it is on node {name} and runs when its files are there, under whose names no other job has others, "
            f"and a CPU is free{shortage}{progress}"
        )
    return f"it is on node {name} and runs when a CPU is free there{shortage}"


def why_full(placement: Placement) -> str:
    """Returns in words, for people, why no more jobs of a computation go to a node now.

    Call only if the node takes no more: the last answer is that its CPUs are in use for earlier jobs.
    """
    if not placement.node.is_connected:
        return "the connection to it is broken and is being made again"
    if placement.status is Status.LOADING:
        if placement.progress is not None:
            return describe_progress(placement.progress)
        return "it is loading the computation, or runs its setup"
    if placement.status is Status.FAILED:
        return placement.reason
    if placement.status in (Status.LEAVING, Status.LEFT):
        left = len(placement.assigned)
        after = f", after {counted(left, 'job that runs', 'jobs that run')} there" if left else ""
        return f"it is {'set up again' if placement.returns else 'being closed for this cluster'}{after}"
    if placement.cpus_max <= 0:
        return "it is not to be used any more"
    shortage = placement.shortage or placement.node.shortage
    if placement.slots == 0 and shortage:
        return shortage
    quota = placement.quota
    if quota is not None and quota.left() <= 0:
        return f"set_node_cpus allows {quota.cpus_max or 'none'} of its CPUs"
    kept = why_kept(placement.computation) or _who_is_before(placement.computation)
    if kept:
        return kept
    return "its CPUs are in use for jobs that were submitted before" + (
        f" ({shortage})" if shortage else ""
    )


def why_kept(computation: Computation) -> str:
    """Returns in words, for people, which limit or exclusive use keeps a computation from all nodes; empty if none
    does."""
    if computation.party is None:
        return ""
    lines = computation.party.lines
    if lines.exclusive and not has_turn(lines, computation):
        first = lines.exclusive[0]
        if computation is not first:
            return f"used exclusively by cluster {first.compute.name}{_of_user(first)}"
        before = sum(other.serial < first.serial for other in lines.computations.values())
        return (
            f"{counted(before, 'cluster has', 'clusters have')} to be closed before it is used exclusively"
        )
    tenant = computation.tenant
    if tenant is not None and tenant.cpus_max is not None and tenant.assigned >= tenant.cpus_max:
        return f"{tenant.user} may use {counted(tenant.cpus_max, 'CPU', zero='no')} at once"
    return ""


def _of_user(computation: Computation) -> str:
    """Returns in words whose computation it is; empty if it belongs to no user."""
    return f" of {computation.tenant.user}" if computation.tenant is not None else ""


def _who_is_before(computation: Computation) -> str:
    """Returns in words which programs of other users, and which of the same user, have their turn before a
    computation; empty if none has."""
    if computation.party is None:
        return ""
    own = path_keys(computation)
    programs: dict[str, set[ClientId]] = {}
    same = 0
    for other in computation.party.lines.computations.values():
        if other is computation or not other.queue or path_keys(other) > own:
            continue
        if other.client == computation.client:
            same += 1
        elif other.tenant is not None:
            programs.setdefault(other.tenant.user, set()).add(other.client)
    said = [f"{counted(len(found), 'program')} of {user}" for user, found in sorted(programs.items())]
    if same:
        said.append(f"{counted(same, 'cluster')} of the same program")
    count = same + sum(map(len, programs.values()))
    return f"{' and '.join(said)} {'is' if count == 1 else 'are'} before it" if said else ""


def find_stall(computation: Computation) -> str:
    """Returns in words which jobs of a computation stand still though a node could take or begin them; else empty.

    A stall is a fault of this program or of a node. One answer means nothing, as jobs may just be on their way. The
    words change when anything moves: a caller that gets equal words for as long as its watchdog allows has found one.
    """
    waiting = len(computation.queue) - len(computation.cancelled)
    for placement in computation.free.values() if waiting > 0 and why_kept(computation) == "" else ():
        if room(placement) <= 0:
            continue
        name = placement.node.name
        return f"{counted(waiting, 'job waits', 'jobs wait')}, and node {name} has room"
    for placement in computation.placements.values():
        if (
            placement.assigned
            and not placement.started
            and placement.slots
            and not placement.shortage
            and not placement.node.shortage
            and placement.status is Status.READY
            and placement.node.is_connected
            # Files that jobs bring may take any time to arrive.
            and computation.files.keys().isdisjoint(placement.assigned)
            # Jobs of others may use the CPUs of the node.
            and not any(other.started for other in placement.node.placements.values())
        ):
            return (
                f"node {placement.node.name} has {counted(len(placement.assigned), 'job')}, from number "
                f"{next(iter(placement.assigned))}, and has begun none of them"
            )
    return ""
