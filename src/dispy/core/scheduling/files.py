"""Files: nodes ask for those of computations and jobs; what a client sends in between is seen through here."""

from __future__ import annotations

from msgspec import structs

from dispy.core.scheduling.actions import Outbox, Send, TellFiles
from dispy.core.scheduling.events import SendFiles
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.state import Node, Placement, State, Status
from dispy.protocol import node
from dispy.protocol.files import check_number, replace_entries


def on_send_files(state: State, out: Outbox, event: SendFiles, now: Seconds) -> None:
    """Have a node put files into the working directory of a computation, as soon as that is there."""
    computation = state.computations.get(event.message.computation)
    placement = computation.placements.get(event.node) if computation is not None else None
    if placement is None or placement.status not in (Status.LOADING, Status.READY):
        reason = placement.reason if placement is not None else ""
        reason = reason or "the node is not there any more"
        out.append(TellFiles(event.message.computation, event.node, event.message.request, reason))
        return
    # All of it is sent again, in one message, if the node should lose the computation.
    files = placement.compute.files
    for message in [*placement.placing.values(), event.message]:
        files = replace_entries(files, message.files)
    try:
        check_number(files)
    except ValueError as error:
        reason = f"with these the computation would have {error}"
        out.append(TellFiles(event.message.computation, event.node, event.message.request, reason))
        return
    placement.placing[event.message.request] = event.message
    if placement.status is Status.READY and placement.node.is_connected and not placement.node.is_comparing:
        out.append(Send(placement.node.id, event.message))


def send_files(out: Outbox, placement: Placement) -> None:
    """Send what a node has not said to have put there: it is ready, or has come back."""
    if placement.status is Status.READY and placement.node.is_connected:
        out.extend(Send(placement.node.id, message) for message in placement.placing.values())


def give_up_files(out: Outbox, placement: Placement, reason: str) -> None:
    """A node is lost, or cannot run the computation."""
    for request in placement.placing:
        out.append(TellFiles(placement.computation.number, placement.node.id, request, reason))
    placement.placing.clear()


def on_files_placed(
    state: State, out: Outbox, known: Node, message: node.FilesPlaced, now: Seconds
) -> None:
    """Files lie where they were to be put, or cannot."""
    placement = known.placements.get(message.computation)
    placed = placement.placing.pop(message.request, None) if placement is not None else None
    if placement is not None and placed is not None:
        if not message.reason:
            # Should the node lose the computation it gets them with it, before anything runs.
            files = replace_entries(placement.compute.files, placed.files)
            placement.compute = structs.replace(placement.compute, files=files)
        out.append(TellFiles(message.computation, known.id, message.request, message.reason))


def on_files_progress(
    state: State, out: Outbox, known: Node, message: node.FilesProgress, now: Seconds
) -> None:
    """A node says how much of what it waits for has come."""
    placement = known.placements.get(message.computation)
    if placement is not None:
        placement.progress = message if message.files < message.files_max else None


def describe_progress(progress: node.FilesProgress) -> str:
    """How far a node is, in words."""
    unit, scale = ("MB", 1_000_000) if progress.size_max >= 1_000_000 else ("kB", 1000)
    sizes = f"{progress.size // scale} of {-(-progress.size_max // scale)} {unit}"
    return f"it is receiving files: {progress.files} of {progress.files_max}, {sizes}"
