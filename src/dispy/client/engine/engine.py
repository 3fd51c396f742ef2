"""The engine: the one background thread of a program, an event loop with the embedded scheduler.

All clusters of a process share the engine, so that they share nodes fairly. Other threads reach the engine only by
``post`` and ``call``. Jobs come by the inbox of each cluster; a wake-up is posted only when none is on its way.

The engine is the observer of its scheduler (``scheduler.observer.Observer``): the methods ``on_…`` are called on the
loop, and hand each event to the cluster that it is for. An event for a cluster that has ended is dropped.
"""

from __future__ import annotations

import asyncio
import atexit
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
from dispy.client.allocation.node_use import allocate
from dispy.client.engine import node_discovery
from dispy.client.engine.callback_thread import Caller
from dispy.client.engine.local_nodes import Listed
from dispy.client.engine.loop_thread import LoopThread
from dispy.client.engine.private_node import PrivateNode
from dispy.client.recovery import journaling
from dispy.client.session import completion, explain, failures, files, shutdown
from dispy.client.session.received_files import Arrivals
from dispy.core import scheduling as core
from dispy.errors import DispyError, UsageError
from dispy.journal.writer import Journal
from dispy.protocol.node import AcknowledgeProvisional, JobsListed, NeedFiles, Provisional
from dispy.protocol.views import NodeInfo
from dispy.scheduler.link import Target
from dispy.scheduler.service import SchedulerService
from dispy.scheduler.tracing import set_tracing
from dispy.system.addresses import is_loopback
from dispy.system.directories import memory_directory, shared_memory
from dispy.system.memory import pool
from dispy.system.process_identity import user_and_host
from dispy.system.processes import shortage
from dispy.system.run_directory import Place, sweep
from dispy.system.shared_memory import SharedPool

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster
    from dispy.client.session.state import ClusterState

logger = logging.getLogger("dispy.client")
T = TypeVar("T")

DISCOVER_S = 0.2
"""Interval (seconds) of reading this machine's list of nodes, and of dialing: new nodes are in use this soon."""

LOG_S = 1.0
"""Seconds that ``stop`` waits for handlers of ``logging`` to take the last lines; lines after that may be lost."""

SWEEP_S = 0.5
"""Seconds from the loss of a node to removing its files in shared memory: its hosts and workers end meanwhile."""


class Engine(LoopThread):
    """The background thread with the embedded scheduler: one per process, and one for each resuming recovery."""

    def __init__(self) -> None:
        super().__init__("dispy engine")
        self.pid = os.getpid()
        """PID of the process that made the engine. In a fork of it ``call`` raises: the thread is not there."""
        self.clusters: dict[int, JobCluster] = {}
        """Open clusters, by the number of their computation. Events for other numbers are dropped."""
        self.callbacks = Caller("dispy callbacks")
        """Thread that calls the user's callbacks, in the order of the events; they may block without harm."""
        self.loader = Caller("dispy results")
        """Thread that unpickles results that need the user's code, so that the loop never runs that code."""
        self.arrivals: Arrivals | None = None
        """Receiver of files that jobs send, with a thread that writes them; None until a job sends one."""
        self.files = Caller("dispy files")
        """Thread that reads files that nodes ask for, so that the loop never waits for a disk."""
        self.listed = Listed(self.post)
        """List of this machine's nodes, as the user's state directory had it when it was last read."""
        self._private: dict[bytes, PrivateNode] = {}
        """Nodes that this program has started for itself, at most one for each secret, by the key of the secret."""
        self._private_guard = threading.Lock()
        """Held to start a private node: threads that make clusters must not start two for the same secret."""
        self._tried: dict[Target, float] = {}
        """Time of the last dial (monotonic seconds), by address: the next follows ``RETRY_S`` later or on demand."""
        self._place: Place | None = None
        """Directory of our large payloads in shared memory; None before ``share_memory``, or if it made none."""
        self._take_before: Callable[[int], memoryview] = pool.take
        """Allocator of large payloads (size in bytes → memory) before ``share_memory``; ``stop`` puts it back."""
        self._next_computation = 1
        """Number that the next cluster's computation gets, from 1; messages to nodes name the computation by it."""
        self._journal: Journal | None = None
        """Journal of the nodes that clusters without an own journal use, for a recovery; None while they use none."""
        self.noted: set[int] = set()
        """Numbers of the computations that are in ``_journal``; the journal is removed when none is left."""
        self._has_no_journal = False
        """True if ``_journal`` could not be made; not tried again: only clusters with their own are recovered."""
        self._ended_journals: list[Journal] = []
        """Journals that were told to end and may still write to disk; ``stop`` waits for their threads."""
        self._asked: dict[int, Future[list[int]]] = {}
        """Futures, by the serial of a question to a node (``ask_jobs``), for the numbers of its running jobs."""
        self._last_asked = 0
        """Serial of the last question to a node; the answer repeats it. 0 before the first."""
        self._is_holding = False
        """True if the program has failed and acknowledges no more results: nodes keep them for a recovery."""
        self._is_leaving = False
        """True if the engine stops by ``leave``: nodes keep jobs and results, and journals stay, for a recovery."""
        self._is_stopped = False
        """True once the engine is stopping or has stopped; ``call`` raises ``UsageError`` then."""
        try:
            self.start()
        except RuntimeError as error:
            short = shortage(OSError(errno.EAGAIN, str(error)))
            raise DispyError(f"no thread can be started for dispy: {error}", hint=short) from error

    async def _main(self) -> None:
        """Make the scheduler, serve until ``stop``, then say farewell to nodes and end private nodes. On the loop."""
        name = f"{Path(sys.argv[0] or 'python').name} ({os.getpid()})"
        self.service = SchedulerService(randomness.token_bytes(16), name[:200], self)
        """The embedded scheduler, with the links to all nodes."""
        self.service.origin = user_and_host()[:200]
        self._discovery: asyncio.TimerHandle | None = None
        """Timer of the next ``_discover``; None before the first cluster."""
        self._ready.set_result(None)
        await self._stopping.wait()
        if self._discovery is not None:
            self._discovery.cancel()
        self.service.close(forget=not self._is_leaving)
        for _ in range(5):  # farewells leave, and connections are told that they are closed
            await asyncio.sleep(0)
        for private in self._private.values():
            private.stop()
        await asyncio.sleep(0)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the loop, and wait for its result without limit. On the loop itself: call it at once.

        Raises:
            UsageError: This is a fork of the engine's process, or the engine was stopped.
        """
        if threading.current_thread() is self._thread:
            return function(*arguments)
        if self.pid != os.getpid():
            raise UsageError(
                f"a cluster of process {self.pid} cannot be used in a fork of it",
                hint="create a cluster in the process that uses it",
            )
        if self._is_stopped:
            raise UsageError("dispy was shut down", hint="create a new cluster")
        return self.result(self.request(function, *arguments))

    def is_current(self) -> bool:
        """True on the loop, in callbacks, where results are unpickled: do not wait for callbacks, ``max_queued``."""
        return (
            threading.current_thread() is self._thread
            or self.callbacks.is_current()
            or self.loader.is_current()
        )

    def stop(self) -> None:
        """End the thread (waits 5 s at most), the links, private nodes and journals. A second call does nothing.

        Nodes end jobs that are unfinished; the program is not told their ends. Queued callbacks are still called.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        self.stop_loop(5)
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
        """Stop as if the program died: nodes keep its jobs and results, and journals stay, for ``recover_jobs``."""
        self._is_leaving = True
        self.stop()

    def share_memory(self) -> None:
        """Make large payloads in shared memory from now on: nodes of this machine take them by name, without a copy.

        On any thread. Without such a file system payloads are copied, as before. Other errors are logged (``info``).
        """
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

    def new_computation(self) -> int:
        """Return the number for the computation of a new cluster, from 1. On the thread that makes the cluster."""
        number = self._next_computation
        self._next_computation += 1
        return number

    def add(self, cluster: JobCluster) -> None:
        """Open a cluster: give it to the scheduler, offer it the linked nodes, and dial others. On the loop."""
        set_tracing(self.service, log.is_debugging())
        self.clusters[cluster._number] = cluster
        journal = cluster._journal
        if journal is not None:
            assert journal.mark is not None
            self.service.on_send[cluster._number] = journal.mark.note
            self.service.after_note = partial(journaling.after_note, self)
        self._set_pulse()
        compute = cluster._compute()
        self.service.handle(
            core.AddComputation(core.EMBEDDED, cluster._number, compute, cluster._reentrant)
        )
        for info in self.service.nodes():
            allocate(self, cluster, info)
        if self._discovery is None:
            self._discover()
        else:
            node_discovery.look(self, cluster)

    def remove(self, cluster: JobCluster) -> None:
        """Close a cluster: nodes drop its jobs, code, objects and files; ``_journal`` forgets it. On the loop."""
        self.clusters.pop(cluster._number, None)
        self._set_pulse()
        self.service.handle(core.CloseComputation(core.EMBEDDED, cluster._number))
        journaling.forget_noted(self, cluster)

    def _set_pulse(self) -> None:
        """Set the heartbeat interval of all links to the smallest that an open cluster wants: links are shared."""
        if self.clusters:
            self.service.set_pulse(min([cluster._pulse_s for cluster in self.clusters.values()]))

    def take_part(self, cluster: ClusterState, value: Provisional, node: core.NodeId) -> None:
        """Have a part of a file that a job sent written to disk, then acknowledged to the node. On the loop."""
        if self.arrivals is None:
            self.arrivals = Arrivals(partial(self.post, self.answer_value), self._is_open)
        self.arrivals.take(cluster, value, node)

    def answer_value(self, node: core.NodeId, message: AcknowledgeProvisional) -> None:
        """Send a node the answer to a value or a part of a file, for which its job waits. On the loop."""
        self.service.handle(core.AnswerValue(core.EMBEDDED, node, message))

    def _is_open(self, computation: int, number: int) -> bool:
        """True if a job has not ended, by the numbers of its computation and its own. On any thread."""
        cluster = self.clusters.get(computation)
        return cluster is not None and number in cluster._jobs

    def _discover(self) -> None:
        """Look for nodes, warn of jobs that wait in vain, drop files of ended jobs; again every ``DISCOVER_S``."""
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
        """Dial, for each cluster, the nodes that it may use and that are not linked (``node_discovery.look``)."""
        for cluster in list(self.clusters.values()):
            node_discovery.look(self, cluster)

    def on_node_known(self, found: NodeInfo) -> None:
        """Have each cluster decide whether it uses a node that has introduced itself, and how many of its CPUs."""
        for cluster in self.clusters.values():
            allocate(self, cluster, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """Log why a node is lost, and note the loss in the journals: a recovery ignores its late results."""
        logger.warning("%s", reason)
        self._tried.pop(self.service.target_of(found.node), None)
        if self._journal is not None:
            self._journal.drop_node(found.node)
        for cluster in self.clusters.values():
            if cluster._journal is not None:
                cluster._journal.drop_node(found.node)
        if self._place is not None and is_loopback(found.ip_addr):
            # If the node is dead: its processes have gone by then.
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Remove files that dead nodes of this machine have left in shared memory; on a new thread: it may block."""
        threading.Thread(target=sweep, args=(memory_directory(),), name="dispy sweeps", daemon=True).start()

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """Store why an address has no node or refuses us, for ``why``. A refusal: warn, doubt a node listed there."""
        text = f"{target.host}:{target.port}: {error}"
        logger.debug("no node at %s", text)
        is_news = False
        for cluster in self.clusters.values():
            if cluster._secret.key == target.key:
                is_news |= cluster._unreachable.get(target) != text
                cluster._unreachable[target] = text
        # A port without a listener is common while nodes are started: ``explain.check_waiting`` tells users later.
        if is_news and isinstance(error, DispyError):
            logger.warning("node at %s", text)
        if isinstance(error, DispyError):
            node_discovery.doubt(self, target)

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Note in the cluster's journal how jobs have ended on a node, and tell the cluster."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended(found.ip_addr, action.ended)
            completion.on_ended(cluster, action.ended, found)

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Note in the cluster's journal that jobs have ended without a node's word, and tell the cluster."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended_here(action.numbers, action.status, action.reason)
            completion.on_ended_here(cluster, action.numbers, action.status, action.reason)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Tell the cluster that jobs are running on a node: they become ``Running``."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_started(cluster, action.started, found)

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Tell the cluster that jobs wait in the queue again, as after a node's loss: they become ``Created``."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_requeued(cluster, action.numbers)

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """Tell the cluster that a job sent a provisional result, or a part of a file."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            completion.on_value(cluster, action.value, found)

    def on_printed(self, action: core.TellPrinted) -> None:
        """Pass output of running jobs on to ``job_output`` and to followers of the jobs, and ask for more."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            cluster._watching.on_printed(cluster._jobs, action.printed)
        answer = core.AnswerPrinted(core.EMBEDDED, action.computation, action.node, action.serial)
        self.service.handle(answer)

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """Tell the cluster that it can use a node now, or not any more: ``cluster_status`` is called."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            cluster._on_usable(action, found)

    def on_placement(self, action: core.TellPlacement, found: NodeInfo) -> None:
        """Update CPUs and ``reason`` of a ``DispyNode``; tell ``cluster_status`` of a change."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None and cluster._placement(found.node) is not None:
            cluster._on_node_changed(found)

    def on_files_needed(self, client: core.ClientId, message: NeedFiles, found: NodeInfo) -> None:
        """Have pieces of files that a node asks for read on the thread ``files``, then sent to it or refused."""
        cluster = self.clusters.get(message.computation)
        if cluster is not None:
            self.files.call(self._read_files, [(cluster, message, found.node)])

    def _read_files(self, cluster: JobCluster, message: NeedFiles, node: core.NodeId) -> None:
        """Read pieces of files, and have the loop send them, or the refusals. On the thread that reads files."""
        pieces, unreadable = cluster._shipped.answer(message)
        if pieces:
            self.post(self.service.send_pieces, node, core.EMBEDDED, message.computation, pieces)
        for item in unreadable:
            self.post(self.service.send_unreadable, node, core.EMBEDDED, item)

    def on_files(self, action: core.TellFiles) -> None:
        """Tell the thread in ``send_file`` that its files are on a node, or why they cannot be put there."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            files.on_files(cluster, action)

    def on_cpus(self, found: NodeInfo) -> None:
        """Have each cluster decide anew how many CPUs of a node it uses, as the node may offer another number."""
        for cluster in self.clusters.values():
            placement = cluster._placement(found.node)
            if placement is None:
                allocate(self, cluster, found)
            elif placement.is_open() and found.cpus > 0 and cluster._offers.get(found.node) != found.cpus:
                cpus = cluster._allocated(found)[0]
                if cpus > 0:
                    self.service.handle(core.Allocate(core.EMBEDDED, cluster._number, found.node, cpus))
            cluster._on_node_changed(found)

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """Have a cluster use a node anew that it has left by ``resetup_node``, unless ``allocate`` refuses it now."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            allocate(self, cluster, found)

    def on_available(self, found: NodeInfo) -> None:
        """Set a node's ``avail_info`` in its clusters: free CPU and swap (percent), memory and disk (bytes)."""
        for cluster in self.clusters.values():
            cluster._on_available(found)

    def ask_jobs(self, node: core.NodeId, computation: int, answer: Future[list[int]]) -> None:
        """Ask a node which jobs of a computation run there; ``answer`` gets their numbers later. On the loop.

        Raises:
            SilenceError: The connection to the node is broken.
        """
        self._asked = {serial: other for serial, other in self._asked.items() if not other.done()}
        self._last_asked += 1
        self._asked[self._last_asked] = answer
        self.service.ask_jobs(node, core.EMBEDDED, computation, self._last_asked)

    def on_jobs_listed(self, found: NodeInfo, message: JobsListed) -> None:
        """Set the future of a question to a node to the numbers of the jobs; drop them if the asker has given up."""
        answer = self._asked.pop(message.serial, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result([attempt.number for attempt in message.attempts])


_engine: Engine | None = None
"""Engine of this process, or of its parent if this is a fork; may be stopped. None before the first ``engine()``."""

_guard = threading.Lock()
"""Held while an engine is made or stopped, or gets shared memory: threads of the program must not do so twice."""


def engine() -> Engine:
    """Return the engine of this process; starts one on first use, in a fork, and after ``stop_engine``.

    Raises:
        DispyError: No thread can be started.
    """
    global _engine
    with _guard:
        if _engine is not None and _engine.pid != os.getpid():
            # The thread and the sockets of that engine belong to our parent; we start afresh.
            _engine = None
            _unfinished.clear()
        if _engine is None or _engine._is_stopped:
            _engine = Engine()
        return _engine


def stop_engine() -> None:
    """Stop the engine of this process, if there is one. Methods of its clusters raise ``UsageError`` then."""
    with _guard:
        if _engine is not None and _engine.pid == os.getpid():
            _engine.stop()
            if _engine.callbacks.count_left():  # stopped in a callback, or while one is stuck
                _unfinished.append(_engine.callbacks)


_unfinished: list[Caller] = []
"""Callback threads of stopped engines with callbacks left to call: the end of the program waits for these."""


def _at_exit() -> None:
    """At the program's end wait for jobs and callbacks (after Ctrl-C: 2 s for callbacks), report failures, stop."""
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
