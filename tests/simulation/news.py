"""What the scheduler of a program tells its engine: into the account of its jobs first, then to the real listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dispy.client.engine.news import News
from dispy.protocol.connection.heartbeat import TICKS
from dispy.protocol.node import ABANDONED, Ended, Printed, Provisional, Started
from dispy.protocol.views import NodeId, NodeInfo
from dispy.settings import PULSE_S, SILENT_PULSES

from .jobs import said_by

if TYPE_CHECKING:
    from .program import Program
    from .threads import PlayedEngine

SILENT_S = PULSE_S * SILENT_PULSES - 0.5
"""A node that was heard of less long ago is not silent."""

LOOK_S = PULSE_S / TICKS
"""Each time that we stood still counts as much."""


class Output(NamedTuple):
    """Something that running jobs have printed, as it was told."""

    computation: int
    printed: list[Printed]
    node: NodeId
    serial: int


class PlayedNews(News):
    """The listener of a played program.

    Args:
        engine: Its engine.
        program: The program.
    """

    def __init__(self, engine: PlayedEngine, program: Program) -> None:
        super().__init__(engine)
        self._program = program
        self._world = program.world
        self._account = program.account

    def _fail(self, text: str) -> None:
        self._account.fail(text)

    def on_closed(self, number: int) -> None:
        """A cluster is closed."""
        super().on_closed(number)
        self._program.on_closed(number)

    # Nodes.

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost: that must have been so."""
        program, world = self._program, self._world
        world.note(program.name, reason)
        self._account.has_losses = True
        service = program.computer_at(found.ip_addr).service if program.scheduler is None else None
        is_there = service is not None and service.incarnation == found.node and not service.is_ending
        if is_there:
            if "does not answer" not in reason and "given up" not in reason and "silent" not in reason:
                self._fail(f"a node that is there is taken for dead: {reason}")
            heard, stops = program.party.heard.get(found.ip_addr, (-1e9, 0))
            since = program.party.awake() - heard
            if since < SILENT_S - LOOK_S * (program.party.stops - stops):
                self._fail(f"a node is taken for dead {since:.3f} s after it was heard: {reason}")
        super().on_node_gone(found, reason)

    def on_usable(self, number: int, found: NodeInfo, is_usable: bool, reason: str) -> None:
        """A node became usable for a cluster, or ceased to be."""
        if is_usable and self._program.scheduler is None:
            computation = self._program.computation(number)
            if computation is None or found.node not in computation.placements:
                self._fail("a node is said to be usable that is not there")
        super().on_usable(number, found, is_usable, reason)

    # Jobs.

    def on_forgotten(self, number: int, reason: str) -> None:
        """The shared scheduler does not know the program any more: its jobs end."""
        self._world.note(self._program.name, reason)
        self._account.has_losses = self._account.has_lost_scheduler = True
        session = self.sessions.get(number)
        if session is None:
            return
        waiting = {job.number for job in session.inbox}
        lost = [job for job in session.jobs if job not in waiting]
        ended = [Ended(job, 0, ABANDONED, 0.0, 0.0, b"", reason=reason, ran=False) for job in lost]
        self._note_ends(number, ended)
        super().on_forgotten(number, reason)
        self._program.on_ended(number, ended)

    def on_started(self, number: int, started: list[Started], found: NodeInfo) -> None:
        """Jobs are running."""
        for item in started:
            self._account.on_told_started(number, item.number, item.attempt)
        super().on_started(number, started, found)

    def on_requeued(self, number: int, jobs: list[int]) -> None:
        """Jobs wait again."""
        for job in jobs:
            if self._account.entries[number, job].status:
                self._fail(f"job {job} waits again after its end")
        super().on_requeued(number, jobs)

    def on_ended(self, number: int, ended: list[Ended], found: NodeInfo) -> None:
        """Jobs have ended on a node."""
        self._note_ends(number, ended)
        super().on_ended(number, ended, found)
        self._program.on_ended(number, ended)

    def on_ended_here(self, number: int, jobs: list[int], status: int, reason: str) -> None:
        """Jobs have ended that are on no node."""
        ended = [Ended(job, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for job in jobs]
        self._note_ends(number, ended)
        super().on_ended_here(number, jobs, status, reason)
        self._program.on_ended(number, ended)

    def _note_ends(self, number: int, ended: list[Ended]) -> None:
        if number not in self.sessions:
            self._fail(f"ends are told of computation {number}, which is closed")
        for item in ended:
            self._account.on_told_ended(number, item)

    def on_value(self, number: int, value: Provisional, found: NodeInfo) -> None:
        """A job sent a provisional result."""
        self._account.on_told_value(value)
        super().on_value(number, value, found)

    def on_printed(self, number: int, printed: list[Printed], node: NodeId, serial: int) -> None:
        """Running jobs have printed something; perhaps it is answered later."""
        for item in printed:
            said = said_by(item.number, item.attempt)
            if item.stdout != said[item.stdout_at : item.stdout_at + len(item.stdout)]:
                self._fail(f"job {item.number} is told to have printed what another has")
            if self._account.entries[number, item.number].status:
                self._fail(f"job {item.number} is told to print after its end")
        self._program.printed.append(Output(number, printed, node, serial))
        if self._program.answers_at_once:
            self.answer_printed()

    def answer_printed(self) -> None:
        """Take in all output that was told, which says that it has arrived."""
        printed = self._program.printed
        while printed:
            super().on_printed(*printed.pop(0))

    # Files.

    def on_files(self, number: int, node: NodeId, request: int, reason: str) -> None:
        """Files have been put somewhere, or not: of each request one is told, once."""
        session = self.sessions.get(number)
        if session is not None:
            sending = session.sent.under_way.get((node, request))
            if sending is None:
                self._fail("it is told twice what came of files that were sent")
            else:
                self._program.on_files(number, node, sending.entries, reason)
        super().on_files(number, node, request, reason)
