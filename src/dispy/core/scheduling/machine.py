"""The entry of the scheduling core: maps each event and each message of a node to the function that handles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dispy.core.scheduling import computations, files, jobs, nodes, objects, withdrawal
from dispy.core.scheduling.actions import Action, Outbox
from dispy.core.scheduling.events import (
    AddClient,
    AddComputation,
    Allocate,
    AnswerPrinted,
    AnswerValue,
    CancelJobs,
    CloseComputation,
    DropObjects,
    Event,
    FromNodeEvent,
    LimitClient,
    LimitNode,
    LimitUser,
    NodeLost,
    NodeSilent,
    NodeUp,
    PutObject,
    RemoveClient,
    SendFiles,
    SubmitJobs,
    Tick,
    Vacate,
    WatchJobs,
)
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines import clients
from dispy.core.scheduling.placement import serve, steal
from dispy.core.scheduling.state import Node, Policy, State
from dispy.protocol import node
from dispy.protocol.history import History

Handler = Callable[[State, Outbox, Any, Seconds], None]
"""Function that changes the state as an event demands, and appends actions to the outbox. Its third argument has the
type of the event that it is for, the fourth is the present."""


def on_tick(state: State, out: Outbox, event: Tick, now: Seconds) -> None:
    """Steal work: ask nodes to give back jobs that wait behind others while another node has an idle CPU."""
    steal(state, out, now)


_HANDLERS: dict[type[Event], Handler] = {
    AddClient: clients.on_add_client,
    RemoveClient: computations.on_remove_client,
    LimitUser: clients.on_limit_user,
    LimitClient: nodes.on_limit_client,
    AddComputation: computations.on_add_computation,
    CloseComputation: computations.on_close_computation,
    Allocate: computations.on_allocate,
    Vacate: withdrawal.on_vacate,
    LimitNode: nodes.on_limit_node,
    SubmitJobs: jobs.on_submit_jobs,
    CancelJobs: jobs.on_cancel_jobs,
    PutObject: objects.on_put_object,
    DropObjects: objects.on_drop_objects,
    SendFiles: files.on_send_files,
    WatchJobs: jobs.on_watch_jobs,
    AnswerValue: jobs.on_answer_value,
    AnswerPrinted: jobs.on_answer_printed,
    NodeUp: nodes.on_node_up,
    NodeSilent: nodes.on_node_silent,
    NodeLost: nodes.on_node_lost,
    Tick: on_tick,
}
"""Handler by type of event. ``FromNodeEvent`` is missing: its handler is that of its message
(``_MESSAGE_HANDLERS``)."""

MessageHandler = Callable[[State, Outbox, Node, Any, Seconds], None]
"""Function that changes the state as a message of a known node demands, and appends actions to the outbox. Its fourth
argument has the type of the message that it is for, the fifth is the present."""

_MESSAGE_HANDLERS: dict[type[node.FromNode], MessageHandler] = {
    node.ComputationReady: computations.on_computation_ready,
    node.ComputationFailed: computations.on_computation_failed,
    node.Credit: computations.on_credit,
    node.JobsStarted: jobs.on_jobs_started,
    node.JobsEnded: jobs.on_jobs_ended,
    node.JobsReturned: jobs.on_jobs_returned,
    node.Provisional: jobs.on_provisional,
    node.JobsPrinted: jobs.on_printed,
    node.Reconciled: nodes.on_reconciled,
    node.NodeCpus: nodes.on_node_cpus,
    node.NodeCredit: nodes.on_node_credit,
    node.ObjectStored: objects.on_object_stored,
    node.FilesPlaced: files.on_files_placed,
    node.FilesProgress: files.on_files_progress,
}
"""Handler by type of the message of a node. Messages of other types are for the shell alone, and ignored here."""


class Machine:
    """The decisions of one scheduler: an event goes in, actions come out. Calls must not overlap.

    Args:
        policy: Order of computations that wait for the same nodes.

    Attributes:
        state: Computations, nodes and their placements. Only ``handle`` changes it; others may read it between two
            calls.
    """

    def __init__(self, policy: Policy = Policy.FAIR) -> None:
        self.state = State(policy)
        self._history = History("the scheduling core")
        self._notes = self._history.notes

    def handle(self, event: Event, now: Seconds) -> list[Action]:
        """Change the state as an event demands; returns the actions for the shell, to be done in this order.

        A message of a node that is not known, or of a type that the core does not handle, is ignored.

        Args:
            event: A request of a client, news of a node or its connection, or a tick of the clock.
            now: The present (seconds, monotonic).

        Raises:
            InternalError: Handling the event has failed: the state may be changed in part. The error names the event
                and the last ones before it.
        """
        out: Outbox = []
        lines = self.state.lines
        lines.now = now
        try:
            if type(event) is FromNodeEvent:
                name, message = event.node, event.message
                self._notes.append((type(message), name, now))
                known = self.state.nodes.get(name)
                handler = _MESSAGE_HANDLERS.get(type(message))
                if known is not None and handler is not None:
                    handler(self.state, out, known, message, now)
            else:
                if type(event) is not Tick:  # 50 times a second: the others would soon be gone
                    self._notes.append((type(event), None, now))
                _HANDLERS[type(event)](self.state, out, event, now)
            if lines.due:
                serve(self.state, out, now)
        except Exception as error:
            raise self._history.fault(event, now) from error
        return out
