"""Computations: brought and closed by clients; allocated, loaded, refused and granted credit on nodes."""

from __future__ import annotations

from msgspec import structs

from dispy.core.scheduling.actions import Outbox, Send, TellCredit, TellNode
from dispy.core.scheduling.events import AddComputation, Allocate, CloseComputation
from dispy.core.scheduling.files import give_up_files, send_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.objects import send_objects
from dispy.core.scheduling.placement import end_here, end_if_hopeless, note_room, place
from dispy.core.scheduling.state import Computation, Node, Placement, State, Status
from dispy.core.scheduling.withdrawal import CLOSED, cancel_pinned, drop_placement, give_up_placement
from dispy.protocol import node
from dispy.protocol.node import ABANDONED


def on_add_computation(state: State, out: Outbox, event: AddComputation, now: Seconds) -> None:
    """Know a computation; it runs nowhere until it is allocated nodes."""
    state.computations[event.compute.computation] = Computation(
        event.client, event.compute, event.reentrant
    )


def on_close_computation(state: State, out: Outbox, event: CloseComputation, now: Seconds) -> None:
    """Forget a computation here and on its nodes."""
    computation = state.computations.pop(event.computation, None)
    if computation is None:
        return
    for placement in list(computation.placements.values()):
        give_up_files(out, placement, "the cluster was closed")
        drop_placement(out, placement)


def on_allocate(state: State, out: Outbox, event: Allocate, now: Seconds) -> None:
    """Let a computation use a node, change how much of it, or end that."""
    computation = state.computations.get(event.computation)
    known = state.nodes.get(event.node)
    if computation is None or known is None:
        return
    placement = computation.placements.get(known.id)
    if event.cpus <= 0 and not event.is_draining:
        if placement is not None:
            cancel_pinned(out, placement)
            give_up_placement(out, placement, CLOSED, now)
        return
    if placement is None and event.is_draining:
        return
    if placement is not None and placement.status is Status.LEAVING:
        return  # what it is like when it comes back is asked when it has left
    if placement is None or placement.status is Status.LEFT:
        if placement is None:
            placement = open_placement(computation, known, event.cpus)
        life = computation.stays.get(known.id, 0)
        computation.stays[known.id] = life + 1
        if event.code or event.files is not None or life:
            code = event.code or computation.compute.code
            files = computation.compute.files if event.files is None else event.files
            placement.begin(structs.replace(computation.compute, code=code, files=files, life=life))
        if known.is_connected:
            out.append(Send(known.id, placement.compute))
    placement.cpus_max = event.cpus
    placement.apply_grant()
    note_room(placement)
    if event.cpus <= 0:
        cancel_pinned(out, placement)
    waiting = len(placement.assigned) - len(placement.started)
    if event.is_draining and known.is_connected and waiting:
        out.append(Send(known.id, node.TakeBack(computation.number, waiting)))
    place(out, computation, now)


def open_placement(computation: Computation, known: Node, cpus: int) -> Placement:
    """A computation comes to a node."""
    placement = Placement(computation, known, cpus)
    computation.placements[known.id] = placement
    known.placements[computation.number] = placement
    return placement


def on_computation_ready(
    state: State, out: Outbox, known: Node, message: node.ComputationReady, now: Seconds
) -> None:
    """A computation is loaded; jobs go there as soon as there is credit."""
    placement = known.placements.get(message.computation)
    if placement is None or placement.status is Status.READY or _is_past(placement, message.life):
        return
    placement.status = Status.READY
    computation = placement.computation
    out.append(TellNode(computation.client, computation.number, known.id, True, message.warning))
    placement.progress = None
    send_objects(out, placement)
    send_files(out, placement)
    note_room(placement)


def on_computation_failed(
    state: State, out: Outbox, known: Node, message: node.ComputationFailed, now: Seconds
) -> None:
    """A node cannot run a computation: it is not used for it, and the reason is kept.

    What it has not started it gives back. The others have ended, and their results may still be on their way:
    a large one is overtaken by this message.
    """
    placement = known.placements.get(message.computation)
    if placement is None or _is_past(placement, message.life):
        return
    computation = placement.computation
    placement.status = Status.FAILED
    placement.reason = message.reason
    note_room(placement)
    give_up_files(out, placement, message.reason)
    pinned = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, computation, pinned, ABANDONED, message.reason)
    out.append(TellNode(computation.client, computation.number, known.id, False, message.reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def _is_past(placement: Placement, life: int) -> bool:
    """Whether what a node says of a computation is about a stay that is over, or ends anyway."""
    return placement.status in (Status.LEAVING, Status.LEFT) or life != placement.compute.life


def load_again(out: Outbox, placement: Placement) -> None:
    """A node does not have a computation any more: it is sent again; jobs follow its credit."""
    placement.granted = (0, 0)
    placement.apply_grant()
    placement.status = Status.LOADING
    placement.stored.clear()
    placement.storing.clear()
    placement.dropped.clear()
    out.append(Send(placement.node.id, placement.compute))


def on_credit(state: State, out: Outbox, known: Node, message: node.Credit, now: Seconds) -> None:
    """A node grants more or less."""
    placement = known.placements.get(message.computation)
    # Before it is loaded there is none: this one is of its time there before that.
    if placement is None or placement.status is not Status.READY:
        return
    is_news = message.reason != placement.shortage
    placement.granted = (message.slots, message.backlog)
    placement.shortage = message.reason
    placement.apply_grant()
    if message.slots and placement.computation.objects:
        send_objects(out, placement)
    note_room(placement)
    computation = placement.computation
    if is_news:
        out.append(TellCredit(computation.client, computation.number, known.id))
    place(out, computation, now)
