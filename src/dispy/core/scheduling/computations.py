"""Computations: opened and closed by clients; allocated, loaded, refused and granted credit on nodes.

Status of a placement (a computation on a node). ``gone``: the placement is forgotten on both sides. While the
connection is broken nothing is sent; ``nodes.on_reconciled`` makes up for it.

| status          | event                                | next    | what is sent                                   |
|-----------------|--------------------------------------|---------|------------------------------------------------|
| none            | Allocate, CPUs > 0                   | LOADING | Compute                                        |
| LOADING, FAILED | ComputationReady                     | READY   | TellNode (usable), objects, files; jobs follow |
|                 |                                      |         | the node's Credit                              |
| LOADING, READY  | ComputationFailed                    | FAILED  | TellNode (not usable); pinned jobs: ABANDONED  |
| READY           | ObjectStored: no room for an object, | FAILED  | TakeBack, TellNode; pinned jobs: ABANDONED     |
|                 | ever                                 |         |                                                |
| READY           | JobsReturned with a reason: the node | LOADING | Compute                                        |
|                 | does not know the computation        |         |                                                |
| LOADING, READY, | Reconciled: the node has lost the    | LOADING | Compute                                        |
| FAILED          | computation                          |         |                                                |
| any but LEFT    | Vacate                               | LEAVING | TakeBack; CancelJobs if it terminates          |
| LEAVING         | last job gone, it returns            | LEFT    | CloseComputation, TellVacated                  |
| LEAVING         | last job gone, it does not return    | gone    | CloseComputation, TellNode (not usable)        |
| LEFT            | Allocate, CPUs > 0                   | LOADING | Compute with the next generation (``life``)    |
| LEFT            | Vacate, it does not return           | gone    | TellNode (not usable)                          |
| any             | Allocate, 0 CPUs, not draining       | gone    | CloseComputation, TellNode; see ``retries``    |
| any             | NodeLost                             | gone    | TellNode; see ``retries``                      |
| any             | CloseComputation of the client       | gone    | CloseComputation                               |

A message about an earlier generation, or to a placement that is LEAVING or LEFT, changes no status.
"""

from __future__ import annotations

from msgspec import structs

from dispy.core.scheduling.actions import Outbox, Send, TellNode
from dispy.core.scheduling.events import AddComputation, Allocate, CloseComputation, RemoveClient
from dispy.core.scheduling.files import give_up_files, send_files
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines.accounts import enroll, join_quota, note_room
from dispy.core.scheduling.lines.clients import forget_client
from dispy.core.scheduling.lines.parties import leave, note_ended
from dispy.core.scheduling.objects import send_objects
from dispy.core.scheduling.placement import apply_credit, end_here, end_if_hopeless, place
from dispy.core.scheduling.state import Computation, Node, Placement, State
from dispy.core.scheduling.views import tell_placement
from dispy.core.scheduling.withdrawal import CLOSED, cancel_pinned, drop_placement, give_up_placement
from dispy.protocol import node
from dispy.protocol.node import ABANDONED
from dispy.protocol.views import PlacementStatus as Status


def on_add_computation(state: State, out: Outbox, event: AddComputation, now: Seconds) -> None:
    """Note a computation that a client opens, without jobs. No node has it until ``Allocate`` gives it one."""
    key = (event.client, event.computation)
    lines, before = state.lines, state.computations
    computation = Computation(key, event.compute, event.reentrant, event.exclusive, state)
    if before or lines.programs or event.exclusive:
        # From the second one on accounts are kept, of the first one, too.
        for each in [*before.values()] if len(before) == 1 else []:
            enroll(lines, each)
        enroll(lines, computation)
    before[key] = computation
    if event.exclusive:
        lines.exclusive.append(computation)


def on_close_computation(state: State, out: Outbox, event: CloseComputation, now: Seconds) -> None:
    """Forget a computation and its jobs here and on its nodes. The client is told no end of its open jobs."""
    computation = state.computations.pop((event.client, event.computation), None)
    if computation is None:
        return
    for placement in list(computation.placements.values()):
        give_up_files(out, placement, "the cluster was closed")
        drop_placement(out, placement)
    state.uneven.pop(computation.key, None)
    _leave_lines(state, computation)


def on_remove_client(state: State, out: Outbox, event: RemoveClient, now: Seconds) -> None:
    """Close all computations of a program that has left for good, and forget the program."""
    for client, number in list(state.computations):
        if client == event.client:
            on_close_computation(state, out, CloseComputation(client, number), now)
    forget_client(state.lines, event.client)


def _leave_lines(state: State, computation: Computation) -> None:
    """Take a computation that was closed out of all lines; others may have waited for that."""
    lines = state.lines
    if computation.party is not None:
        count, computation.open = computation.open, 0
        note_ended(computation, count)
        leave(computation.party)
    if computation.tenant is not None:
        computation.tenant.held.pop(computation.key, None)
    if lines.exclusive:
        lines.exclusive = [each for each in lines.exclusive if each is not computation]
        lines.due[""] = computation


def on_allocate(state: State, out: Outbox, event: Allocate, now: Seconds) -> None:
    """Let a computation use a node, change the number of CPUs that it may use there, or take the node away.

    If the node is taken away at once (0 CPUs), jobs there run again elsewhere or end (``retries``). If it is drained
    (0 CPUs, ``is_draining``), running jobs go on, and those that wait there are asked back. In both cases unsent jobs
    that are pinned to the node end as ``CANCELLED``.
    """
    computation = state.computations.get((event.client, event.computation))
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
        return  # the client is asked with ``TellVacated`` once the computation has left
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
    apply_credit(placement)
    tell_placement(out, placement)
    if event.cpus <= 0:
        cancel_pinned(out, placement)
    waiting = len(placement.assigned) - len(placement.started)
    if event.is_draining and known.is_connected and waiting:
        out.append(Send(known.id, node.TakeBack(computation.wire, waiting)))
    place(out, computation, now)


def open_placement(computation: Computation, known: Node, cpus: int) -> Placement:
    """Returns a new placement of a computation on a node, for up to ``cpus`` CPUs, without credit.

    Stores the placement in ``placements`` of the computation and of the node. The caller sends the computation.
    """
    placement = Placement(computation, known, cpus)
    program = computation.lines.programs.get(computation.client)
    if program is not None and known.id in program.quotas:
        join_quota(program.quotas[known.id], placement)
    computation.placements[known.id] = placement
    known.placements[computation.wire] = placement
    return placement


def on_computation_ready(
    state: State, out: Outbox, known: Node, message: node.ComputationReady, now: Seconds
) -> None:
    """A node has loaded a computation: tell the client, and send the node objects and files.

    Jobs go there as soon as the node grants credit and has stored the objects.
    """
    placement = known.placements.get(message.computation)
    if placement is None or placement.status is Status.READY or _is_past(placement, message.life):
        return
    placement.status = Status.READY
    placement.progress = None
    tell_placement(out, placement)
    computation = placement.computation
    out.append(TellNode(computation.client, computation.number, known.id, True, message.warning))
    send_objects(out, placement)
    send_files(out, placement)
    note_room(placement)


def on_computation_failed(
    state: State, out: Outbox, known: Node, message: node.ComputationFailed, now: Seconds
) -> None:
    """A node cannot run a computation: send it no more jobs, tell the client the reason, and end jobs pinned to it.

    Assigned jobs stay assigned: the node gives back those that it has not started. The others have ended, and their
    results may still be on their way, as this message overtakes large results.
    """
    placement = known.placements.get(message.computation)
    if placement is None or _is_past(placement, message.life):
        return
    computation = placement.computation
    placement.status = Status.FAILED
    placement.reason = message.reason
    note_room(placement)
    tell_placement(out, placement)
    give_up_files(out, placement, message.reason)
    pinned = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, computation, pinned, ABANDONED, message.reason)
    out.append(TellNode(computation.client, computation.number, known.id, False, message.reason))
    end_if_hopeless(out, computation)
    place(out, computation, now)


def _is_past(placement: Placement, life: int) -> bool:
    """True if a message of a node about generation ``life`` of a computation comes too late and must be ignored.

    Too late: the placement has another generation now, or the computation is leaving the node or has left it.
    """
    return placement.status in (Status.LEAVING, Status.LEFT) or life != placement.compute.life


def load_again(out: Outbox, placement: Placement) -> None:
    """Send a computation again to a node that has lost it. No jobs go there until the node has loaded it.

    Assigned jobs and those pinned to the node are kept; objects count as not sent. The caller must call ``note_room``
    next.
    """
    placement.granted = (0, 0)
    placement.apply_grant()
    placement.status = Status.LOADING
    placement.printed.clear()
    placement.stored.clear()
    placement.storing.clear()
    placement.dropped.clear()
    tell_placement(out, placement)
    out.append(Send(placement.node.id, placement.compute))


def on_credit(state: State, out: Outbox, known: Node, message: node.Credit, now: Seconds) -> None:
    """A node grants another credit (number of jobs that it takes): send it more jobs if it has room for them now.

    If the credit is smaller, jobs above it stay on the node. If there are slots again, objects for which the node had
    no room are sent again. Ignored unless the computation is READY there.
    """
    placement = known.placements.get(message.computation)
    # A computation that is not loaded has no credit: this message is of an earlier generation.
    if placement is None or placement.status is not Status.READY:
        return
    placement.granted = (message.slots, message.backlog)
    placement.expected_us = message.expected_us
    placement.shortage = message.reason
    apply_credit(placement)
    if message.slots and placement.computation.objects:
        send_objects(out, placement)
    tell_placement(out, placement)
    place(out, placement.computation, now)
