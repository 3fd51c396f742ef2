"""News of a backend, brought to the cluster that it is for. On the engine's loop."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from dispy.client.allocation import node_choice, node_views
from dispy.client.session import completion, files, submission
from dispy.client.session.received_files import Arrivals
from dispy.protocol.node import ABANDONED, AcknowledgeProvisional

if TYPE_CHECKING:
    from dispy.client.backend.backend import Backend
    from dispy.client.code.shipped_files import Shipped
    from dispy.client.engine.threads import Threads
    from dispy.client.session.state import Session
    from dispy.protocol.node import Ended, NeedFiles, Printed, Provisional, Started
    from dispy.protocol.views import NodeId, NodeInfo

logger = logging.getLogger("dispy.client")


class News:
    """The listener of all backends of an engine (``backend.Listener``). News for a cluster that has ended is dropped.

    Args:
        threads: The threads of the engine.

    Attributes:
        sessions: Open clusters, by number.
        arrivals: Receiver of files that jobs send, with a thread that writes them; None until a job sends one.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.sessions: dict[int, Session] = {}
        self.arrivals: Arrivals | None = None

    def on_closed(self, number: int) -> None:
        self.sessions.pop(number, None)

    def on_window(self, number: int, reason: str) -> None:
        session = self.sessions.get(number)
        if session is not None:
            submission.set_window(session, reason)

    def on_forgotten(self, number: int, reason: str) -> None:
        """End all jobs of a cluster but those that have not left its inbox, and all sending of files."""
        session = self.sessions.get(number)
        if session is not None:
            waiting = {job.number for job in list(session.inbox)}
            lost = [job for job in list(session.jobs) if job not in waiting]
            if session.journal is not None and lost:
                session.journal.ended_here(lost, ABANDONED, reason)
            completion.on_ended_here(session, lost, ABANDONED, reason)
            for node, request in list(session.sent.under_way):
                self.on_files(number, node, request, reason)

    # Nodes.

    def on_offer(self, number: int, found: NodeInfo) -> None:
        session = self.sessions.get(number)
        if session is not None:
            node_choice.consider(session, found)

    def on_usable(self, number: int, found: NodeInfo, is_usable: bool, reason: str) -> None:
        session = self.sessions.get(number)
        if session is not None:
            node_views.on_usable(session, found, is_usable, reason)

    def on_changed(self, number: int, found: NodeInfo) -> None:
        session = self.sessions.get(number)
        if session is not None:
            node_views.on_changed(session, found)

    def on_cpus(self, number: int, found: NodeInfo) -> None:
        session = self.sessions.get(number)
        if session is not None:
            node_choice.on_cpus(session, found)

    def on_available(self, found: NodeInfo) -> None:
        for session in self.sessions.values():
            node_views.on_available(session, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        logger.warning("%s", reason)

    def on_unreachable(self, numbers: list[int], address: str, reason: str, is_refusal: bool) -> None:
        """Note why an address has no node or refuses us, for ``why``; warn once of a refusal.

        A port without a listener is common while nodes are started: ``explain.check_waiting`` tells users later.
        """
        sessions = [self.sessions[number] for number in numbers if number in self.sessions]
        text = f"{address}: {reason}"
        is_news = [session.faults.on_unreachable(address, text) for session in sessions]
        if is_refusal and any(is_news):
            logger.warning("node at %s", text)

    # Jobs.

    def on_started(self, number: int, started: list[Started], found: NodeInfo) -> None:
        session = self.sessions.get(number)
        if session is not None:
            completion.on_started(session, started, found)

    def on_requeued(self, number: int, jobs: list[int]) -> None:
        session = self.sessions.get(number)
        if session is not None:
            completion.on_requeued(session, jobs)

    def on_ended(self, number: int, ended: list[Ended], found: NodeInfo) -> None:
        session = self.sessions.get(number)
        if session is not None:
            if session.journal is not None:
                session.journal.ended(found.ip_addr, ended)
            completion.on_ended(session, ended, found)

    def on_ended_here(self, number: int, jobs: list[int], status: int, reason: str) -> None:
        session = self.sessions.get(number)
        if session is not None:
            if session.journal is not None:
                session.journal.ended_here(jobs, status, reason)
            completion.on_ended_here(session, jobs, status, reason)

    def on_value(self, number: int, value: Provisional, found: NodeInfo) -> None:
        """Take a provisional result, which lets its job go on; or have a part of a file written, then answered."""
        session = self.sessions.get(number)
        if session is None:
            return
        if value.file is None:
            self._answer(
                found.node, AcknowledgeProvisional(number, value.number, value.attempt, value.serial)
            )
            completion.on_value(session, value, found)
            return
        if self.arrivals is None:
            self.arrivals = Arrivals(partial(self._threads.post, self._answer), self._is_open)
        self.arrivals.take(session.name, value, found.node, is_plain=session.options.is_plain)

    def _answer(self, node: NodeId, message: AcknowledgeProvisional) -> None:
        """Send a node the answer to a provisional result or a part of a file, for which its job waits."""
        session = self.sessions.get(message.computation)
        if session is not None:
            session.backend.answer(node, message)

    def _is_open(self, computation: int, number: int) -> bool:
        """True if a job has not ended, by the numbers of its computation and its own. On any thread."""
        session = self.sessions.get(computation)
        return session is not None and number in session.jobs

    def on_printed(self, number: int, printed: list[Printed], node: NodeId, serial: int) -> None:
        session = self.sessions.get(number)
        if session is not None:
            session.watching.on_printed(printed)
            session.backend.answer_printed(number, node, serial)

    # Files.

    def on_files(self, number: int, node: NodeId, request: int, reason: str) -> None:
        session = self.sessions.get(number)
        if session is not None:
            files.on_files(session, node, request, reason)

    def on_files_needed(self, number: int, message: NeedFiles, node: NodeId) -> None:
        """Have pieces of files that a node asks for read on the thread for files, then sent to it or refused."""
        session = self.sessions.get(number)
        if session is not None:
            self._threads.files.call(self._read_files, [(session.shipped, session.backend, message, node)])

    def _read_files(self, shipped: Shipped, backend: Backend, message: NeedFiles, node: NodeId) -> None:
        """Read pieces of files, and have the loop send them, or the refusals. On the thread that reads files."""
        pieces, unreadable = shipped.answer(message)
        self._threads.post(backend.send_files, node, message.computation, pieces, unreadable)

    # Threads.

    def tidy(self) -> None:
        """Drop incomplete files of jobs that have ended."""
        if self.arrivals is not None:
            self.arrivals.tidy()

    def stop(self) -> None:
        """End the thread that writes files of jobs."""
        if self.arrivals is not None:
            self.arrivals.stop()
