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
from dispy.protocol.views import NodeInfo, PlacementView
from dispy.scheduler.link import SLOW_S, Link, Target, Trace
from dispy.scheduler.observer import Observer
from dispy.scheduler.payloads import send_code, send_jobs, send_object, send_pieces
from dispy.settings import PULSE_S
from dispy.system.clock import Clock
from dispy.system.directories import GIVEN, GIVEN_BITS, given_prefix
from dispy.system.escaping import line
from dispy.system.shared_memory import SharedPool
from dispy.system.wording import counted, say_fault

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
    """

    def __init__(self, identity: bytes, name: str, observer: Observer, clock: Clock = time) -> None:
        self.clock = clock
        self.identity = identity
        self.name = name
        self.origin = ""
        """User and machine of this program, for the logs of nodes; empty: not told."""
        self.memory: SharedPool | None = None
        """Files in memory with large payloads, which nodes of this machine take by name; None: all are sent."""
        self.after_note: Callable[[Callable[[], None]], object] | None = None
        """Calls a function as soon as the results so far are written to the journal; None: there is no journal.
        Results are acknowledged only then, as nodes forget acknowledged results."""
        self.on_send: dict[int, Callable[[node.RunJobs], None]] = {}
        """Functions that are called with each ``RunJobs`` before it leaves for a node, by the number by which nodes
        know the computation (``Computation.wire``): the journal notes the jobs' numbers."""
        self._given = given_prefix(identity) << GIVEN_BITS
        """Number of the last file that was linked into a node's directory (``node.Given``). Its upper bits name this
        scheduler, so that numbers of different programs differ."""
        self._observer = observer
        self.machine = Machine()
        self._lock = threading.RLock()
        """Guards the core's state between the loop and threads in ``try_submit``, which do not wait for it."""
        self._loop = asyncio.get_running_loop()
        self.links: dict[Target, Link] = {}
        """Links by ``Target`` (address and secret). A node with several addresses has one link under all."""
        self._by_node: dict[NodeId, Link] = {}
        """Links to nodes that have introduced themselves and are not lost, by the node's id."""
        self._tick: asyncio.TimerHandle | None = None
        """Timer of the next ``core.Tick``; None while there is nothing to look for."""
        self.tracer: Callable[[Link], Trace] | None = None
        """Makes the function that logs the messages of a link; None while nothing is logged (``tracing``)."""
        self.pulse_s = PULSE_S
        """Heartbeat interval of all links (seconds); change it by ``set_pulse``."""
        self._perform_by_type: dict[type[core.Action], Callable[[Any], None]] = {
            core.Send: self._send,
            core.TellEnded: lambda a: observer.on_ended(a, self._info(a.node)),
            core.TellEndedHere: observer.on_ended_here,
            core.TellStarted: lambda a: observer.on_started(a, self._info(a.node)),
            core.TellRequeued: observer.on_requeued,
            core.TellValue: lambda a: observer.on_value(a, self._info(a.node)),
            core.TellPrinted: observer.on_printed,
            core.TellNode: self._tell_node,
            core.TellVacated: lambda a: observer.on_vacated(a, self._info(a.node)),
            core.TellPlacement: lambda a: observer.on_placement(a, self._info(a.node)),
            core.TellFiles: observer.on_files,
        }

    @property
    def is_traced(self) -> bool:
        """True if messages and decisions are logged (``tracing``)."""
        return self.tracer is not None

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
            link = self._by_node.get(node_id)
            if link is not None and link.connection is not None:
                link.connection.flush()

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
                link = self._by_node.get(action.node) if type(action) is core.Send else None
                if (
                    link is None
                    or link.connection is None
                    or not self._send_now(link, link.connection, action)
                ):
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

    def _send_now(self, link: Link, connection: Connection, action: core.Action) -> bool:
        assert type(action) is core.Send
        # The loop may begin anew with another ``Arrived`` meanwhile.
        arrived = link.arrived
        number = arrived.due()
        messages = [node.Acknowledge(number), action.message] if number else [action.message]
        if not connection.try_send_now(messages):
            return False
        arrived.tell(number)
        return True

    def schedule_tick(self) -> None:
        """Start the timer (``TICK_S``) that looks for jobs to steal, unless it runs or there is only one node."""
        if self._tick is None and len(self._by_node) > 1:
            self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self.handle(core.Tick())
        if any(computation.open for computation in self.state.computations.values()):
            self.schedule_tick()

    def set_pulse(self, pulse_s: float) -> None:
        """Change the heartbeat interval of all links (seconds). A node that is silent for five intervals is lost."""
        if pulse_s != self.pulse_s:
            self.pulse_s = pulse_s
            for link in self.links.values():
                link.set_pulse()

    # Links.

    def reach(self, target: Target) -> None:
        """Begin to connect to a node, unless there is a link to this address.

        The observer is told the outcome by ``on_node_known`` or ``on_unreachable``.
        """
        if target not in self.links:
            link = self.links[target] = Link(self, target)
            link.dial()

    def is_linked(self, target: Target) -> bool:
        """True if there is a link to an address, connected or not."""
        return target in self.links

    def ask_jobs(self, node_id: NodeId, client: ClientId, computation: int, serial: int) -> None:
        """Ask a node which jobs of a computation run there; ``Observer.on_jobs_listed`` gets the answer, with the
        same ``serial``. The computation must be known.

        Raises:
            SilenceError: The connection to the node is broken, or the node is lost.
        """
        link = self._by_node.get(node_id)
        if link is None or link.connection is None:
            raise SilenceError(
                "the connection to the node is broken and is being made again", hint="try again"
            )
        link.connection.send(node.ListJobs(self.state.computations[client, computation].wire, serial))

    def is_sending(self, node_id: NodeId) -> bool:
        """True if large payloads, sent as streams, are on their way to a node: jobs may wait for them."""
        link = self._by_node.get(node_id)
        return link is not None and link.connection is not None and link.connection.is_sending

    def silent_s(self, node_id: NodeId) -> float:
        """Returns the seconds since a node's last byte, in steps of half a heartbeat interval; 0.0 if not
        connected. Used to tell the user why a cluster stands still."""
        link = self._by_node.get(node_id)
        if link is None or link.connection is None:
            return 0.0
        return link.connection.heartbeat.silent_s

    def nodes(self) -> list[NodeInfo]:
        """Returns all nodes that have introduced themselves and are not lost, with traffic counts (bytes) of now."""
        found = []
        for link in self._by_node.values():
            if link.info is not None:
                link.info.bytes_sent, link.info.bytes_received = link.traffic()
                found.append(link.info)
        return found

    def statistics(self) -> dict[str, int]:
        """Returns numbers of nodes, computations and jobs of now, and the traffic of all links. On the loop."""
        computations = self.state.computations.values()
        links = [link.statistics() for link in dict.fromkeys(self.links.values())]
        return {
            "nodes": len(self._by_node),
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

    def target_of(self, node_id: NodeId) -> Target:
        """Returns the address and secret by which a node is reached. Valid in ``Observer.on_node_gone``, too."""
        return self._by_node[node_id].target

    def link_failed(self, link: Link, error: Exception) -> None:
        """Forget a node that cannot be reached or is lost, and tell the observer (see ``link.Owner``)."""
        self.links.pop(link.target, None)
        link.is_closed = True
        link.abort_unready()
        if link.info is None:
            self._observer.on_unreachable(link.target, error)
            return
        self._lose(link, f"node {link.info.name} ({link.target.host}:{link.target.port}) is lost: {error}")

    def link_slow(self, link: Link) -> None:
        """Tell the observer that a node has not answered for ``SLOW_S``: the user may have given a wrong address."""
        error = SilenceError(
            f"no answer for {SLOW_S:g} s",
            hint="check its address and port, and the firewalls on the way",
        )
        self._observer.on_unreachable(link.target, error)

    def link_replaced(self, link: Link) -> None:
        """Count the old incarnation of a node as lost: another one answers at its address."""
        assert link.info is not None
        self._lose(link, f"node {link.info.name} was started anew")

    def link_silent(self, link: Link) -> None:
        """Tell the core that a node's connection broke: it sends nothing there until the link is up again."""
        assert link.info is not None
        self.handle(core.NodeSilent(link.info.node))

    def link_welcome(self, link: Link, known: bool) -> None:
        """Tell core and observer about a node that has introduced itself. A second link to one node is closed."""
        info = link.info
        assert info is not None
        other = self._by_node.get(info.node)
        if other is not None and other is not link:
            # The node is linked already under another of its addresses: one link is enough.
            self.links.pop(link.target, None)
            self.links[link.target] = other
            is_alias = other.info is not None and info.ip_addr not in other.info.addresses()
            link.info = None
            link.is_closed = True
            if link.connection is not None:
                link.connection.close()
            if is_alias and other.info is not None:
                other.info.aliases.append(info.ip_addr)
                self._observer.on_node_known(other.info)
            return
        is_new = other is None
        self._by_node[info.node] = link
        if is_new or not known:
            where = f"{link.target.host}:{link.target.port}"
            logger.info(
                "node %s at %s is there, with %s (%s)",
                info.name,
                where,
                counted(info.cpus, "CPU", zero="no"),
                info.platform,
            )
        self.handle(core.NodeUp(info.node, info.name, info.cpus, known))
        if is_new or not known:
            self._observer.on_node_known(info)
        else:
            self._observer.on_cpus(info)
        # Jobs may have been submitted before there was a second node.
        self.schedule_tick()

    def link_message(self, link: Link, message: node.FromNode) -> None:
        """Pass a node's message to the core; to the observer if it is about free resources, files or lists of jobs.

        ``Leaving`` ends the link: the node counts as lost.
        """
        assert link.info is not None
        if type(message) is node.Leaving:
            name = link.info.name
            self.links.pop(link.target, None)
            link.close()
            self._lose(link, f"node {name} left: {message.reason}")
            return
        if type(message) is node.Available:
            link.info.available = message
            self._observer.on_available(link.info)
            return
        if type(message) is node.NeedFiles:
            self._pass_files_needed(link.info, message)
            return
        if type(message) is node.JobsListed:
            self._observer.on_jobs_listed(link.info, message)
            return
        if type(message) is node.NodeCpus:
            link.info.cpus = message.cpus
            link.info.shortage = line(message.reason)
        self.handle(core.FromNodeEvent(link.info.node, message))
        if type(message) is node.NodeCpus:
            self._observer.on_cpus(link.info)

    def _pass_files_needed(self, info: NodeInfo, message: node.NeedFiles) -> None:
        """Tell the observer which files a node asks for; not if the computation is not on the node any more."""
        known = self.state.nodes.get(info.node)
        placement = known.placements.get(message.computation) if known is not None else None
        if placement is not None:
            message.computation = placement.computation.number
            self._observer.on_files_needed(placement.computation.client, message, info)

    def _lose(self, link: Link, reason: str) -> None:
        info = link.info
        assert info is not None
        # Its other addresses are dialed anew if somebody asks for them: another node may answer there now.
        for target in [
            target
            for target, other in self.links.items()
            if other is link and (other.is_closed or target != link.target)
        ]:
            del self.links[target]
        info.is_gone = True
        self.handle(core.NodeLost(info.node, reason))
        self._observer.on_node_gone(info, reason)
        self._by_node.pop(info.node, None)

    def _info(self, node_id: NodeId) -> NodeInfo:
        info = self._by_node[node_id].info
        assert info is not None
        return info

    # Performing the core's actions.

    def _send(self, action: core.Send) -> None:
        link = self._by_node.get(action.node)
        if link is None or link.connection is None:
            return
        connection = link.connection
        message = action.message
        link.acknowledge()
        if type(message) is node.RunJobs:
            if message.computation in self.on_send:
                self.on_send[message.computation](message)
            send_jobs(link, connection, message, self._give)
        elif type(message) is node.CancelJobs:
            self._send_cancel(link, connection, message)
        elif type(message) is node.PutObject and len(message.payload) >= limits.INLINE_MAX:
            send_object(link, connection, message, self._give)
        elif type(message) is node.Compute and len(message.code) >= limits.INLINE_MAX:
            send_code(connection, message)
        else:
            if type(message) is node.CloseComputation:
                link.large_arguments.give_up_all(connection, message.computation)
            connection.send(message)

    def send_pieces(
        self, node_id: NodeId, client: ClientId, computation: int, pieces: list[node.FilePiece]
    ) -> None:
        """Send pieces of files that a node has asked for: large ones as streams, small ones together in messages.

        If the node is not connected the pieces are dropped: it asks again after the reconnect.
        """
        connection = self._ready(node_id)
        known = self.state.computations.get((client, computation))
        if connection is not None and known is not None:
            send_pieces(connection, known.wire, pieces)

    def send_unreadable(self, node_id: NodeId, client: ClientId, message: node.FileUnreadable) -> None:
        """Tell a node that it will not get a file, which is gone or has changed. Dropped if it is not connected: it
        asks again after the reconnect."""
        connection = self._ready(node_id)
        known = self.state.computations.get((client, message.computation))
        if connection is not None and known is not None:
            message.computation = known.wire
            connection.send(message)

    def _ready(self, node_id: NodeId) -> Connection | None:
        """Returns the connection to a node, if there is one that both sides have proved themselves on."""
        link = self._by_node.get(node_id)
        connection = link.connection if link is not None else None
        return connection if connection is not None and connection.is_ready else None

    def _send_cancel(self, link: Link, connection: Connection, message: node.CancelJobs) -> None:
        """Send a cancel. Large arguments of cancelled jobs that are still under way are stopped, and the core is told
        that the node has returned these jobs: it never had them."""
        given_up = link.large_arguments.give_up(connection, message)
        if given_up:
            assert link.info is not None
            returned = node.JobsReturned(message.computation, given_up)
            self._loop.call_soon(self.handle, core.FromNodeEvent(link.info.node, returned))
            left = [attempt for attempt in message.attempts if attempt not in given_up]
            message = node.CancelJobs(message.computation, left)
        if message.attempts:
            connection.send(message)

    def _give(self, link: Link, data: Payload) -> int:
        """Link a payload's file into the shared memory directory of a node of this machine.

        Returns:
            The file's number there (``node.Given``); 0: send the payload, as the node does not share memory, or the
            payload is not in a file.
        """
        if not link.shared or self.memory is None:
            return 0
        self._given += 1
        is_given = self.memory.link(data, f"{link.shared}/{GIVEN}/{self._given}")  # type: ignore[arg-type]
        return self._given if is_given else 0

    def _tell_node(self, action: core.TellNode) -> None:
        if action.node in self._by_node:
            self._observer.on_usable(action, self._info(action.node))

    def close(self, *, forget: bool = True) -> None:
        """End all links. ``forget`` True: nodes end our jobs and drop results. False: they keep both, to be
        recovered."""
        if self._tick is not None:
            self._tick.cancel()
        for link in list(self.links.values()):
            link.close(forget=forget)
