"""A program's link to a shared scheduler: dials it, dials again when the connection breaks, asks it questions.

    state       event                                    next        what is done
    dialing     the dial fails                           dialing     a pause; ``attached`` fails if it was the first
    dialing     both sides have proved themselves        introduced  Attach
    introduced  Welcome that knows us, or the first one  up          what was lost is sent again
    introduced  Welcome of a scheduler without us        up          ``on_forgotten``: it was started anew
    up          the connection breaks, or is silent      dialing     a warning after ``WARN_S``
    any         ``close``                                closed      Detach

Everything runs on the engine's loop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets as randomness
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from msgspec import Struct

from dispy.errors import (
    AuthenticationError,
    DispyError,
    InternalError,
    NoSchedulerError,
    RemoteProtocolError,
    VersionError,
)
from dispy.net.connection import Connection
from dispy.net.dialing import dial
from dispy.net.links.channel import Channel
from dispy.net.links.file_exchange import FileExchange
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import shared
from dispy.protocol.shared import from_scheduler_decoder
from dispy.security.keys import Keys
from dispy.security.tls import DialerTls
from dispy.settings import PULSE_S
from dispy.system.clock import Clock
from dispy.system.escaping import block, line

logger = logging.getLogger("dispy.client")

REDIAL_MIN_S = 0.1
"""Pause (seconds) before the second dial; each further one is twice as long, up to ``REDIAL_MAX_S``, and 20 % of it
by chance: programs must not come all at once to a scheduler that was started anew."""
REDIAL_MAX_S = 2.0
"""Longest pause (seconds) between two dials."""

DIAL_S = 5.0
"""Seconds after which one dial is given up."""

WARN_S = 5.0
"""Seconds without a connection after which a warning says so, once for each break."""


class Address(Struct, frozen=True):
    """Where a scheduler is, and how it is dialed.

    Attributes:
        host: Host name or IP address.
        port: TCP port.
        keys: Our keys.
        tls: TLS of the link; None: none.
        socket: Path of its Unix socket; empty: none.
    """

    host: str
    port: int
    keys: Keys
    tls: DialerTls | None = None
    socket: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class SchedulerLink:
    """The link to one scheduler.

    Args:
        address: Where it is.
        attach: Our introduction; ``received`` is set here.
        on_news: Called with each piece of news, in order.
        on_forgotten: Called when the scheduler does not know us any more, before anything is sent on the new channel.
        on_leaving: Called with the reason when the scheduler ends.
        is_wanted: Returns whether a cluster is open: the link ends some time after the last one was closed.
        exchange: Returns the exchange of payloads by name, from the name of the scheduler's directory in memory.
        clock: Source of the time (monotonic seconds).
        chance: Returns a random number from 0 to 1.
        on_welcome: Called with identity and name of the scheduler each time that it has answered, and a function that
            it calls once they are noted: nothing is sent before.
        on_renamed: Called with our new identity when we come back as another program.
        after_note: Calls a function once what has come from the scheduler is noted; the scheduler forgets it then.

    Attributes:
        channel: Numbered messages to the scheduler and from it.
        attached: Done once the scheduler has answered for the first time; has its error if it does not let us in.
        name: Name of the scheduler; empty before it has answered.
    """

    def __init__(
        self,
        address: Address,
        attach: shared.Attach,
        on_news: Callable[[Any], None],
        on_forgotten: Callable[[str], None],
        on_leaving: Callable[[str], None],
        is_wanted: Callable[[], bool],
        exchange: Callable[[str], FileExchange],
        clock: Clock,
        chance: Callable[[], float],
        on_welcome: Callable[[bytes, str, Callable[[], None]], None],
        on_renamed: Callable[[bytes], None],
        after_note: Callable[[Callable[[], None]], None],
    ) -> None:
        self.address = address
        self._attach = attach
        self._on_news = on_news
        self._on_forgotten = on_forgotten
        self._on_leaving = on_leaving
        self._is_wanted = is_wanted
        self._exchange = exchange
        self._clock = clock
        self._chance = chance
        self._note_welcome = on_welcome
        self._on_renamed = on_renamed
        self._after_note = after_note
        self._loop = asyncio.get_running_loop()
        self.channel = self._new_channel()
        self.attached: Future[None] = Future()
        self.name = ""
        self.connection: Connection | None = None
        """The connection on which the scheduler has answered; None while there is none."""
        self._made: Connection | None = None
        self._has_attached = False
        self._asked: dict[int, Future[shared.Answer]] = {}
        self._last_asked = 0
        self._broken_at: float | None = clock.monotonic()
        """Time since which there is no connection (monotonic seconds); None while there is one."""
        self.is_closed = False
        """True once the link was ended: it does not dial again."""
        self._pause_s = REDIAL_MIN_S
        self._task: asyncio.Task[None] | None = None
        self._refusal = ""
        """Why the scheduler refuses us, or we it, since the connection broke; empty: neither is known."""
        self._warning: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        """Timer that ends the link if no cluster is open."""
        self.dial()

    def _new_channel(self) -> Channel:
        return Channel(self._on_news, self._loop.call_later, self._after_note)

    def dial(self) -> None:
        """Begin to connect in the background, unless that is under way."""
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._dial())

    async def _dial(self) -> None:
        address = self.address
        while not self.is_closed:
            try:
                async with asyncio.timeout(DIAL_S):
                    await dial(address.socket, address.host, address.port, self._new_connection)
                return
            except OSError as error:
                self._fail_first(error)
            await self._wait()

    async def _wait(self) -> None:
        await asyncio.sleep(self._pause_s * (0.8 + 0.4 * self._chance()))
        self._pause_s = min(self._pause_s * 2, REDIAL_MAX_S)

    def _fail_first(self, error: Exception) -> None:
        """Have the first cluster of the program fail: whoever makes it decides whether to try again."""
        if not self.attached.done():
            self.attached.set_exception(error)
            self.close()

    def _new_connection(self, is_unix: bool) -> Connection:
        address = self.address
        self._made = Connection(
            self,
            from_scheduler_decoder,
            address.keys,
            "client",
            "scheduler",
            is_dialer=True,
            tls=None if is_unix else address.tls,
            peer_name=address.host,
            unix_address=address.host,
            make_sink=PoolSink,
            clock=self._clock,
        )
        return self._made

    # The connection's side (``net.connection.Owner``).

    def on_ready(self, connection: Connection) -> None:
        """Introduce ourselves: the scheduler has proved itself."""
        if self.is_closed:
            connection.abort(ConnectionError("not wanted any more"))
            return
        self._attach.received = self.channel.releases.attach()
        connection.send(self._attach)
        connection.set_pulse(PULSE_S)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of the scheduler."""
        if type(message) is shared.Welcome:
            self._welcome(connection, message)
        elif type(message) is shared.Leaving and not self.attached.done():
            self._fail_first(NoSchedulerError(block(message.reason), hint="ask its administrator"))
        elif connection is not self.connection:
            raise RemoteProtocolError(f"{type(message).__name__} before Welcome")
        elif self.channel.on_message(connection, message):
            return
        elif type(message) is shared.Answer:
            answer = self._asked.pop(message.serial, None)
            if answer is not None and answer.set_running_or_notify_cancel():
                answer.set_result(message)
        elif type(message) is shared.Leaving:
            self._on_leaving(block(message.reason))

    def _welcome(self, connection: Connection, message: shared.Welcome) -> None:
        self.name = line(message.name)
        self.connection = connection
        self._broken_at = None
        self._refusal = ""
        self._pause_s = REDIAL_MIN_S
        if self._warning is not None:
            self._warning.cancel()
            self._warning = None
        if self._has_attached and not message.is_known:
            self.channel = self._new_channel()
            self._on_forgotten(
                f"scheduler {self.name} at {self.address} was started anew, or has given this program up: "
                "the job is lost"
            )
        self._has_attached = True
        self.channel.files = self._exchange(message.memory if self._attach.memory else "")
        self._note_welcome(message.identity, self.name, partial(self._resume, connection, message.received))

    def _resume(self, connection: Connection, received: int) -> None:
        """Send what the scheduler does not have, unless the connection is gone by now."""
        if self.connection is not connection:
            return
        self.channel.resume(connection, received)
        if not self.attached.done():
            self.attached.set_result(None)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """Dial again, as the connection is gone."""
        if self.connection is connection:
            self.connection = None
            self.channel.suspend()
            self._broken_at = self._clock.monotonic()
            self._warning = self._loop.call_later(WARN_S, self._warn)
            for answer in self._asked.values():
                if answer.set_running_or_notify_cancel():
                    answer.set_result(shared.Answer(0, error=self.why_silent()))
            self._asked.clear()
        if self.is_closed:
            return
        if isinstance(error, InternalError):
            # The message that was too large would be sent again and again: we come back as another program.
            logger.error("jobs at scheduler %s are lost by a fault of dispy: %s", self.name, error)
            self._attach.client = randomness.token_bytes(16)
            self._on_renamed(self._attach.client)
        if not isinstance(error, DispyError):
            error = RemoteProtocolError(
                "what listens there closed the connection",
                hint="check that it is a scheduler's address and port",
            )
        self._fail_first(error)
        if isinstance(error, (AuthenticationError, VersionError)) and not (self._refusal or self.is_closed):
            self._refusal = str(error)
            logger.warning("scheduler %s at %s: %s", self.name, self.address, error)
        self._task = self._loop.create_task(self._redial())

    async def _redial(self) -> None:
        await self._wait()
        await self._dial()

    def _warn(self) -> None:
        if self._broken_at is not None and not self.is_closed:
            logger.warning("%s; jobs go on there", self.why_silent())

    def why_silent(self) -> str:
        """Returns that the scheduler is not reached, in words; empty while it is."""
        if self._broken_at is None:
            return ""
        silent_s = self._clock.monotonic() - self._broken_at
        why = f": {self._refusal}" if self._refusal else ""
        return f"scheduler {self.name} at {self.address} has not been reached for {silent_s:.0f} s{why}"

    def ask(self, question: shared.Question) -> Future[shared.Answer]:
        """Ask the scheduler; the answer has an ``error`` if it is not reached."""
        answer: Future[shared.Answer] = Future()
        if self.connection is None:
            answer.set_result(shared.Answer(0, error=self.why_silent()))
            return answer
        self._last_asked += 1
        self._asked[self._last_asked] = answer
        self.connection.send(shared.Ask(self._last_asked, question))
        return answer

    def flush(self) -> None:
        """Write queued messages now."""
        if self.connection is not None:
            self.connection.flush()

    def linger(self, seconds: float) -> None:
        """End the link if no cluster is open ``seconds`` from now."""
        if self._lingering is not None:
            self._lingering.cancel()
        self._lingering = self._loop.call_later(seconds, self._on_lingered)

    def _on_lingered(self) -> None:
        if not self._is_wanted():
            self.close()

    def close(self, *, forget: bool = True) -> None:
        """End the link. ``forget``: the scheduler ends our jobs; False: it keeps jobs and results."""
        self.is_closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._warning is not None:
            self._warning.cancel()
        if self.connection is not None:
            if forget:
                self.connection.send(shared.Detach())
            self.connection.close()
        elif self._made is not None:
            self._made.abort(ConnectionError("not wanted any more"))
