"""Why a job has not ended, in words."""

from __future__ import annotations

from dispy.core.scheduling.state import Computation, Placement, Status


def why_open(computation: Computation, number: int) -> str:
    """Where a job is that has not ended, and what it waits for; empty if no node is known for it."""
    for placement in computation.placements.values():
        if number in placement.assigned:
            return _why_assigned(placement, number)
    pinned_to = computation.pinned.get(number)
    places = [p for node, p in computation.placements.items() if pinned_to in (None, node)]
    if not places:
        return ""
    return "it waits: " + "; ".join(f"node {place.node.name}: {why_full(place)}" for place in places)


def _why_assigned(placement: Placement, number: int) -> str:
    name = placement.node.name
    if not placement.node.is_connected:
        return f"it is on node {name}; the connection to it is broken and is being made again"
    if number in placement.cancelling:
        return f"it was cancelled, and node {name} has not told its end yet"
    if number in placement.started:
        return f"it runs on node {name}"
    shortage = f" ({placement.shortage})" if placement.shortage else ""
    return f"it is on node {name} and runs when a CPU is free there{shortage}"


def why_full(placement: Placement) -> str:
    """Why no more jobs of a computation go to a node now."""
    if not placement.node.is_connected:
        return "the connection to it is broken and is being made again"
    if placement.status is Status.LOADING:
        return "it is loading the computation"
    if placement.status is Status.FAILED:
        return placement.reason
    if placement.cpus_max <= 0:
        return "it is not to be used any more"
    if placement.granted[0] == 0 and placement.shortage:
        return placement.shortage
    shortage = f" ({placement.shortage})" if placement.shortage else ""
    return f"its CPUs are in use for jobs that were submitted before{shortage}"
