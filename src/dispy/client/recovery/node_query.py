"""Questions to one node of a dead program, in its name: what do you have of my jobs?

1. ``Attach`` with the identity of the dead program; the node answers ``Welcome``.
2. ``Recover`` for each session, that is, for each journal's part of the program; the node answers ``Held``: what has
   not ended, which batches of results it keeps, and what was lost. These answers come in the order of the questions.
3. The results come (``JobsEnded``), then those of jobs that still run, until ``core.recovery`` has all. Nothing is
   acknowledged, so that the node keeps everything should this recovery die.
4. Once all is safe here, ``release``: ``CloseComputation`` for each computation, and ``Recover`` once more. An empty
   ``Held`` says that the node has heard and dropped it all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sized
from typing import Any, assert_never

from dispy.client.recovery.dead_program import PastSession
from dispy.client.recovery.peer_query import Ask, Asked
from dispy.core.recovery import Recovery
from dispy.errors import RemoteProtocolError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.protocol import node
from dispy.protocol.batches import Arrived
from dispy.protocol.node import from_node_decoder
from dispy.scheduler.result_payloads import drop_parts, take_parts
from dispy.settings import PULSE_S
from dispy.system.escaping import block, line


class NodeAsk(Ask):
    """A node that is asked. As ``Ask``, whose parameters it has."""

    def __init__(self, asking: Asked, peer: str, target: Target, fault: Exception | None = None) -> None:
        super().__init__(asking, peer, target, fault)
        self._address = target.host
        """IP address of the node once it is connected, before that its host name: ``ip_addr`` of its jobs."""
        self._asked: deque[tuple[PastSession, bool]] = deque()
        """``Recover`` questions without an answer, in the order sent: their session, and True if they belong to a
        release. The node answers in this order, so that each ``Held`` finds its session."""
        self._arrived = Arrived()
        """Batches of results that have arrived from the present run of the node. None is ever released, and so none
        acknowledged: the node keeps them should this recovery die."""

    def decoder(self) -> Any:
        return from_node_decoder

    def _send(self, messages: Iterable[node.ToNode]) -> None:
        """Send messages in the order given; drop them if the node is not connected: it is asked anew later."""
        connection = self._connection
        if connection is not None and connection.is_ready:
            for message in messages:
                connection.send(message)

    def _ask(self, session: PastSession, messages: list[node.ToNode], *, is_release: bool) -> None:
        """Send messages about a session; note each ``Recover`` in ``_asked``, so that ``Held`` finds its session."""
        self._asked.extend((session, is_release) for message in messages if type(message) is node.Recover)
        self._send(messages)

    def cancel(self, message: node.CancelJobs) -> None:
        self._send([message])

    def release(self) -> None:
        self._released.clear()
        for session in self._sessions():
            numbers = session.recovery.computations
            self._ask(
                session, [*map(node.CloseComputation, numbers), node.Recover(numbers)], is_release=True
            )

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        self._asked.clear()
        self._address = connection.peer_address
        session = self._asking.sessions[0]
        connection.set_pulse(PULSE_S)
        connection.send(node.Attach(session.identity, session.program, self._arrived.attach()))

    def on_lost(self) -> None:
        self._asked.clear()

    def on_message(self, connection: Connection, message: node.FromNode) -> None:
        """Handle a message of the node. A provisional result is acknowledged and dropped, so that its job goes on.

        A file that a job sends is refused. Messages that no node may send were refused when they were decoded.

        Raises:
            RemoteProtocolError: The node answers a question that was not asked.
            MemoryError: There is no memory for a result.
        """
        match message:
            case node.Welcome():
                message.name = line(message.name)
                self._compare(message)
                for session in self._asking.sessions:
                    self._ask(session, session.recovery.on_welcome(self.peer, message), is_release=False)
                if self._asking.is_releasing:
                    self.release()
            case node.Held():
                if not self._asked:
                    raise RemoteProtocolError("it says what it holds, and was not asked")
                session, is_release = self._asked.popleft()
                if is_release and not message.open and not message.batches:
                    self._released.add(id(session))
                session.recovery.on_held(self.peer, message, self._arrived)
            case node.JobsEnded() if self._arrived.has(message.batch):
                drop_parts(connection, message)  # from an earlier connection
            case node.JobsEnded():
                take_parts(connection, message, _adopt_none, may_lose=False)
                self._arrived.arrive(message.batch)
                for recovery in self._recoveries(message.computation):
                    recovery.on_ended(self.peer, message, self._address)
            case node.JobsStarted():
                for recovery in self._recoveries(message.computation):
                    recovery.on_started(self.peer, message, self._address)
            case node.JobsReturned():
                message.reason = block(message.reason)
                for recovery in self._recoveries(message.computation):
                    recovery.on_returned(self.peer, message)
            case node.Provisional():
                # The job waits for this acknowledgement; there is no program to show the value to.
                if message.stream:
                    connection.take_stream(message.stream)
                number = message.computation
                passed = node.AcknowledgeProvisional(
                    number, message.number, message.attempt, message.serial
                )
                if message.file is not None:
                    passed.delivered, passed.reason = False, "its program has died, and nobody takes files"
                connection.send(passed)
            case (
                node.ComputationReady() | node.ComputationFailed() | node.Credit() | node.Reconciled()
                | node.Leaving() | node.NodeCpus() | node.ObjectStored() | node.JobsPrinted() | node.JobsListed()
                | node.Available() | node.NeedFiles() | node.FilesProgress() | node.FilesPlaced()
                | node.NodeCredit()
            ):  # fmt: skip
                pass  # for a scheduler: there is none any more
            case _:
                assert_never(message)

    def _compare(self, message: node.Welcome) -> None:
        """Note which run of the node answers, and which batches of results it sends: those that have arrived over an
        earlier connection to the same run are not taken twice."""
        is_same = self.welcome is None or self.welcome.node == message.node
        self._arrived = self._arrived.compare(
            message.last, message.kept, is_known=message.known, is_same=is_same
        )
        self.welcome = message

    def _recoveries(self, computation: int) -> list[Recovery]:
        """Return the recoveries of all sessions that have a computation of this number: they get news of its jobs."""
        recoveries = [session.recovery for session in self._asking.sessions]
        return [recovery for recovery in recoveries if computation in recovery.computations]


def _adopt_none(computation: int, segment: int) -> Sized:
    """Refuse a result that a node names as a file of its memory: no node was told that its memory is seen here."""
    raise ValueError("the node was not asked for files")
