"""A node's service: it turns what sockets and processes say into events for the execution core, and performs actions.

This module has the node as a whole: its start and end, its pulse, and the table of which function performs which
action of the core. ``state`` has the data, and names the modules with the other functions.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dispy.core import execution as core
from dispy.core.execution.explain import find_stall
from dispy.core.execution.ids import ClientId
from dispy.errors import DispyError, InternalError, StateDirectoryError
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Seams
from dispy.net import unix_sockets
from dispy.net.connection import Connection
from dispy.net.discovery import Entry, Listing
from dispy.net.listener import Listener
from dispy.net.loopback import namespace
from dispy.net.unix_listener import UnixListener
from dispy.node import clients, containment, guard, reporting, tracing
from dispy.node.guard import Owner
from dispy.node.listening import TlsAtFirst, listen
from dispy.node.processes import computations, workers
from dispy.node.processes.python_path import SearchPath
from dispy.node.results import delivery
from dispy.node.results.spool import Spool
from dispy.node.staging import working_directories
from dispy.node.state import NodeParts, NodeState
from dispy.protocol import node
from dispy.protocol.node import to_node_decoder
from dispy.settings import PULSE_S, NodeSettings
from dispy.system.addresses import local
from dispy.system.liveness import this_process
from dispy.system.watchdog import Stall
from dispy.system.wording import facts, of_error

logger = logging.getLogger("dispy.node")

STOP_S = 1.5
"""Seconds that hosts have to end by themselves when the node stops; then they are killed."""

FAREWELL_S = 0.5
"""Seconds that clients have, when the node stops, to take results on their way and close their connections. Then the
node closes these. Results that are not acknowledged by then go to disk, or are lost if the node has no spool."""

TRIM_PULSES = 10
"""Pulses (1 s each) in a row without any computation after which the node removes the files in memory that it keeps
to use again for large payloads."""

KEEP_PULSES = 60
"""Pulses (1 s each) between checks that the node's entry in the list of this machine's nodes is there. An entry that
was removed is written again, since programs would not find the node."""


class NodeService(NodeState):
    """A running node. Call ``start``, then ``run``, which returns after ``stop``.

    Args:
        settings: Checked settings.
        parts: What is made before the loop runs, since it takes locks or may fail: directories, store, spool, spare
            host, TLS. The node closes what has to be closed at its end.
    """

    perform_by_type = {
        core.StartHost: computations.start_host,
        core.StopHost: computations.stop_host,
        core.ForkWorker: workers.fork,
        core.Offer: workers.offer,
        core.Recall: workers.recall,
        core.Cut: workers.cut,
        core.InterruptWorker: workers.interrupt,
        core.KillWorker: workers.kill,
        core.EndWorker: workers.end,
        core.Pass: workers.pass_on,
        core.Look: workers.look,
        core.Unbuffer: workers.unbuffer,
        core.StageFiles: working_directories.stage_files,
        core.StageJob: working_directories.stage_job,
        core.UnstageJobs: working_directories.unstage_jobs,
        core.Tell: delivery.tell,
        core.TellStored: delivery.tell_stored,
        core.FlushSoon: delivery.flush_soon,
        core.Release: delivery.release,
        core.Store: delivery.store_results,
        core.NoteOpen: delivery.note_open,
        core.DropNote: delivery.drop_note,
        core.Erase: delivery.erase,
        core.Drained: lambda service, _: service.stop("drained"),
    }

    def __init__(self, settings: NodeSettings, parts: NodeParts) -> None:
        super().__init__(settings, parts)
        self._secret = parts.secret
        self._tls = TlsAtFirst(parts.tls)
        self._has_socket = parts.has_socket
        self._unix_listener: UnixListener | None = None
        """Listener for programs of our user on this machine; None: they come by TCP."""
        self._entry: Entry | None = None
        """Entry in this machine's list of nodes, by which programs find the node; None: not listed (private, drained,
        or no directory can be written to)."""
        self._pulse: asyncio.TimerHandle | None = None
        """Timer of the next ``_on_pulse``; None until ``start``."""
        self._pulses = 0
        """Pulses so far; every ``KEEP_PULSES``-th checks the entry in the list of nodes."""
        self._idle_pulses = 0
        """Pulses in a row without any computation here; at ``TRIM_PULSES`` memory is given back."""
        self._stall = Stall(settings.stall_s)
        """Watchdog: finds when jobs that could go on have stood still for ``stall_s`` seconds. ``_on_pulse`` logs
        that as an error, once for each standstill; no job is ended."""
        self._search_paths = {
            account: SearchPath(account, parts.spared) for account in parts.accounts or (None,)
        }
        """By account of the jobs: returns the directories in which they look for modules, by which the stager knows
        installed packages."""
        seams = Seams(
            lambda supplier, message: delivery.send_to(self, ClientId(supplier), message),
            self._post, self._later, self.workspace.tree, search_path=self._find_modules,
            clock=self.clock.monotonic,
        )  # fmt: skip
        self.stager = Stager(parts.stores, seams, settings.max_file_size)
        self._listener = Listener(self._new_connection, tls=self.uses_tls, prepare=self._tls.prepare)
        if logger.isEnabledFor(logging.DEBUG):
            tracing.begin(self)
        self.spool = None
        if parts.spool is not None:
            self.spool = Spool(
                parts.spool, self.incarnation, self.name, parts.secret.fingerprint(), settings.spool_max,
                self._tell_written, self.segments.open_segment,
            )  # fmt: skip

    def _find_modules(self, work: Path) -> list[str]:
        """Returns the directories in which jobs with a working directory look for modules; called on a thread."""
        return self._search_paths[self.workspace.account_at(work)]()

    def _later(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function of the stager after ``delay_s`` seconds."""
        guard.later(self, delay_s, None, function, *arguments)

    @property
    def uses_tls(self) -> bool:
        """True if connections over TCP are encrypted."""
        return self._tls.is_used

    @property
    def socket_path(self) -> str:
        """Path of the Unix socket for programs of our user on this machine; empty if there is none."""
        return "" if self._unix_listener is None else str(self._unix_listener.path)

    def _contain_action(self, action: core.Action, error: Exception) -> bool:
        """End the computation or the client for which an action failed. False if the action is for neither."""
        owner, has_owner = containment.owner_of(self, action)
        if has_owner:
            self.contain(owner, error)
        return has_owner

    def contain(self, owner: Owner, error: Exception) -> None:
        """End the computation or the client for which something failed, with the reason; None: log it only."""
        try:
            containment.contain(self, owner, error)
        except Exception as second:
            # What is left of the owner is not known: the node must not go on as if it were gone.
            self._stop_faulty(second)

    def on_stray(self, context: dict[str, Any]) -> None:
        """Log an exception that came to the event loop, as in a stranger's connection: nothing of the node ends."""
        error = context.get("exception")
        if isinstance(error, Exception):
            self.contain(None, error)
        else:
            logger.error("%s", context.get("message"))

    def start(self) -> None:
        """Listen, take over results of dead nodes from the spool, and enter the list of this machine's nodes.

        Raises:
            OSError: The address cannot be used. ``start`` may be called again.
        """
        self.address = listen(self._listener, self.settings)
        self._open_socket()
        guard.run(self, None, self._restore)
        self._list()
        computations.watch_spare(self)
        self._on_pulse()

    def _restore(self) -> None:
        """Take over results of dead nodes from the spool."""
        if self.spool is not None:
            for restored in self.spool.restore(self.address[1]):
                self.handle(restored)

    def _open_socket(self) -> None:
        """Listen on a Unix socket, too. If there can be none a warning says what programs use instead.

        Sockets of dead nodes are removed, on a thread.
        """
        if not self._has_socket:
            return
        make = partial(self._new_connection, is_unix=True)
        try:
            self._unix_listener = UnixListener(make, *self.address)
        except StateDirectoryError as error:
            logger.warning(
                "programs of this machine come by TCP, as this node can have no socket: %s", error
            )
            return
        threading.Thread(target=unix_sockets.tidy, name="dispy tidies sockets", daemon=True).start()

    def _list(self) -> None:
        """Enter the node into the list of this machine's nodes, or update its entry; a private node is not listed.

        If the list cannot be written to, a warning says that programs have to name this node to find it.
        """
        if self._entry is not None:
            self._entry.update(self.listing())
            return
        if self.settings.owner:
            return
        try:
            self._entry = Entry(self.listing())
        except StateDirectoryError as error:
            host, port = self.address
            logger.warning(
                "%s; programs find it if they name it: nodes=[(%r, %d)]", error, local(host), port
            )
            return
        threading.Thread(target=self._entry.tidy, name="dispy tidies", daemon=True).start()

    def listing(self) -> Listing:
        """Returns the node's entry in the list of nodes: what programs on this machine need to reach it."""
        host, port = self.address
        return Listing(
            self.incarnation.hex(),
            local(host),
            port,
            self.uses_tls,
            self.name,
            self.cpus,
            this_process(),
            self._secret.fingerprint(),
            is_everywhere=local(host) != host,
            socket=self.socket_path,
            namespace=namespace(),
        )

    def _new_connection(
        self, on_settled: Callable[[Connection], None], is_unix: bool = False
    ) -> Connection:
        """Returns the ``Connection`` for a socket that a listener has accepted.

        Args:
            on_settled: Function of the listener that the connection calls once: when the peer has proved the secret,
                or the connection is gone. Until then the listener counts the connection as half open.
            is_unix: True for the Unix socket, over which there is no TLS.
        """
        connection = Connection(
            self,
            to_node_decoder,
            self._secret.key,
            "node",
            "client",
            is_dialer=False,
            tls=None if is_unix else self._tls.made,
            on_settled=on_settled,
            make_sink=self.segments.incoming,
            clock=self.clock,
            farewell=lambda error: node.Leaving(str(error)),
        )
        if self.tracer is not None:
            connection.trace = self.tracer(connection)
        return connection

    def set_cpus(self, cpus: int) -> None:
        """Offer another number of CPUs. Running jobs above that number go on; more than 0 CPUs end draining.

        Args:
            cpus: The number, from 0 (no new jobs begin) to ``cpus_most``; not checked here.
        """
        self.cpus = cpus
        self.handle(core.CpusChanged(cpus))
        if not self.machine.state.is_draining:
            self._list()
        logger.info("the node offers %d of %d CPUs from now on", cpus, self.cpus_most)

    def drain(self, why: str) -> None:
        """Take no new jobs, and stop when the running ones have ended. Each call logs what the node waits for.

        The node leaves the list of nodes. Programs that know it can still come back for their results. ``set_cpus``
        with more than 0 ends the draining. A private node ignores the call.

        Args:
            why: Cause, for the log.
        """
        if self.settings.owner:
            logger.info(
                "%s: ignored, as this node ends with its program, process %d", why, self.settings.owner
            )
            return
        if not self.machine.state.is_draining:
            logger.info("%s: the node takes no new jobs, and ends when those that run have ended", why)
            if self._entry is not None:
                self._entry.close()
                self._entry = None
            self.handle(core.Drain())
        if not self.stopped.is_set():
            reporting.say_waits(self)

    def say_usage(self, why: str) -> None:
        """Log who uses this node, and its ``statistics``; ``why``: cause, for the log."""
        for text in [*reporting.usage(self).splitlines(), f"statistics: {facts(self.statistics())}"]:
            logger.info("%s: %s", why, text.strip())

    def statistics(self) -> dict[str, int]:
        """Returns numbers of what the node has and has done (``reporting.statistics``). On the loop."""
        return reporting.statistics(self)

    def stop(self, why: str = "stopped") -> None:
        """Have ``run`` end everything and return; from the second call on without effect.

        Args:
            why: Cause, for the log.
        """
        if not self.stopped.is_set():
            reporting.say_stops(self, why)
            self.stopped.set()

    @property
    def is_stopping(self) -> bool:
        """True if ``stop`` was called, or a fault stops the node."""
        return self.stopped.is_set()

    async def run(self) -> None:
        """Serve until stopped; then end all processes, close all connections and release all directories."""
        try:
            await self.stopped.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        """End the node: tell clients, end hosts within ``STOP_S`` or kill them, store results, close everything.

        Jobs that run end with their hosts.
        """
        if self._entry is not None:
            self._entry.close()
        if self._unix_listener is not None:
            self._unix_listener.close()
        self._listener.close()
        for timer in (self.tick, self._pulse):
            if timer is not None:
                timer.cancel()
        self.handle(core.Flush())
        hosts = computations.living_hosts(self) + self.ending
        if self.spare is not None:
            self.spare.kill()  # it has no workers, and may still be busy with its imports
            hosts.append(self.spare)
        for host in hosts:
            self.loop.remove_reader(host.control)
            for handle in host.workers.values():
                self.loop.remove_reader(handle.replies)
            host.end()
        deadline = self.clock.monotonic() + STOP_S
        await self._say_farewell(min(deadline, self.clock.monotonic() + FAREWELL_S))
        while any(host.process.poll() is None for host in hosts) and self.clock.monotonic() < deadline:
            await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.close()
        for host in hosts:
            host.kill()
        for host in hosts:
            host.process.wait()
        self.kill_strays(set())
        for host in hosts:
            computations.close_host(self, host)
        for loaded in self.loaded.values():
            if loaded.brought is not None:
                loaded.brought.close()
        self.stager.close()
        if self._helpers is not None:
            self._helpers.finish()
        if self.spool is not None:
            self.handle(core.Stopping(sorted(self.gone)))
            self.spool.close()
        self.segments.close()
        self.workspace.close()
        if self._helpers is not None:
            self._helpers.close()

    async def _say_farewell(self, deadline: float) -> None:
        """Tell clients that the node leaves, each after the last byte of its results.

        A client that has all its results closes its connection. Returns when all have, or at ``deadline`` (monotonic,
        seconds).
        """
        is_drained = self.machine.state.is_draining and not self.machine.state.busy
        untold = [connection for connection, client in self.connections.items() if client is not None]
        while any(client is not None for client in self.connections.values()):
            for connection in list(untold):
                if not connection.is_sending:
                    untold.remove(connection)
                    connection.send(
                        node.Leaving("dispynode was drained" if is_drained else "dispynode was stopped")
                    )
            if self.clock.monotonic() > deadline:
                break
            await asyncio.sleep(0.005)

    def _on_pulse(self) -> None:
        """Do what is due once a second (``PULSE_S``): run the watchdog, tell clients what the machine has to spare,
        reap dead children, write log lines that are due, trim unused memory, check the entry in the list of nodes.

        While no worker is busy it also tells the core the time (``Tick``), which is else done every 10 ms.
        """
        self._pulse = guard.later(self, PULSE_S, None, self._on_pulse)
        for step in (
            self._on_second,
            partial(delivery.tell_available, self),
            lambda: self._bury_others(computations.own_children(self)),
            partial(reporting.on_pulse, self),
            self._trim_if_idle,
            self._keep_listed,
        ):
            guard.run(self, None, step)

    def _on_second(self) -> None:
        """Tell the core the time while no worker is busy, and log a standstill that the watchdog finds."""
        if not self.machine.state.busy:
            self.handle(core.Tick({}))
        stalled = self._stall.look(find_stall(self.machine.state), self.clock.monotonic())
        if stalled:
            logger.error("nothing has moved for %g s: %s", self._stall.limit_s, stalled)

    def _trim_if_idle(self) -> None:
        """Give unused memory back once there was no computation for ``TRIM_PULSES``."""
        self._idle_pulses = 0 if self.loaded else self._idle_pulses + 1
        if self._idle_pulses == TRIM_PULSES:
            self.segments.trim()

    def _keep_listed(self) -> None:
        """Check the entry in the list of nodes, each ``KEEP_PULSES``."""
        self._pulses += 1
        if self._entry is not None and self._pulses % KEEP_PULSES == 0:
            threading.Thread(target=self._entry.keep, name="dispy is listed", daemon=True).start()

    def _tell_written(self, told: core.Stored, path: Path) -> None:
        """Tell the loop that batches of results are on disk, in the file ``path``; called on the spool's thread."""
        self._post(delivery.on_written, self, told, path)

    # Called by connections.

    def on_ready(self, connection: Connection) -> None:
        """Accept a peer that has proved the secret. Its first message, ``Attach``, will name the client."""
        self.connections[connection] = None
        tracing.connection_made(connection)
        connection.set_pulse(PULSE_S)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of a client (``clients.on_message``).

        A fault ends the computation that the message is about, or the client.

        Raises:
            RemoteProtocolError: The client has not said who it is; its connection is closed.
        """
        try:
            clients.on_message(self, connection, message)
        except Exception as error:
            if isinstance(error, DispyError) and not isinstance(error, InternalError):
                raise
            client = self.connections.get(connection)
            if client is None:
                raise  # the connection ends with it
            self.contain(containment.owner_of_message(self, client, message), error)
            clients.answer_fault(connection, message, f"node {self.name} has a fault: {of_error(error)}")

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Forget a connection that is closed (``clients.on_closed``). Its client's jobs go on, and it may come back.

        ``error``: why the connection ended; None: it was closed in good order.
        """
        tracing.connection_lost(connection, error)
        client = self.connections.get(connection)
        guard.run(self, client, clients.on_closed, self, connection, error)
