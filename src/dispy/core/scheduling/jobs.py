"""Jobs: submitted, cancelled and watched by clients; started, ended and returned by nodes.

The life of a job in the scheduler. *Queued*: in the queue of its computation, or of its placement if it is pinned to
a node. *Assigned*: sent to a node. *Ended*: told to the client, once, and forgotten.

| state    | event                                      | next     | what is sent                                    |
|----------|--------------------------------------------|----------|-------------------------------------------------|
| none     | SubmitJobs                                 | queued   |                                                 |
| none     | SubmitJobs for a node that is not open     | ended    | TellEndedHere (ABANDONED)                       |
| queued   | a node has room (``placement.place``)      | assigned | RunJobs                                         |
| queued   | CancelJobs                                 | ended    | TellEndedHere (CANCELLED)                       |
| queued   | every node has failed                      | ended    | TellEndedHere (TERMINATED)                      |
| assigned | JobsStarted                                | assigned | TellStarted                                     |
| assigned | CancelJobs                                 | assigned | CancelJobs; the node tells the end              |
| assigned | JobsEnded                                  | ended    | TellEnded                                       |
| assigned | JobsEnded, the process died, may run again | queued   | TellRequeued                                    |
| assigned | JobsReturned: not started there            | queued   | TellRequeued; if cancelled: ended               |
| assigned | Reconciled: it never arrived               | assigned | RunJobs, same attempt; if cancelled: ended; if  |
|          |                                            |          | the computation is not loaded: queued           |
| assigned | its node is lost or taken away             | queued   | TellRequeued if it may run again (``retries``), |
|          |                                            |          | else ended: TellEndedHere                       |

A message of a node counts only if the job is assigned there with the same attempt; late and doubled ones are ignored.
"""

from __future__ import annotations

from typing import TypeVar

from dispy.core.scheduling.actions import (
    Outbox,
    Send,
    TellEnded,
    TellPrinted,
    TellRequeued,
    TellStarted,
    TellValue,
)
from dispy.core.scheduling.computations import load_again
from dispy.core.scheduling.events import AnswerPrinted, AnswerValue, CancelJobs, SubmitJobs, WatchJobs
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines.accounts import note_room
from dispy.core.scheduling.lines.parties import enter, note_arrival, note_ended, spend
from dispy.core.scheduling.placement import (
    apply_credit,
    cancel_queued,
    end_here,
    end_if_hopeless,
    place,
    send_watch,
)
from dispy.core.scheduling.retries import requeue, retry_after_deaths
from dispy.core.scheduling.state import Node, Placement, State
from dispy.core.scheduling.withdrawal import CLOSED, leave_if_empty, send_off
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import ABANDONED, Attempt
from dispy.protocol.views import PlacementStatus as Status

Report = TypeVar("Report", node.Started, node.Printed)
"""Report of a node about one attempt of a job."""


def on_submit_jobs(state: State, out: Outbox, event: SubmitJobs, now: Seconds) -> None:
    """Put jobs at the end of the queue of their computation or, if pinned, of their node; send those that have room.

    Jobs pinned to a node that is not open end at once as ``ABANDONED``, other jobs as ``TERMINATED`` if every node
    has failed.
    """
    computation = state.computations[event.client, event.computation]
    if computation.party is not None:
        note_arrival(computation, event.jobs)
    computation.open += len(event.jobs)
    if event.files:
        computation.files.update(event.files)
        most = max(map(len, event.files.values()))
        if most > computation.files_most:
            computation.files_most = most
            for each in computation.placements.values():
                apply_credit(each)
    if event.node is None:
        computation.queue.extend(event.jobs)
    else:
        placement = computation.placements.get(event.node)
        computation.pinned.update((job.number, event.node) for job in event.jobs)
        if placement is None or not placement.is_open():
            numbers = [job.number for job in event.jobs]
            reason = placement.reason if placement is not None else ""
            reason = reason or "the node that was asked for is not there any more"
            end_here(out, computation, numbers, ABANDONED, reason)
        else:
            placement.pinned.extend(event.jobs)
            placement.node.pinned[computation.wire] = placement
    if computation.free or computation.backlogs:
        place(out, computation, now)
    elif computation.queue:
        enter(computation)
        end_if_hopeless(out, computation)


def on_watch_jobs(state: State, out: Outbox, event: WatchJobs, now: Seconds) -> None:
    """Ask the nodes that have jobs to send what these print while they run; ``is_wanted`` False: to stop that.

    Jobs that wait here are noted in ``Computation.watched``: the node is asked when it gets them.
    """
    computation = state.computations.get((event.client, event.computation))
    if computation is None:
        return
    if event.is_wanted:
        computation.watched.update(event.numbers)
    else:
        computation.watched.difference_update(event.numbers)
    for placement in computation.placements.values():
        send_watch(out, placement, event.numbers, event.is_wanted)


def on_cancel_jobs(state: State, out: Outbox, event: CancelJobs, now: Seconds) -> None:
    """Cancel jobs. Waiting ones end at once; assigned ones end when their node says so, and stay open until then."""
    computation = state.computations.get((event.client, event.computation))
    if computation is None:
        return
    left = dict.fromkeys(event.numbers)
    for placement in computation.placements.values():
        assigned = placement.assigned
        if len(left) < len(assigned):
            there = [assigned[number] for number in left if number in assigned]
        else:
            there = [job for number, job in assigned.items() if number in left]
        for job in there:
            del left[job.number]
        for start in range(0, len(there), BATCH_MAX):
            attempts = [Attempt(job.number, job.attempt) for job in there[start : start + BATCH_MAX]]
            if placement.node.is_connected:
                out.append(Send(placement.node.id, node.CancelJobs(computation.wire, attempts)))
            placement.cancelling.update(attempt.number for attempt in attempts)
    numbers = [number for number in left if number not in computation.cancelled]
    if numbers:
        cancel_queued(out, computation, numbers)


def _of_assigned(placement: Placement, reports: list[Report]) -> list[Report]:
    """Returns the reports of a node, in their order, that are about attempts assigned there: the others are late."""
    assigned = placement.assigned
    return [
        one for one in reports if one.number in assigned and assigned[one.number].attempt == one.attempt
    ]


def on_jobs_started(
    state: State, out: Outbox, known: Node, message: node.JobsStarted, now: Seconds
) -> None:
    """Tell the client which jobs have been running on a node for a tick (10 ms).

    If the computation is leaving the node with ``Vacate.terminate``, these jobs are cancelled now.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    started = _of_assigned(placement, message.started)
    placement.started.update(s.number for s in started)
    note_room(placement)
    computation = placement.computation
    if started:
        out.append(TellStarted(computation.client, computation.number, known.id, started))
    if placement.status is Status.LEAVING:
        send_off(out, placement)
    if computation.queue and (computation.free or computation.backlogs):
        place(out, computation, now)  # others wait for the node now: its room is counted in another way


def on_jobs_ended(state: State, out: Outbox, known: Node, message: node.JobsEnded, now: Seconds) -> None:
    """Jobs have ended on a node: tell the client, once, and send the node other jobs in their place.

    The batch itself, its number and acknowledgement, is the link's affair (``protocol.batches``). Every job passes
    here, so the bookkeeping is done a batch at a time.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    computation = placement.computation
    if computation.reentrant:
        retry_after_deaths(out, placement, message)
    assigned = placement.assigned
    ended = []
    for result in message.ended:
        job = assigned.get(result.number)
        if job is not None and job.attempt == result.attempt:
            del assigned[result.number]
            ended.append(result)
    if not ended:
        note_room(placement)
        leave_if_empty(out, placement, now)
        place(out, computation, now)
        return
    computation.open -= len(ended)
    if computation.party is not None:
        spend(placement, message.used_us)
        note_ended(computation, len(ended))
    if placement.started:
        placement.started.difference_update([result.number for result in ended])
    if placement.cancelling:
        placement.cancelling.difference_update([result.number for result in ended])
    if computation.pinned:
        for result in ended:
            computation.pinned.pop(result.number, None)
    if computation.watched:
        computation.watched.difference_update([result.number for result in ended])
    for result in ended if computation.deaths else ():
        computation.deaths.pop(result.number, None)
    for result in ended if computation.files else ():
        computation.files.pop(result.number, None)
    placement.asked_back = False
    out.append(TellEnded(computation.client, computation.number, known.id, ended))
    note_room(placement)
    if placement.status is Status.LEAVING:
        leave_if_empty(out, placement, now)
    place(out, computation, now)


def on_jobs_returned(
    state: State, out: Outbox, known: Node, message: node.JobsReturned, now: Seconds
) -> None:
    """A node gives back jobs that it has not started: put them to the head of their queue, as new attempts.

    Cancelled jobs end instead, and so do pinned jobs whose placement is not open. If the message has a reason, the
    node does not know the computation: the computation is sent again, unless the node has said before that it cannot
    run it.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    # A node that had none to give is asked again only after something has moved there, or was sent.
    if message.attempts:
        placement.asked_back = False
    placement.last_sent = now
    back = _take_assigned(placement, message.attempts)
    computation = placement.computation
    cancelled = [job.number for job in back if job.number in placement.cancelling]
    back = [job for job in back if job.number not in placement.cancelling]
    placement.cancelling.difference_update(cancelled)
    homeless: list[int] = []
    if computation.pinned and not placement.is_open():
        homeless = [job.number for job in back if job.number in computation.pinned]
        back = [job for job in back if job.number not in computation.pinned]
    requeue(computation, back)
    if placement.status is Status.FAILED:
        end_here(out, computation, homeless, ABANDONED, placement.reason)
    else:
        end_here(out, computation, homeless, node.CANCELLED, CLOSED)
    end_cancelled(out, placement, cancelled)
    if back:
        out.append(TellRequeued(computation.client, computation.number, [job.number for job in back]))
    note_room(placement)
    if back and known.id in computation.free:
        # They waited there, so its CPUs are in use for others: of the nodes with room it is the last to get them.
        computation.free = {known.id: computation.free.pop(known.id), **computation.free}
    if message.reason and placement.status is Status.READY:
        # The node does not know the computation.
        load_again(out, placement)
        note_room(placement)
    if placement.status is Status.FAILED:
        end_if_hopeless(out, computation)
    leave_if_empty(out, placement, now)
    place(out, computation, now)


def _take_assigned(placement: Placement, attempts: list[Attempt]) -> list[node.Job]:
    """Remove attempts that a node gives back from ``assigned`` and ``started``; returns the jobs removed, in the
    order of the attempts.

    Attempts that came back before, or are not the present attempt of their job, are ignored.
    """
    assigned = placement.assigned
    taken = []
    for attempt in attempts:
        job = assigned.get(attempt.number)
        if job is not None and job.attempt == attempt.attempt:
            del assigned[attempt.number]
            placement.started.discard(attempt.number)
            taken.append(job)
    return taken


def end_cancelled(out: Outbox, placement: Placement, numbers: list[int]) -> None:
    """End jobs, by number, that were cancelled while assigned and came back unstarted, as ``CANCELLED``.

    The caller has removed them from ``assigned``.
    """
    end_here(out, placement.computation, numbers, node.CANCELLED, "cancelled")


def on_provisional(state: State, out: Outbox, known: Node, message: node.Provisional, now: Seconds) -> None:
    """A running job sent a provisional result or a part of a file: pass it on to the client.

    The job goes on when the client has answered (``on_answer_value``). From an attempt that is not wanted any more a
    result is acknowledged here, and a part refused.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    computation = placement.computation
    job = placement.assigned.get(message.number)
    if job is not None and job.attempt == message.attempt:
        value = computation.named_for_client(message)
        out.append(TellValue(computation.client, computation.number, known.id, value))
        return
    told = node.AcknowledgeProvisional(message.computation, message.number, message.attempt, message.serial)
    if message.file is not None:
        told.delivered, told.reason = False, "its client waits for this run of the job no more"
    out.append(Send(known.id, told))


def on_answer_value(state: State, out: Outbox, event: AnswerValue, now: Seconds) -> None:
    """Tell a node that the client has a value, or has written or refused a part of a file. Dropped if the connection
    is broken: the node tells the job then that the value was not delivered, and the job may send it again."""
    known = state.nodes.get(event.node)
    computation = state.computations.get((event.client, event.message.computation))
    if known is not None and known.is_connected and computation is not None:
        out.append(Send(known.id, computation.named_for_nodes(event.message)))


def on_printed(state: State, out: Outbox, known: Node, message: node.JobsPrinted, now: Seconds) -> None:
    """Running jobs have printed something: pass it on to the client, except of attempts that are not assigned there.

    The message is acknowledged when the client has answered, at once if it has nothing for the client.
    """
    placement = known.placements.get(message.computation)
    if placement is None:
        return
    computation = placement.computation
    printed = _of_assigned(placement, message.printed)
    serial = computation.last_printed = computation.last_printed + 1
    placement.printed[serial] = not printed
    if printed:
        out.append(TellPrinted(computation.client, computation.number, known.id, printed, serial))
    _acknowledge_printed(out, placement)


def on_answer_printed(state: State, out: Outbox, event: AnswerPrinted, now: Seconds) -> None:
    """A client has what jobs on a node have printed: acknowledge it, so that the node sends more output."""
    computation = state.computations.get((event.client, event.computation))
    placement = computation.placements.get(event.node) if computation is not None else None
    if placement is not None and event.serial in placement.printed:
        placement.printed[event.serial] = True
        _acknowledge_printed(out, placement)


def _acknowledge_printed(out: Outbox, placement: Placement) -> None:
    """Acknowledge messages with output in their order, up to the first that the client has not answered: a node takes
    each acknowledgement for the oldest one."""
    for serial in list(placement.printed):
        if not placement.printed[serial]:
            break
        del placement.printed[serial]
        out.append(Send(placement.node.id, node.AcknowledgePrinted(placement.computation.wire)))
