"""The scheduler of a program: holds the links to nodes, and performs what the scheduling core decides.

Events (submitted jobs, messages of nodes, broken links) go to ``core.scheduling.Machine``, which answers with
actions: messages to nodes, and news for the observer. ``SchedulerService.handle`` does both under a lock.

Threads: everything runs on the loop, except ``try_submit``, which any thread may call. It tries the lock and gives up
at once if the loop has it. The lock guards the core's state; the links belong to the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from dispy.core import scheduling as core
from dispy.core.scheduling import Machine
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.errors import InternalError, SilenceError
from dispy.net.connection import Connection
from dispy.net.sender import Payload
from dispy.protocol import limits, node
from dispy.protocol.views import PlacementView
from dispy.scheduler.node_link import NodeLink
from dispy.scheduler.node_links import NodeLinks
from dispy.scheduler.observer import Observer
from dispy.scheduler.payloads import GivenFiles, send_code, send_jobs, send_object, send_pieces, stop_jobs
from dispy.system.clock import Clock
from dispy.system.wording import say_fault

logger = logging.getLogger("dispy.scheduler")

TICK_S = 0.02
"""Interval (seconds) in which the core looks for jobs that wait on one node while another is idle, and moves them
(work stealing). Runs only while there are jobs and several nodes."""


class SchedulerService:
    """The scheduling core with its links to nodes: one for each program.

    Args:
        identity: 16 random bytes that name this scheduler to nodes, new for each scheduler.
        name: The program's name, as nodes show it.
        observer: Object that is told what happens to nodes and jobs.
        clock: Source of the time (monotonic seconds).
        policy: Order in which computations have their turns, where several wait for the same node.
    """

    def __init__(
        self,
        identity: bytes,
        name: str,
        observer: Observer,
        clock: Clock = time,
        policy: core.Policy = core.Policy.FAIR,
    ) -> None:
        self.clock = clock
        self.machine = Machine(policy)
        self.links = NodeLinks(
            identity, name, clock, self.machine.state, self.handle, observer, self.schedule_tick
        )
        """Links to all nodes."""
        self._given = GivenFiles(identity)
        self.on_send: dict[int, Callable[[node.RunJobs], None]] = {}
        """Functions that are called with each ``RunJobs`` before it leaves for a node, by the number by which nodes
        know the computation (``Computation.wire``): the journal notes the jobs' numbers."""
        self._observer = observer
        self._lock = threading.RLock()
        """Guards the core's state between the loop and threads in ``try_submit``, which do not wait for it."""
        self._loop = asyncio.get_running_loop()
        self._tick: asyncio.TimerHandle | None = None
        """Timer of the next ``core.Tick``; None while there is nothing to look for."""
        info_of = self.links.info_of
        self._perform_by_type: dict[type[core.Action], Callable[[Any], None]] = {
            core.Send: self._send,
            core.TellEnded: lambda a: observer.on_ended(a, info_of(a.node)),
            core.TellEndedHere: observer.on_ended_here,
            core.TellStarted: lambda a: observer.on_started(a, info_of(a.node)),
            core.TellRequeued: observer.on_requeued,
            core.TellValue: lambda a: observer.on_value(a, info_of(a.node)),
            core.TellPrinted: observer.on_printed,
            core.TellNode: self._tell_node,
            core.TellVacated: lambda a: observer.on_vacated(a, info_of(a.node)),
            core.TellPlacement: lambda a: observer.on_placement(a, info_of(a.node)),
            core.TellFiles: observer.on_files,
        }

    @property
    def state(self) -> core.State:
        """The core's state: computations, nodes and jobs. Only read it, on the loop."""
        return self.machine.state

    def handle(self, event: core.Event) -> list[core.Action]:
        """Give the core an event, and perform the actions that it decides on; returns these. On the loop.

        Raises:
            InternalError: The core has a fault, which is logged. What it knows may be wrong from now on.
        """
        perform = self._perform_by_type
        with self._lock:
            try:
                actions = self.machine.handle(event, self.clock.monotonic())
            except InternalError as error:
                self._say_fault(error)
                raise
            for action in actions:
                perform[type(action)](action)
        return actions

    def submit(self, event: core.SubmitJobs) -> None:
        """Give the core new jobs; messages that result from it leave at once. On the loop."""
        sent = dict.fromkeys(a.node for a in self.handle(event) if type(a) is core.Send)
        for node_id in sent:
            node_link = self.links.by_node.get(node_id)
            if node_link is not None and node_link.link.connection is not None:
                node_link.link.connection.flush()

    def try_submit(self, client: ClientId, computation: int, job: node.Job) -> bool:
        """Submit a job from any thread, if it can leave for a node this moment.

        This is the path of a single job that the program waits for: the loop's thread need not wake up for it.

        Returns:
            False, and nothing is done, if other jobs wait, no node is free, the job is large, or the core is busy.
            The caller then submits it on the loop.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            known = self.state.computations.get((client, computation))
            if known is None or known.queue or not known.free or len(job.payload) >= limits.INLINE_MAX:
                return False
            for action in self.machine.handle(
                core.SubmitJobs(client, computation, [job]), self.clock.monotonic()
            ):
                node_link = self.links.by_node.get(action.node) if type(action) is core.Send else None
                if node_link is None or not self._send_now(node_link, action):
                    self._loop.call_soon_threadsafe(self._perform_by_type[type(action)], action)
            return True
        except InternalError as error:
            self._say_fault(error)
            raise
        finally:
            self._lock.release()

    def _say_fault(self, error: InternalError) -> None:
        """Log that the core has a fault."""
        say_fault(
            logger,
            "the scheduler of this program has a fault: jobs may wait for ever from now on, though those that have "
            "ended keep their results; end the program, run again what is missing, and please report this",
            error=error,
        )

    def _send_now(self, node_link: NodeLink, action: core.Action) -> bool:
        assert type(action) is core.Send
        # The loop may lose the connection, and begin anew with another ``Arrived``, meanwhile.
        connection, arrived = node_link.link.connection, node_link.batches.arrived
        if connection is None:
            return False
        number = arrived.due()
        messages = [node.Acknowledge(number), action.message] if number else [action.message]
        if not connection.try_send_now(messages):
            return False
        arrived.tell(number)
        return True

    def schedule_tick(self) -> None:
        """Start the timer (``TICK_S``) that looks for jobs to steal, unless it runs or there is only one node."""
        if self._tick is None and len(self.links.by_node) > 1:
            self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self.handle(core.Tick())
        if any(computation.open for computation in self.state.computations.values()):
            self.schedule_tick()

    # Messages that the backend sends to nodes.

    def ask_jobs(self, node_id: NodeId, client: ClientId, computation: int, serial: int) -> None:
        """Ask a node which jobs of a computation run there; ``Observer.on_jobs_listed`` gets the answer, with the
        same ``serial``. The computation must be known.

        Raises:
            SilenceError: The connection to the node is broken, or the node is lost.
        """
        connection = self.links.ready(node_id)
        if connection is None:
            raise SilenceError(
                "the connection to the node is broken and is being made again", hint="try again"
            )
        connection.send(node.ListJobs(self.state.computations[client, computation].wire, serial))

    def statistics(self) -> dict[str, int]:
        """Returns numbers of nodes, computations and jobs of now, and the traffic of all links. On the loop."""
        computations = self.state.computations.values()
        links = [node_link.statistics() for node_link in dict.fromkeys(self.links.by_target.values())]
        return {
            "nodes": len(self.links.by_node),
            "links": len(links),
            "computations": len(computations),
            "jobs_open": sum([known.open for known in computations]),
            "jobs_queued": sum([len(known.queue) - len(known.cancelled) for known in computations]),
            "bytes_sent": sum([link["bytes_sent"] for link in links]),
            "bytes_received": sum([link["bytes_received"] for link in links]),
            "batches_unacknowledged": sum([link["batches_unacknowledged"] for link in links]),
        }

    def view(self, client: ClientId, computation: int) -> dict[NodeId, PlacementView]:
        """Returns the view of each placement of a computation, as it was told last, with counts of jobs of now.

        Empty if the computation is not known. On the loop.
        """
        known = self.state.computations.get((client, computation))
        if known is None:
            return {}
        return {found: core.refresh(placement) for found, placement in known.placements.items()}

    # Performing the core's actions.

    def _send(self, action: core.Send) -> None:
        node_link = self.links.by_node.get(action.node)
        connection = node_link.link.connection if node_link is not None else None
        if node_link is None or connection is None:
            return
        message = action.message
        node_link.batches.send_due()
        if type(message) is node.RunJobs:
            if message.computation in self.on_send:
                self.on_send[message.computation](message)
            send_jobs(node_link, connection, message, self._give)
        elif type(message) is node.CancelJobs:
            self._send_cancel(node_link, connection, message)
        elif type(message) is node.PutObject and len(message.payload) >= limits.INLINE_MAX:
            send_object(node_link, connection, message, self._give)
        elif type(message) is node.Compute and len(message.code) >= limits.INLINE_MAX:
            send_code(node_link, connection, message)
        else:
            if type(message) is node.CloseComputation:
                number = message.computation
                node_link.large_arguments.give_up_all(lambda key: key[0] == number)
                node_link.large_code.give_up(number)
            connection.send(message)

    def send_pieces(
        self, node_id: NodeId, client: ClientId, computation: int, pieces: list[node.FilePiece]
    ) -> None:
        """Send pieces of files that a node has asked for: large ones as streams, small ones together in messages.

        If the node is not connected the pieces are dropped: it asks again after the reconnect.
        """
        connection = self.links.ready(node_id)
        known = self.state.computations.get((client, computation))
        if connection is not None and known is not None:
            send_pieces(connection, known.wire, pieces)

    def send_unreadable(self, node_id: NodeId, client: ClientId, message: node.FileUnreadable) -> None:
        """Tell a node that it will not get a file, which is gone or has changed. Dropped if it is not connected: it
        asks again after the reconnect."""
        connection = self.links.ready(node_id)
        known = self.state.computations.get((client, message.computation))
        if connection is not None and known is not None:
            message.computation = known.wire
            connection.send(message)

    def _send_cancel(self, node_link: NodeLink, connection: Connection, message: node.CancelJobs) -> None:
        """Send a cancel. Large arguments of cancelled jobs that are still under way are stopped, and the core is told
        that the node has returned these jobs: it never had them."""
        given_up, message = stop_jobs(node_link, message)
        if given_up:
            assert node_link.info is not None
            returned = node.JobsReturned(message.computation, given_up)
            self._loop.call_soon(self.handle, core.FromNodeEvent(node_link.info.node, returned))
        if message.attempts:
            connection.send(message)

    def _give(self, node_link: NodeLink, data: Payload) -> int:
        return self._given.give(self.links.memory, node_link.shared, data)

    def _tell_node(self, action: core.TellNode) -> None:
        if action.node in self.links.by_node:
            self._observer.on_usable(action, self.links.info_of(action.node))

    def close(self, *, forget: bool = True) -> None:
        """End all links. ``forget`` True: nodes end our jobs and drop results. False: they keep both, to be
        recovered."""
        if self._tick is not None:
            self._tick.cancel()
        self.links.close(forget=forget)
