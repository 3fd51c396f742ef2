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
import json
import logging
import os
import secrets as randomness
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dispy import config, payload
from dispy.buffers import SharedPool, pool
from dispy.client import data, ending, journal_files, noting, reasons
from dispy.client import journal as journals
from dispy.client.arriving import Arrivals
from dispy.client.callbacks import Caller
from dispy.client.journal import Journal
from dispy.client.log import notice
from dispy.core.scheduling import state as core
from dispy.core.scheduling.state import NodeId
from dispy.errors import DispyError, UsageError
from dispy.net import discovery
from dispy.net.addresses import is_loopback
from dispy.net.directories import memory_directory
from dispy.net.places import Place, sweep
from dispy.net.secrets import Secret
from dispy.protocol.files import FileEntry
from dispy.protocol.node import AcknowledgeProvisional, JobsListed, NeedFiles, Provisional
from dispy.scheduler.service import NodeInfo, SchedulerService, Target

if TYPE_CHECKING:
    from dispy.client.cluster import JobCluster
    from dispy.client.state import ClusterState

logger = logging.getLogger("dispy.client")

T = TypeVar("T")

DISCOVER_S = 0.2
"""How often the list of this machine's nodes is read: a node started by hand is found at once."""

RETRY_S = 2.0
"""A target that refused or did not answer is tried again so often."""

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
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="dispy engine", daemon=True)
        self._thread.start()
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
        if self._journal is not None:
            self._journal.close(remove=not self._is_leaving)
        for journal in self._ended_journals:
            journal.close(remove=True)
        if self._place is not None:
            payload.take = self._take_before
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
            if self._place is not None or not os.path.isdir("/dev/shm"):
                return
            try:
                self._place = Place(memory_directory(), f"client-{self.service.identity.hex()}")
            except (OSError, DispyError) as error:
                logger.info("large data is copied to nodes of this machine: %s", error)
                return
            memory = self.service.memory = SharedPool(str(self._place.root), payload.read_bytes)

        self._take_before = payload.take
        payload.take = memory.take

    # Clusters.

    def new_computation(self) -> int:
        """A number for a computation."""
        number = self._next_computation
        self._next_computation += 1
        return number

    def add(self, cluster: JobCluster) -> None:
        """A cluster begins; on the loop."""
        self.clusters[cluster._number] = cluster
        journal = cluster._journal
        if journal is not None:
            assert journal.mark is not None
            self.service.on_send[cluster._number] = journal.mark.note
            self.service.after_note = self._after_note
        self._set_pulse()
        self.service.handle(core.AddComputation(core.ClientId(0), cluster._compute(), cluster._reentrant))
        for info in self.service.nodes():
            self.allocate(cluster, info)
        if self._discovery is None:
            self._discover()
        else:
            self._look(cluster)

    def remove(self, cluster: JobCluster) -> None:
        """A cluster ends; on the loop."""
        self.clusters.pop(cluster._number, None)
        self._set_pulse()
        self.service.handle(core.CloseComputation(cluster._number))
        self._forget_noted(cluster)

    # Journals.

    def _note_node(self, cluster: JobCluster, info: NodeInfo, is_private: bool) -> None:
        """A cluster uses a node: should the program die, somebody has to know."""
        if cluster._journal is not None:
            cluster._journal.add_node(_node_row(info, is_private))
            return
        # The program's own node ends with it: there is nothing to be found then.
        if is_private or self._has_no_journal or not config.Journal:
            return
        if self._journal is None:
            self._journal = self._new_journal()
            if self._journal is None:
                self._has_no_journal = True
                return
        if cluster._number not in self.noted:
            self.noted.add(cluster._number)
            noting.note_computation(cluster, self._journal)
        self._journal.add_node(_node_row(info, is_private))

    def _new_journal(self) -> Journal | None:
        try:
            path = journal_files.new_path(self.service.identity, is_full=False)
        except DispyError as error:
            logger.warning("should this program die, recover_jobs will not find its jobs: %s", error)
            return None
        journal = Journal(path, journal_files.create_short, self.post, is_full=False, wait=False)
        journal.begin(self.service.identity, self.service.name)
        return journal

    def _leave_results(self) -> bool:
        """The program has failed: nobody will see what its jobs return now.

        Waits for them all the same, and has nodes and journals keep it; False if there is nothing to be kept.
        """
        left = [cluster for cluster in self.clusters.values() if cluster._is_unheard()]
        self._is_holding = any(cluster._journal is None for cluster in left)
        if self._is_holding:
            self.call(setattr, self.service, "after_note", _never)
        for cluster in left:
            cluster.wait()
            self.call(self.clusters.pop, cluster._number)
            where = repr(str(cluster._journal.path)) if cluster._journal is not None else ""
            notice(
                f"the program has failed; what jobs of cluster {cluster.name} return is kept for it: "
                f"dispy.recover_jobs({where}) fetches it"
            )
            if cluster._journal is not None:
                cluster._journal.end(remove=False)
                self._ended_journals.append(cluster._journal)
        return bool(left)

    def _forget_noted(self, cluster: JobCluster) -> None:
        """A cluster has ended, and with the last one the program's journal."""
        self.service.on_send.pop(cluster._number, None)
        if not self._is_holding and not any(other._journal is not None for other in self.clusters.values()):
            self.service.after_note = None
        if self._journal is not None and cluster._number in self.noted:
            self.noted.discard(cluster._number)
            if self.noted:
                self._journal.drop_computation(cluster._number)
            else:
                self._journal.end(remove=True)
                self._ended_journals.append(self._journal)
                self._journal = None

    def _after_note(self, told: Callable[[], None]) -> None:
        """Call a function when all journals with results have those that came until now."""
        for cluster in self.clusters.values():
            if cluster._journal is not None:
                told = partial(cluster._journal.after_note, told)
        told()

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

    # Finding nodes.

    def _discover(self) -> None:
        self._discovery = self._loop.call_later(DISCOVER_S, self._discover)
        if self.arrivals is not None:
            self.arrivals.tidy()
        for cluster in list(self.clusters.values()):
            self._look(cluster)
            reasons.check_waiting(cluster)

    def _look(self, cluster: JobCluster) -> None:
        """Reach out for the nodes that a cluster may use."""
        secret = cluster._secret
        listed = discovery.running_nodes(secret.fingerprint())
        for listing in listed:
            if any(
                allocation.matches(listing.host) and not allocation.port
                for allocation in cluster._allocations
            ):
                self._reach(cluster._target(listing.host, listing.port, listing.host, listing.tls))
        for allocation in cluster._allocations:
            if allocation.ip_addr is not None:
                port = allocation.port or config.node_port()
                is_listed = is_loopback(allocation.ip_addr) and bool(listed) and not allocation.port
                if not is_listed:
                    self._reach(cluster._target(allocation.ip_addr, port, allocation.host))
        private = self._private.get(secret.key)
        if private is not None and private.has_ended():
            # Once in a while, should it end at once again.
            del self._private[secret.key]
            private.wait()
            if cluster._wants_private and config.LocalNode and not listed:
                logger.warning("the node that was started for this program has ended; starting another")
                self.start_private_node(secret)
            private = None
        if private is not None:
            if private.address is not None:
                self._reach(Target(*private.address, secret.key))
            private.set_draining(bool(listed))
            for other in self.clusters.values():
                self._drain(other, private)

    def _reach(self, target: Target) -> None:
        if self.service.is_linked(target) or time.monotonic() - self._tried.get(target, -RETRY_S) < RETRY_S:
            return
        self._tried[target] = time.monotonic()
        self.service.reach(target)

    def reach_now(self, target: Target) -> None:
        """Connect to a node, also if that has just failed; on the loop."""
        self._tried.pop(target, None)
        self._reach(target)

    def discover(self, cluster: JobCluster) -> None:
        """Look now; on the loop."""
        self._tried.clear()
        self._look(cluster)

    def start_private_node(self, secret: Secret) -> None:
        """Start a node of our own if none of this user runs on this machine; on any thread."""
        with self._private_guard:
            if secret.key in self._private or discovery.running_nodes(secret.fingerprint()):
                return
            private = self._private[secret.key] = PrivateNode(secret)
        self.post(private.watch, self)

    def private_ready(self, private: PrivateNode) -> None:
        """A node of our own listens."""
        for cluster in self.clusters.values():
            if cluster._secret.key == private.secret.key:
                self._look(cluster)

    def _private_of(self, info: NodeInfo) -> PrivateNode | None:
        private = self._private.get(info.target.key)
        if private is not None and private.address == (info.target.host, info.target.port):
            private.node = info.node
            return private
        return None

    # The service's side.

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself."""
        for cluster in self.clusters.values():
            self.allocate(cluster, found)

    def allocate(self, cluster: JobCluster, info: NodeInfo) -> None:
        """Have a cluster decide whether it uses a node, and how much of it; on the loop."""
        if info.target.key != cluster._secret.key or info.node in cluster._set_aside:
            self._give_up(cluster, info)
            return
        private = self._private_of(info)
        if private is not None and (not cluster._wants_private or cluster._number in private.drained):
            self._give_up(cluster, info)
            return
        cpus, allocation = cluster._allocated(info)
        if allocation is None:
            self._give_up(cluster, info)
            return
        placement = cluster._placement(info.node)
        if placement is not None and placement.status is not core.Status.LEFT:
            self.service.handle(core.Allocate(cluster._number, info.node, cpus))
            cluster._on_node_changed(info)
            return
        try:
            code = cluster._code_for(allocation, cluster._setup_args.get(info.node))
        except UsageError as error:
            # ``allocate`` has chosen other arguments than those that the cluster was made with.
            logger.error("node %s is not used: %s", info.name, error)
            self._give_up(cluster, info)
            return
        self._note_node(cluster, info, private is not None)
        if allocation.depends:
            self.files.call(self._use_with_files, [(cluster, info, cpus, code, list(allocation.depends))])
        else:
            self._use_noted(cluster, info, cpus, code)

    def _give_up(self, cluster: JobCluster, info: NodeInfo) -> None:
        """A node that was to be used again is not."""
        placement = cluster._placement(info.node)
        if placement is not None and placement.status is core.Status.LEFT:
            self.service.handle(core.Allocate(cluster._number, info.node, 0))

    def _use_with_files(
        self, cluster: JobCluster, info: NodeInfo, cpus: int, code: bytes, depends: list[Any]
    ) -> None:
        """Look at files that are for one node only. On the thread that reads them."""
        try:
            files = cluster._files_for(depends)
        except DispyError as error:
            logger.error("node %s is not used: %s", info.name, error)
            self.post(self._give_up, cluster, info)
            return
        self.post(self._use_noted, cluster, info, cpus, code, files)

    def _use_noted(
        self,
        cluster: JobCluster,
        info: NodeInfo,
        cpus: int,
        code: bytes,
        files: list[FileEntry] | None = None,
    ) -> None:
        if cluster._journal is None:
            self._use(cluster, info, cpus, code, files)
        else:
            # Not before it is written: whoever recovers the jobs has to know all who may have one.
            cluster._journal.after_note(partial(self._use, cluster, info, cpus, code, files))

    def _use(
        self,
        cluster: JobCluster,
        info: NodeInfo,
        cpus: int,
        code: bytes,
        files: list[FileEntry] | None = None,
    ) -> None:
        if info.node in cluster._set_aside:
            cpus = 0  # meanwhile
        self.service.handle(core.Allocate(cluster._number, info.node, cpus, code=code, files=files))
        private = self._private_of(info)
        if private is not None:
            self._drain(cluster, private)

    def _drain(self, cluster: JobCluster, private: PrivateNode) -> None:
        """Our own node takes nothing new while another node of this machine is there."""
        if private.node is None or cluster._secret.key != private.secret.key or not cluster._wants_private:
            return
        is_draining = private.is_draining and cluster._has_other_node(private.node)
        if is_draining == (cluster._number in private.drained):
            return
        if is_draining:
            private.drained.add(cluster._number)
            self.service.handle(core.Allocate(cluster._number, private.node, 0, is_draining=True))
        else:
            private.drained.discard(cluster._number)
            for info in self.service.nodes():
                if info.node == private.node:
                    self.allocate(cluster, info)

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
        is_news = False
        for cluster in self.clusters.values():
            if cluster._secret.key == target.key:
                is_news |= cluster._unreachable.get(target) != text
                cluster._unreachable[target] = text
        # Nobody listening is common while nodes are started; whoever waits for them is told after a while.
        if is_news and isinstance(error, DispyError):
            logger.warning("node at %s", text)

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have ended on a node."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended(found.ip_addr, action.ended)
            ending.on_ended(cluster, action.ended, found)

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have ended with us."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            if cluster._journal is not None:
                cluster._journal.ended_here(action.numbers, action.status, action.reason)
            ending.on_ended_here(cluster, action.numbers, action.status, action.reason)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            ending.on_started(cluster, action.started, found)

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait again."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            ending.on_requeued(cluster, action.numbers)

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job sent a provisional result."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            ending.on_value(cluster, action.value, found)

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
            data.on_files(cluster, action)

    def on_cpus(self, found: NodeInfo) -> None:
        """A node offers another number of CPUs: who uses it decides anew how many of them."""
        for cluster in self.clusters.values():
            placement = cluster._placement(found.node)
            if placement is None:
                self.allocate(cluster, found)
            elif placement.is_open() and found.cpus > 0 and cluster._offers.get(found.node) != found.cpus:
                cpus = cluster._allocated(found)[0]
                if cpus > 0:
                    self.service.handle(core.Allocate(cluster._number, found.node, cpus))
            cluster._on_node_changed(found)

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A cluster has left a node that it is to come back to."""
        cluster = self.clusters.get(action.computation)
        if cluster is not None:
            self.allocate(cluster, found)

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


def _never(told: Callable[[], None]) -> None:
    """Takes no notice of results, so that nodes keep them."""


def _node_row(info: NodeInfo, is_private: bool) -> journals.NodeRow:
    target = info.target
    return journals.NodeRow(
        info.node,
        target.host,
        target.port,
        target.name,
        info.name,
        target.tls is not None,
        Secret(target.key, is_own=False).fingerprint(),
        journals.PRIVATE if is_private else journals.USED,
    )


class PrivateNode:
    """A node that this program started for itself.

    It ends with the program, whatever ends that, since it watches our process; its own session
    keeps the terminal's Ctrl-C, which is meant for the program, from it.
    """

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self.address: tuple[str, int] | None = None
        self.node: core.NodeId | None = None
        self.is_draining = False
        self.drained: set[int] = set()
        """Computations that it takes nothing new of."""
        environment = dict(os.environ)
        source = str(Path(__file__).resolve().parents[2])
        if "site-packages" not in source:
            before = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = source + (os.pathsep + before if before else "")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dispy.node"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        settings: dict[str, Any] = {"listen_port": 0, "owner": os.getpid()}
        if not secret.is_own:
            settings["secret"] = f"dispy1-{secret.key.hex()}"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings).encode())
        self._process.stdin.close()
        self._output = b""
        self._started = time.monotonic()

    def watch(self, owner: Engine) -> None:
        """Wait for its address; on the loop."""
        stdout = self._process.stdout
        assert stdout is not None
        loop = asyncio.get_running_loop()
        os.set_blocking(stdout.fileno(), False)

        def on_readable() -> None:
            data = os.read(stdout.fileno(), 4096)
            self._output += data
            if b"\n" in self._output:
                host, port, cpus = self._output.split()[:3]
                self.address = (host.decode(), int(port))
                notice(
                    f"no dispynode runs on this machine; started one with {cpus.decode()} CPUs for this program "
                    "(dispy.config.LocalNode = False prevents that)"
                )
                owner.private_ready(self)
            elif data:
                return
            else:
                logger.warning(
                    "the node that was started for this program ended at once; see its message above"
                )
            loop.remove_reader(stdout.fileno())

        loop.add_reader(stdout.fileno(), on_readable)

    def has_ended(self) -> bool:
        """Whether it is gone, and was started long enough ago to start another."""
        return self._process.poll() is not None and time.monotonic() - self._started > RETRY_S

    def set_draining(self, is_draining: bool) -> None:
        """Whether another node of this machine is there."""
        self.is_draining = is_draining

    def stop(self) -> None:
        """Tell it to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended; end it by force if it does not."""
        try:
            self._process.wait(4)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


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
        if _engine is None or _engine._is_stopped:
            _engine = Engine()
        return _engine


def stop_engine() -> None:
    """End the engine of this process, if there is one."""
    with _guard:
        if _engine is not None and _engine.pid == os.getpid():
            _engine.stop()


def _at_exit() -> None:
    """Wait for the jobs of all clusters, then end. After an unhandled Ctrl-C, or by one now, end at once."""
    running = _engine
    if running is None or running.pid != os.getpid() or running._is_stopped:
        return
    failed = getattr(sys, "last_type", None) if not hasattr(sys, "ps1") else None
    is_interrupted = failed is KeyboardInterrupt
    is_leaving = False
    try:
        if failed is not None and not is_interrupted:
            is_leaving = running._leave_results()
        for cluster in list(running.clusters.values()):
            cluster._close_at_exit(is_interrupted)
    except KeyboardInterrupt:
        is_leaving = False
        for cluster in list(running.clusters.values()):
            cluster._close_at_exit(True)
    running.callbacks.drain(10)
    if is_leaving:
        running.leave()
    else:
        stop_engine()


atexit.register(_at_exit)
