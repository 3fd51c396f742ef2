"""Files that a client sends to a node while its computation is there (``SendFiles``), and the progress of files.

The files of computations and jobs need nothing here: nodes ask their client for them. A request of a client is kept
in ``Placement.placing`` until the node has answered it, and repeated after a reconnect. Files in place become part of
``Placement.compute``, so that the node gets them again if it loses the computation.
"""

from __future__ import annotations

from msgspec import structs

from dispy.core.scheduling.actions import Outbox, Send, TellFiles
from dispy.core.scheduling.events import SendFiles
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.state import Node, Placement, State
from dispy.core.scheduling.views import tell_placement
from dispy.protocol import node
from dispy.protocol.files import check_number, replace_entries
from dispy.protocol.views import PlacementStatus as Status


def on_send_files(state: State, out: Outbox, event: SendFiles, now: Seconds) -> None:
    """Have a node put files into the working directory of a computation, once the computation is loaded there.

    Refused with ``TellFiles`` if the placement is gone, has failed, is leaving or has left, or if the computation
    would have too many files. Otherwise ``TellFiles`` comes when the node has answered.
    """
    number, request = event.message.computation, event.message.request
    computation = state.computations.get((event.client, number))
    placement = computation.placements.get(event.node) if computation is not None else None
    if placement is None or placement.status not in (Status.LOADING, Status.READY):
        reason = placement.reason if placement is not None else ""
        reason = reason or "the node is not there any more"
        out.append(TellFiles(event.client, number, event.node, request, reason))
        return
    # If the node loses the computation, all of its files are listed in one message, which has a limit.
    files = placement.compute.files
    for message in [*placement.placing.values(), event.message]:
        files = replace_entries(files, message.files)
    try:
        check_number(files)
    except ValueError as error:
        reason = f"with these the computation would have {error}"
        out.append(TellFiles(event.client, number, event.node, request, reason))
        return
    message = placement.placing[request] = placement.computation.named_for_nodes(event.message)
    if placement.status is Status.READY and placement.node.is_connected and not placement.node.is_comparing:
        out.append(Send(placement.node.id, message))


def send_files(out: Outbox, placement: Placement) -> None:
    """Send a node the requests to place files (``placing``) that it has not answered, if the placement is READY.

    Call when it becomes READY, and after a reconnect, as requests may be lost with a connection.
    """
    if placement.status is Status.READY and placement.node.is_connected:
        out.extend(Send(placement.node.id, message) for message in placement.placing.values())


def give_up_files(out: Outbox, placement: Placement, reason: str) -> None:
    """End all requests to place files that a node has not answered: ``TellFiles`` with a reason, in words.

    Call when the node cannot answer any more; otherwise clients would wait for ever.
    """
    computation = placement.computation
    for request in placement.placing:
        out.append(TellFiles(computation.client, computation.number, placement.node.id, request, reason))
    placement.placing.clear()


def on_files_placed(
    state: State, out: Outbox, known: Node, message: node.FilesPlaced, now: Seconds
) -> None:
    """Tell the client that a node has put the files of a request in place, or with a reason that it will not.

    Files in place become part of ``Placement.compute``. Ignored if the request was not made or has been answered.
    """
    placement = known.placements.get(message.computation)
    placed = placement.placing.pop(message.request, None) if placement is not None else None
    if placement is not None and placed is not None:
        if not message.reason:
            # If the node loses the computation, it gets these files with it, before any job runs.
            files = replace_entries(placement.compute.files, placed.files)
            placement.compute = structs.replace(placement.compute, files=files)
        computation = placement.computation
        out.append(
            TellFiles(computation.client, computation.number, known.id, message.request, message.reason)
        )


def on_files_progress(
    state: State, out: Outbox, known: Node, message: node.FilesProgress, now: Seconds
) -> None:
    """Tell the client how many files and bytes, of those that a node waits for, have arrived there, to be shown."""
    placement = known.placements.get(message.computation)
    if placement is not None:
        placement.progress = message if message.files < message.files_max else None
        tell_placement(out, placement)
