"""Questions to the shared scheduler of a dead program, in its name: what do you have of my jobs?

To ``core.recovery`` the scheduler is one node with all jobs of the program: what it says is put into the words of a
node. A job has one attempt there, since the scheduler tells each end once.

1. ``Attach`` with the identity of the dead program, as a recovery; the scheduler answers ``Welcome``.
2. All news comes that the dead program had not released, results among it, and ``Held``: which jobs are open.
3. More news comes. Nothing is released, so that the scheduler keeps everything should this recovery die.
4. Once all is safe here, ``release``: the clusters are closed, and ``Recover`` once more. That none is open says that
   the scheduler has heard. It forgets the program with its last cluster.

Files that nodes need and the scheduler has not got from the program are read where the program had them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from dispy.client.backend.remote import file_messages
from dispy.client.code.shipped_files import Shipped
from dispy.client.recovery.dead_program import PastSession
from dispy.client.recovery.peer_query import Ask, Asked
from dispy.core.recovery import PlaceStatus
from dispy.errors import RemoteProtocolError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.net.links.channel import Channel
from dispy.protocol import node, shared
from dispy.protocol.batches import Arrived
from dispy.protocol.node import Attempt, Ended, HeldJobs, Started
from dispy.protocol.shared import from_scheduler_decoder
from dispy.settings import PULSE_S
from dispy.system.escaping import block, line, lines
from dispy.system.process_identity import user_and_host


class SchedulerAsk(Ask):
    """A shared scheduler that is asked. As ``Ask``, whose parameters it has."""

    role = "scheduler"

    def __init__(self, asking: Asked, peer: str, target: Target, fault: Exception | None = None) -> None:
        super().__init__(asking, peer, target, fault)
        self._channel: Channel | None = None
        """The channel of the present connection; None until the scheduler knows the program on it."""
        self._asked: deque[bool] = deque()
        """``Recover`` questions without a whole answer, in the order sent: True for those of a release."""
        self._held: dict[int, HeldJobs] = {}
        """Parts of the answer that comes, by number of the cluster."""
        self._reading: set[asyncio.Task[None]] = set()
        """Files that are being read for nodes."""

    def decoder(self) -> Any:
        return from_scheduler_decoder

    def cancel(self, message: node.CancelJobs) -> None:
        if self._channel is not None:
            numbers = [attempt.number for attempt in message.attempts]
            self._channel.send(shared.CancelJobs(0, message.computation, numbers))

    def release(self) -> None:
        self._released.clear()
        if self._channel is not None:
            for number in self._numbers():
                self._channel.send(shared.CloseCluster(0, number))
            self._ask(is_release=True)

    def _numbers(self) -> list[int]:
        """Return the numbers of the clusters of all sessions of which the scheduler may have something."""
        return [number for session in self._sessions() for number in session.recovery.computations]

    def _ask(self, *, is_release: bool) -> None:
        if self._connection is not None:
            self._asked.append(is_release)
            self._connection.send(shared.Recover(self._numbers()))

    # The connection's side.

    def on_ready(self, connection: Connection) -> None:
        session = self._asking.sessions[0]
        origin = user_and_host()[:200]
        user = origin.partition("@")[0]
        connection.set_pulse(PULSE_S)
        connection.send(shared.Attach(session.identity, session.program, user, origin, is_recovery=True))

    def on_lost(self) -> None:
        self._channel = None
        self._asked.clear()
        self._held.clear()

    def on_message(self, connection: Connection, message: shared.FromScheduler) -> None:
        """Handle a message of the scheduler.

        Raises:
            RemoteProtocolError: The scheduler says what it was not asked.
            MemoryError: There is no memory for a result.
        """
        if type(message) is shared.Welcome:
            self._on_welcome(connection, message)
        elif type(message) is shared.Leaving:
            self.error = block(message.reason)
        elif self._channel is None:
            raise RemoteProtocolError(f"{type(message).__name__} before Welcome")
        elif type(message) is shared.Held:
            self._on_held(message)
        elif not self._channel.on_message(connection, message):
            raise RemoteProtocolError(f"{type(message).__name__} was not asked for")

    def _on_welcome(self, connection: Connection, message: shared.Welcome) -> None:
        name = line(message.name)
        self.welcome = node.Welcome(message.identity, name, 0, "", known=message.is_known)
        if not message.is_known:
            for session in self._asking.sessions:
                if message.identity in session.recovery.places:
                    session.recovery.give_up(
                        message.identity,
                        PlaceStatus.GONE,
                        f"scheduler {name} has nothing of it: the time is over for which it keeps jobs and results "
                        "of programs that are away (--zombie_interval), or the program has left it",
                    )
            return
        for session in self._asking.sessions:
            session.recovery.on_welcome(self.peer, self.welcome)
        channel = self._channel = Channel(self._take, asyncio.get_running_loop().call_later)
        channel.succeed(message.received)
        channel.resume(connection, message.received)
        if self._asking.is_releasing:
            self.release()
        else:
            self._ask(is_release=False)

    def _on_held(self, message: shared.Held) -> None:
        """Take a part of the answer to ``Recover``; the last one has ``core.recovery`` told."""
        if not self._asked:
            raise RemoteProtocolError("it says what it holds, and was not asked")
        if not message.is_last:
            held = self._held.setdefault(message.cluster, HeldJobs(message.cluster, []))
            held.attempts += [Attempt(number, 0) for number in message.open]
            for job in message.running:
                started = node.JobsStarted(message.cluster, [Started(job.number, 0, job.start)])
                self._tell_started(started, job.ip_addr)
            return
        is_release = self._asked.popleft()
        waiting = [] if self._channel is None else self._channel.releases.waiting()
        waiting = [each for each in waiting if type(each) is shared.Ended]
        for session in self._sessions():
            numbers = session.recovery.computations
            parts = [self._held[number] for number in numbers if number in self._held]
            if is_release and not parts:
                self._released.add(id(session))
            batches = [each.batch for each in waiting if each.cluster in numbers]
            session.recovery.on_held(self.peer, node.Held(parts, batches, []), Arrived())
        self._held.clear()

    # News of the scheduler.

    def _take(self, news: Any) -> None:
        """Take a piece of news, whole. News about nodes is dropped: no program is there to choose some."""
        if type(news) is shared.Ended:
            self._on_ended(news)
        elif type(news) is shared.EndedHere:
            reason = block(news.reason)
            ended = [
                Ended(number, 0, news.status, 0.0, 0.0, b"", reason=reason, ran=False)
                for number in news.numbers
            ]
            self._tell_ended(node.JobsEnded(news.batch, news.cluster, ended), "")
        elif type(news) is shared.Started:
            started = [Started(each.number, 0, each.start) for each in news.started]
            self._tell_started(node.JobsStarted(news.cluster, started), line(news.ip_addr))
        elif type(news) is shared.Requeued:
            for session in self._of(news.cluster):
                for number in news.numbers:
                    session.recovery.started.pop((news.cluster, number), None)
        elif type(news) is shared.Value:
            self._answer_value(news)
        elif type(news) is shared.FilesNeeded:
            task = asyncio.get_running_loop().create_task(self._send_files(news))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    def _of(self, cluster: int) -> list[PastSession]:
        """Return the sessions that have a computation of this number."""
        return [session for session in self._sessions() if cluster in session.recovery.computations]

    def _on_ended(self, news: shared.Ended) -> None:
        for ended in news.ended:
            if ended.payload is None and self._of(news.cluster) and not self._asking.is_releasing:
                raise MemoryError("there is not enough memory here for a job's result")
            ended.payload = ended.payload or b""
            ended.stdout, ended.stderr = bytes(ended.stdout or b""), bytes(ended.stderr or b"")
            ended.reason = lines(ended.reason) if ended.reason else ""
            ended.attempt = 0
        self._tell_ended(node.JobsEnded(news.batch, news.cluster, news.ended), line(news.ip_addr))

    def _tell_ended(self, message: node.JobsEnded, ip_addr: str) -> None:
        for session in self._of(message.computation):
            session.recovery.on_ended(self.peer, message, ip_addr)

    def _tell_started(self, message: node.JobsStarted, ip_addr: str) -> None:
        for session in self._of(message.computation):
            session.recovery.on_started(self.peer, message, ip_addr)

    def _answer_value(self, news: shared.Value) -> None:
        """Acknowledge a provisional result, so that its job goes on; refuse a file, which nobody takes."""
        value = news.value
        passed = node.AcknowledgeProvisional(news.cluster, value.number, value.attempt, value.serial)
        if value.file is not None:
            passed.delivered, passed.reason = False, "its program has died, and nobody takes files"
        if self._channel is not None:
            self._channel.send(shared.AnswerValue(0, news.cluster, news.node, passed))

    async def _send_files(self, news: shared.FilesNeeded) -> None:
        """Read the files of a computation where the dead program had them; others are refused."""
        channel, shipped = self._channel, Shipped(None)
        sources = [
            source
            for session in self._of(news.cluster)
            for source in session.computations[news.cluster][1].sources
        ]
        held = shipped.restore(sources)
        pieces, unreadable = await asyncio.to_thread(shipped.answer, news.need)
        del held
        for refused in unreadable:
            refused.reason = (
                f"its program has died, and its scheduler has not got the file: {refused.reason}"
            )
        if channel is not None and channel is self._channel:
            for message in file_messages(news.cluster, news.node, pieces, unreadable):
                channel.send(message)
