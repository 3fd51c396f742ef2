"""Views of placements: what clients are told of them, and when (``protocol.views.PlacementView``)."""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, TellPlacement
from dispy.core.scheduling.state import Placement
from dispy.protocol.node import FilesProgress
from dispy.protocol.views import PlacementStatus as Status
from dispy.protocol.views import PlacementView


def tell_placement(out: Outbox, placement: Placement, reason: str = "") -> None:
    """Tell the client how its computation is on a node, if anything but the counts of jobs has changed since the last
    time.

    Call after any change of what ``_view`` reads, before other news of the same event: the client may look at the
    view then. ``reason`` says in words why the placement is GONE.
    """
    view = _view(placement, reason)
    if view != refresh(placement):
        placement.view = view
        computation = placement.computation
        out.append(TellPlacement(computation.client, computation.number, placement.node.id, view))


def refresh(placement: Placement) -> PlacementView:
    """Returns the view that the client was told last, with the counts of jobs as they are now."""
    view = placement.view
    view.assigned = len(placement.assigned)
    view.started = len(placement.started)
    return view


def _view(placement: Placement, reason: str) -> PlacementView:
    """Returns how a placement is now, for its client."""
    known = placement.node
    return PlacementView(
        placement.status,
        reason if placement.status is Status.GONE else placement.reason,
        placement.shortage or placement.node.shortage,
        describe_progress(placement.progress) if placement.progress is not None else "",
        placement.cpus_max,
        known.cpus_max,
        min(placement.granted[0], placement.node.slots) if placement.status is Status.READY else 0,
        placement.is_open(),
        placement.returns,
        known.is_connected,
        len(placement.assigned),
        len(placement.started),
    )


def describe_progress(progress: FilesProgress) -> str:
    """Returns in words, for people, how many files and kB or MB a node has received so far, each "of" the total."""
    unit, scale = ("MB", 1_000_000) if progress.size_max >= 1_000_000 else ("kB", 1000)
    sizes = f"{progress.size // scale} of {-(-progress.size_max // scale)} {unit}"
    return f"it is receiving files: {progress.files} of {progress.files_max}, {sizes}"
