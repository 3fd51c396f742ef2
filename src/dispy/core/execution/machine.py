"""The entry of the execution core: maps each event and each message of a client to the function that handles it.

After each of them ``dispatch.settle`` puts every free CPU to work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dispy.core.execution import (
    clients,
    computations,
    draining,
    job_files,
    jobs,
    live_output,
    retention,
    workers,
)
from dispy.core.execution.actions import Action, Outbox
from dispy.core.execution.dispatch import end_idle, settle
from dispy.core.execution.events import (
    ClientAttached,
    ClientSilent,
    CpusChanged,
    Drain,
    Event,
    FilesFailed,
    FilesReady,
    Flush,
    FromClient,
    HostFailed,
    HostReady,
    JobFilesReady,
    JobRefused,
    Looked,
    Ran,
    Recalled,
    Restored,
    ShortOfRoom,
    Stopping,
    Stored,
    Tick,
    ValueSent,
    WorkerDying,
    WorkerExited,
)
from dispy.core.execution.ids import Seconds
from dispy.core.execution.state import Client, State
from dispy.protocol import node
from dispy.protocol.history import History

Handler = Callable[[State, Outbox, Any, Seconds], None]
"""Function that changes the state as an event demands, and appends actions to the outbox. Its third argument has the
type of the event that it is for, the fourth is the present."""


def _on_tick(state: State, out: Outbox, event: Tick, now: Seconds) -> None:
    """Look where workers are, declare silent clients dead, or forget them if their lease has ended; then end workers
    that have been idle for too long."""
    workers.on_tick(state, out, event, now)
    clients.watch_clients(state, out, now)
    if now >= state.idle_at:
        end_idle(state, out, now)


_HANDLERS: dict[type[Event], Handler] = {
    ClientAttached: clients.on_client_attached,
    ClientSilent: clients.on_client_silent,
    CpusChanged: clients.on_cpus_changed,
    Drain: draining.on_drain,
    HostReady: computations.on_host_ready,
    HostFailed: computations.on_host_failed,
    FilesReady: computations.on_files_ready,
    FilesFailed: computations.on_files_failed,
    JobFilesReady: job_files.on_job_files_ready,
    Ran: workers.on_ran,
    ValueSent: workers.on_value_sent,
    Recalled: workers.on_recalled,
    JobRefused: jobs.on_job_refused,
    ShortOfRoom: jobs.on_short_of_room,
    WorkerDying: live_output.on_worker_dying,
    WorkerExited: computations.on_worker_exited,
    Looked: live_output.on_looked,
    Tick: _on_tick,
    Flush: workers.on_flush,
    Stored: retention.on_stored,
    Restored: retention.on_restored,
    Stopping: clients.on_stopping,
}
"""Handler by type of event. ``FromClient`` is missing: its handler is that of its message (``_MESSAGE_HANDLERS``)."""

MessageHandler = Callable[[State, Outbox, Client, Any, Seconds], None]
"""Function that changes the state as a message of a known client demands, and appends actions to the outbox. Its
fourth argument has the type of the message that it is for, the fifth is the present."""

_MESSAGE_HANDLERS: dict[type[node.ToNode], MessageHandler] = {
    node.Compute: computations.on_compute,
    node.CloseComputation: computations.on_close_computation,
    node.Detach: clients.on_detach,
    node.LimitCpus: clients.on_limit_cpus,
    node.Acknowledge: retention.on_acknowledge,
    node.Reconcile: clients.on_reconcile,
    node.Recover: retention.on_recover,
    node.RunJobs: jobs.on_run_jobs,
    node.CancelJobs: jobs.on_cancel_jobs,
    node.ListJobs: jobs.on_list_jobs,
    node.TakeBack: jobs.on_take_back,
    node.AcknowledgeProvisional: jobs.on_acknowledge_provisional,
    node.WatchJobs: live_output.on_watch_jobs,
    node.AcknowledgePrinted: live_output.on_acknowledge_printed,
}
"""Handler by type of the message of a client. Messages of other types are for the shell alone, and ignored here."""


class Machine:
    """The decisions of one node: an event goes in, actions come out. Calls must not overlap.

    Args:
        cpus: Number of CPUs that the node offers: of jobs that may run at once.
        lease_s: Lease of a silent client (seconds since it was last heard): then its jobs are ended and its results
            deleted.
        silence_s: Time (seconds since it was last heard) after which a silent client counts as dead: it loses its
            share of the CPUs, and its results go to disk.
        idle_s: Time (seconds) for which a worker may be idle if too many are (``dispatch.end_idle``).

    Attributes:
        state: Clients, computations and workers of the node. Only ``handle`` changes it; others may read it between
            two calls.
    """

    def __init__(
        self, cpus: int, lease_s: Seconds = 3600.0, silence_s: Seconds = 5.0, idle_s: Seconds = 10.0
    ) -> None:
        self.state = State(cpus, lease_s, silence_s, idle_s)
        self._history = History("the execution core")
        self._notes = self._history.notes

    def handle(self, event: Event, now: Seconds) -> list[Action]:
        """Change the state as an event demands; returns the actions for the shell, to be done in this order.

        A message of a client that is not known, or of a type that the core does not handle, is ignored.

        Args:
            event: News of a client, a host, a worker or the disk, or a tick of the clock.
            now: The present (seconds, monotonic).

        Raises:
            InternalError: Handling the event has failed: the state may be changed in part. The error names the event
                and the last ones before it.
        """
        out: Outbox = []
        state = self.state
        try:
            if type(event) is FromClient:
                name, message = event.client, event.message
                self._notes.append((type(message), name, now))
                client = state.clients.get(name)
                handler = _MESSAGE_HANDLERS.get(type(message))
                if client is not None and handler is not None:
                    handler(state, out, client, message, now)
            else:
                if type(event) is not Tick:  # 100 times a second: the others would soon be gone
                    self._notes.append((type(event), None, now))
                _HANDLERS[type(event)](state, out, event, now)
            settle(state, out, now)
        except Exception as error:
            raise self._history.fault(event, now) from error
        return out
