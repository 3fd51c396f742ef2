"""A node's service: it turns what sockets and processes say into events for the execution core, and performs actions.

This module has the node as a whole: its start and end, and the table of which function performs which action of the
core. ``state`` has the data, and names the modules with the other functions.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId
from dispy.errors import DispyError, InternalError
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Seams
from dispy.net.connection import Connection
from dispy.node import clients, containment, ending, guard, reporting, tracing
from dispy.node.entrance import Entrance
from dispy.node.guard import Owner
from dispy.node.processes import computations, workers
from dispy.node.processes.python_path import SearchPath
from dispy.node.pulse import Pulse
from dispy.node.results import delivery
from dispy.node.results.spool import Spool
from dispy.node.staging import working_directories
from dispy.node.state import NodeParts, NodeState
from dispy.settings import PULSE_S, NodeSettings
from dispy.system.wording import of_error

logger = logging.getLogger("dispy.node")


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
        self.entrance = Entrance(
            self, settings, self.name, parts.incarnation, parts.secret, parts.tls, has_socket=parts.has_socket,
            make_sink=parts.segments.incoming, clock=parts.clock, new_network=parts.new_network,
        )  # fmt: skip
        self._pulse = Pulse(self)
        self._search_paths = {
            account: SearchPath(account, parts.spared) for account in parts.accounts or (None,)
        }
        """By account of the jobs: returns the directories in which they look for modules, by which the stager knows
        installed packages."""
        seams = Seams(
            lambda supplier, message: delivery.send_to(self, ClientId(supplier), message),
            self._post,
            lambda delay_s, *call: guard.later(self, delay_s, None, *call),
            self.workspace.tree,
            search_path=self._find_modules,
            clock=self.clock.monotonic,
        )
        self.stager = Stager(parts.stores, seams, settings.max_file_size)
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
        self.entrance.listen()
        guard.run(self, None, delivery.restore, self)
        self.entrance.enter_list(self.cpus)
        computations.watch_spare(self)
        self._pulse.beat()

    def set_cpus(self, cpus: int) -> None:
        """Offer another number of CPUs. Running jobs above that number go on; more than 0 CPUs end draining.

        Args:
            cpus: The number, from 0 (no new jobs begin) to ``cpus_most``; not checked here.
        """
        self.cpus = cpus
        self.handle(core.CpusChanged(cpus))
        if not self.machine.state.is_draining:
            self.entrance.enter_list(self.cpus)
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
            self.entrance.leave_list()
            self.handle(core.Drain())
        if not self.stopped.is_set():
            reporting.say_waits(self)

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

    async def run(self) -> None:
        """Serve until stopped; then end all processes, close all connections and release all directories."""
        try:
            await self.stopped.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        self.entrance.close()
        self._pulse.close()
        await ending.end(self)

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
