"""The one background thread of a program: an event loop with the embedded scheduler.

All clusters of a process share it, so that they share nodes fairly. Other threads reach it only by
``post`` and ``call``; jobs come by each cluster's inbox, and a wake-up is sent only when none is
on its way.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import errno
import logging
import os
import secrets as randomness
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dispy import payload
from dispy.client import logger as log
from dispy.client.engine import node_discovery
from dispy.client.engine.local_nodes import Listed
from dispy.client.engine.private_node import PrivateNode
from dispy.client.recovery import journaling
from dispy.client.session import completion, explain, failures, sent, shutdown
from dispy.client.session.callbacks import Caller
from dispy.client.session.received_files import Arrivals
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import NodeId
from dispy.errors import DispyError, UsageError
from dispy.journal.writer import Journal
from dispy.protocol.node import AcknowledgeProvisional, JobsListed, NeedFiles, Provisional
from dispy.scheduler.link import NodeInfo, Target
from dispy.scheduler.service import SchedulerService
from dispy.scheduler.tracing import set_tracing
from dispy.system.addresses import is_loopback
from dispy.system.directories import memory_directory, shared_memory
from dispy.system.memory import pool
from dispy.system.process_identity import user_and_host
from dispy.system.processes import fill_standard_descriptors, shortage
from dispy.system.run_directory import Place, sweep
from dispy.system.shared_memory import SharedPool

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")

T = TypeVar("T")

DISCOVER_S = 0.2
"""How often the list of this machine's nodes is read: a node started by hand is found at once."""

LOG_S = 1.0
"""Time for handlers to take the last lines."""

SWEEP_S = 0.5
"""What a dead node has left is removed after this time, in which its hosts and workers end."""


class Engine:
    """The background thread. Made by ``engine()``, one per process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.clusters: dict[int, JobCluster] = {}
        """Open clusters by the number of their computation."""
        self.callbacks = Caller("dispy callbacks")
        self.loader = Caller("dispy results")
        """Unpickles results that need the user's code, so that the loop never runs it."""
        self.arrivals: Arrivals | None = None
        """Files that jobs send; once one does."""
        self.files = Caller("dispy files")
        """Reads files, so that the loop never waits for a disk."""
        self.listed = Listed(self.post)
        """Nodes of this machine."""
        self._private: dict[bytes, PrivateNode] = {}
        self._private_guard = threading.Lock()
        """Clusters may be made on several threads."""
        self._tried: dict[Target, float] = {}
        self._place: Place | None = None
        """Our directory on the memory file system, if nodes of this machine are expected."""
        self._take_before: Callable[[int], memoryview] = pool.take
        """Where large data was kept before we had that."""
        self._next_computation = 1
        self._journal: Journal | None = None
        """Of the program: for clusters that have none of their own."""
        self._asked: dict[int, Future[list[int]]] = {}
        """Who waits for what nodes say of their jobs, by the number of the question."""
        self._last_asked = 0
        self.noted: set[int] = set()
        """Computations that are in it."""
        self._has_no_journal = False
        """It cannot be made."""
        self._ended_journals: list[Journal] = []
        self._is_holding = False
        """Results are not acknowledged any more."""
        self._is_leaving = False
        """Nodes are to keep what they have: somebody will fetch it."""
        self._is_stopped = False
        fill_standard_descriptors()
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="dispy engine", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            short = shortage(OSError(errno.EAGAIN, str(error)))
            raise DispyError(f"no thread can be started for dispy: {error}", hint=short) from error
        started.result()

    def _run(self, started: concurrent.futures.Future[None]) -> None:
        try:
            import uvloop

            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        except ImportError:  # Windows
            factory = asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._main(started))

    async def _main(self, started: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        name = f"{Path(sys.argv[0] or 'python').name} ({os.getpid()})"
        self.service = SchedulerService(randomness.token_bytes(16), name[:200], self)
        self.service.origin = user_and_host()[:200]
        self._discovery: asyncio.TimerHandle | None = None
        started.set_result(None)
        await self._stopping.wait()
        if self._discovery is not None:
            self._discovery.cancel()
        self.service.close(forget=not self._is_leaving)
        for _ in range(5):  # farewells leave, and connections are told that they are closed
            await asyncio.sleep(0)
        for private in self._private.values():
            private.stop()
        await asyncio.sleep(0)

    # From other threads.

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called on the loop."""
        with contextlib.suppress(RuntimeError):  # closed: nobody is left to be told
            self._loop.call_soon_threadsafe(function, *arguments)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the loop and wait for what it returns."""
        if threading.current_thread() is self._thread:
            return function(*arguments)
        if self.pid != os.getpid():
            raise UsageError(
                f"a cluster of process {self.pid} cannot be used in a fork of it",
                hint="create a cluster in the process that uses it",
            )
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        if self._is_stopped:
            raise UsageError("dispy was shut down", hint="create a new cluster")
        self.post(run)
        return future.result()

    def is_loop(self) -> bool:
        """Whether we are on the loop."""
        return threading.current_thread() is self._thread

    def is_current(self) -> bool:
        """Whether we are on a thread of ours: on the loop, in a callback, or where results are loaded."""
        return (
            threading.current_thread() is self._thread
            or self.callbacks.is_current()
            or self.loader.is_current()
        )

    def stop(self) -> None:
        """End the thread, its links, and the nodes that it started."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.post(self._stopping.set)
        self._thread.join(5)
        for private in self._private.values():
            private.wait()
        self.callbacks.stop()
        self.loader.stop()
        if self.arrivals is not None:
            self.arrivals.stop()
        self.files.stop()
        self.listed.stop()
        if self._journal is not None:
            self._journal.close(remove=not self._is_leaving)
        for journal in self._ended_journals:
            journal.close(remove=True)
        log.outlet.close(LOG_S)
        if self._place is not None:
            payload.blocks.take = self._take_before
            if self.service.memory is not None:
                self.service.memory.close()
            self._place.close()
            sweep(memory_directory())

    def leave(self) -> None:
        """End as if the program died: nodes keep what they have, and journals stay."""
        self._is_leaving = True
        self.stop()

    def share_memory(self) -> None:
        """Keep large payloads where nodes of this machine can take them by name; on any thread."""
        with _guard:
            if self._place is not None:
                return
            try:
                memory = shared_memory()
                if memory is None:
                    return
                self._place = Place(memory, f"client-{self.service.identity.hex()}")
            except (OSError, DispyError) as error:
                logger.info("large data is copied to nodes of this machine: %s", error)
                return
            shared = self.service.memory = SharedPool(str(self._place.root), payload.read_bytes)

        self._take_before = payload.blocks.take
        payload.blocks.take = shared.take

    # Clusters.

    def new_computation(self) -> int:
        """A number for a computation."""
        number = self._next_computation
        self._next_computation += 1
        return number

    def add(self, cluster: JobCluster) -> None:
        """A cluster begins; on the loop."""
        set_tracing(self.service, log.is_debugging())
        self.clusters[cluster._number] = cluster
        journal = cluster._journal
        if journal is not None:
            assert journal.mark is not None
            self.service.on_send[cluster._number] = journal.mark.note
            self.service.after_note = partial(journaling.after_note, self)
        self._set_pulse()
        self.service.handle(core.AddComputation(core.ClientId(0), cluster._compute(), cluster._reentrant))
        for info in self.service.nodes():
            node_discovery.allocate(self, cluster, info)
        if self._discovery is None:
            self._discover()
        else:
            node_discovery.look(self, cluster)

    def remove(self, cluster: JobCluster) -> None:
        """A cluster ends; on the loop."""
        self.clusters.pop(cluster._number, None)
        self._set_pulse()
        self.service.handle(core.CloseComputation(cluster._number))
        journaling.forget_noted(self, cluster)

    def _set_pulse(self) -> None:
        """Nodes serve all clusters over one link each: the smallest interval is for all."""
        if self.clusters:
            self.service.set_pulse(min([cluster._pulse_s for cluster in self.clusters.values()]))

    # Files of jobs.

    def take_part(self, cluster: ClusterState, value: Provisional, node: NodeId) -> None:
        """A job sent a part of a file."""
        if self.arrivals is None:
            self.arrivals = Arrivals(partial(self.post, self._answer_part), self._is_open)
        self.arrivals.take(cluster, value, node)

    def _answer_part(self, node: NodeId, message: AcknowledgeProvisional) -> None:
        self.service.handle(core.AnswerValue(node, message))

    def _is_open(self, computation: int, number: int) -> bool:
        """Whether a job has not ended; on any thread."""
        cluster = self.clusters.get(computation)
        return cluster is not None and number in cluster._jobs

    # Time.

    def _discover(self) -> None:
        set_tracing(self.service, log.is_debugging())
        self._discovery = self._loop.call_later(DISCOVER_S, self._discover)
        if self.arrivals is not None:
            self.arrivals.tidy()
        self._look()
        for cluster in list(self.clusters.values()):
            explain.check_waiting(cluster)
        if self.clusters:
            self.listed.read_soon(self._look)

    def _look(self) -> None:
        """Reach out for what is listed, and named."""
        for cluster in list(self.clusters.values()):
            node_discovery.look(self, cluster)

    # The service's side.

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself."""
        for cluster in self.clusters.values():
            node_discovery.allocate(self, cluster, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost."""
        logger.warning("%s", reason)
        self._tried.pop(found.target, None)
        if self._journal is not None:
            self._journal.drop_node(found.node)
        for cluster in self.clusters.values():
            if cluster._journal is not None:
                cluster._journal.drop_node(found.node)
        if self._place is not None and is_loopback(found.ip_addr):
            # Should it be dead: its processes have gone by then.
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Have removed what dead nodes of this machine have left on the memory file system."""
        threading.Thread(target=sweep, args=(memory_directory(),), name="dispy sweeps", daemon=True).start()

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """A node does not answer, or refuses us."""
        text = f"{target.host}:{target.port}: {error}"
        logger.debug("no node at %s", text)
        is_news = False
        for cluster in self.clusters.values():
            if cluster._secret.key == target.key:
                is_news |= cluster._unreachable.get(target) != text
                cluster._unreachable[target] = text
        # Nobody listening is common while nodes are started; whoever waits for them is told after a while.
        if is_news and isinstance(error, DispyError):
            logger.warning("node at %s", text)
        if isinstance(error, DispyError):
            node_discovery.doubt(self, target)

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have ended on a node."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended(found.ip_addr, action.ended)
            completion.on_ended(cluster, action.ended, found)

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have ended with us."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended_here(action.numbers, action.status, action.reason)
            completion.on_ended_here(cluster, action.numbers, action.status, action.reason)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_started(cluster, action.started, found)

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait again."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_requeued(cluster, action.numbers)

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job sent a provisional result."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_value(cluster, action.value, found)

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs have printed something."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            cluster._watching.on_printed(cluster._jobs, action.printed)

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node became usable for a cluster, or ceased to be."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            cluster._on_usable(action, found)

    def on_credit(self, action: core.TellCredit, found: NodeInfo) -> None:
        """A node takes more or fewer jobs of a cluster, and says why."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            cluster._on_node_changed(found)

    def on_files_needed(self, message: NeedFiles, found: NodeInfo) -> None:
        """A node wants pieces of files."""
        cluster = self.clusters.get(message.computation)
        if cluster is not None:
            self.files.call(self._read_files, [(cluster, message, found.node)])

    def _read_files(self, cluster: JobCluster, message: NeedFiles, node: core.NodeId) -> None:
        """On the thread that reads files."""
        pieces, unreadable = cluster._shipped.answer(message)
        if pieces:
            self.post(self.service.send_pieces, node, message.computation, pieces)
        for item in unreadable:
            self.post(self.service.send_unreadable, node, item)

    def on_files(self, action: core.TellFiles) -> None:
        """Files were put somewhere for a cluster, or cannot be."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            sent.on_files(cluster, action)

    def on_cpus(self, found: NodeInfo) -> None:
        """A node offers another number of CPUs: who uses it decides anew how many of them."""
        for cluster in self.clusters.values():
            placement = cluster._placement(found.node)
            if placement is None:
                node_discovery.allocate(self, cluster, found)
            elif placement.is_open() and found.cpus > 0 and cluster._offers.get(found.node) != found.cpus:
                cpus = cluster._allocated(found)[0]
                if cpus > 0:
                    self.service.handle(core.Allocate(cluster._number, found.node, cpus))
            cluster._on_node_changed(found)

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A cluster has left a node that it is to come back to."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            node_discovery.allocate(self, cluster, found)

    def on_available(self, found: NodeInfo) -> None:
        """A node says what it has to spare."""
        for cluster in self.clusters.values():
            cluster._on_available(found)

    # What nodes are asked.

    def ask_jobs(self, node: core.NodeId, computation: int, answer: Future[list[int]]) -> None:
        """Ask a node which jobs of a computation run there; their numbers go to ``answer``. On the loop.

        Raises:
            SilenceError: The connection to it is broken.
        """
        self._asked = {serial: other for serial, other in self._asked.items() if not other.done()}
        self._last_asked += 1
        self._asked[self._last_asked] = answer
        self.service.ask_jobs(node, computation, self._last_asked)

    def on_jobs_listed(self, found: NodeInfo, message: JobsListed) -> None:
        """A node has said what runs there."""
        answer = self._asked.pop(message.serial, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result([attempt.number for attempt in message.attempts])


_engine: Engine | None = None
_guard = threading.Lock()


def engine() -> Engine:
    """The engine of this process, started on first use.

    Raises:
        UsageError: The process was forked from one that has an engine.
    """
    global _engine
    with _guard:
        if _engine is not None and _engine.pid != os.getpid():
            # Its thread and sockets belong to our parent; we start afresh.
            _engine = None
            _unfinished.clear()
        if _engine is None or _engine._is_stopped:
            _engine = Engine()
        return _engine


def stop_engine() -> None:
    """End the engine of this process, if there is one."""
    with _guard:
        if _engine is not None and _engine.pid == os.getpid():
            _engine.stop()
            if _engine.callbacks.count_left():  # stopped in one of them, or while one is stuck
                _unfinished.append(_engine.callbacks)


_unfinished: list[Caller] = []
"""Callers of stopped engines that have callbacks left to call."""


def _at_exit() -> None:
    """Wait for the jobs and callbacks of all clusters, then end; soon after an unhandled Ctrl-C, or by one now."""
    running = _engine
    if running is None or running.pid != os.getpid():
        return
    is_interrupted = is_leaving = False
    if not running._is_stopped:
        is_interrupted, is_leaving = shutdown.close_all(running)
        _unfinished.append(running.callbacks)
    shutdown.finish_callbacks(_unfinished, is_interrupted)
    failures.say_all()
    if is_leaving:
        running.leave()
    else:
        stop_engine()


atexit.register(_at_exit)
