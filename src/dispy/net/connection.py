"""The shell of one connection: a transport of asyncio, timers and an owner around the machine.

What is said, in which order and within which limits is decided in ``protocol.connection.machine``, whose text has
the states of a connection. Here are the socket's bytes on their way in, and the clock; ``net.sender`` writes what
goes out, ``net.connection_timer`` has the timers.
``Owner.on_ready`` is called when the peer has proved itself, ``Owner.on_closed`` when the connection is closed, from
any state.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from dispy.errors import InternalError
from dispy.net.connection_timer import ConnectionTimer
from dispy.net.loopback import SAME_USER, plain_channel
from dispy.net.sender import Sender
from dispy.protocol import streams
from dispy.protocol.connection.faults import is_of_peer
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.states import HANDLED, PROVEN
from dispy.protocol.handshake import NONCE_SIZE, SAME_SECRET
from dispy.security.identities import Identity
from dispy.security.keys import Keys
from dispy.security.tls import DialerTls, ListenerTls
from dispy.system.addresses import LOOPBACK
from dispy.system.clock import Clock
from dispy.system.wording import of_error, say_fault

logger = logging.getLogger("dispy.net")

FORWARDED = (
    f"{SAME_SECRET}; if they have, something forwards this link (ssh -L, say): that takes TLS on both sides"
)
"""Advice where a proof fails that is bound to both ends' addresses: on loopback without TLS."""


class Owner(Protocol):
    """The object that is told what happens to a connection: a link of a scheduler, or a node's service. All methods
    are called on the loop."""

    def on_ready(self, connection: Connection) -> None:
        """Both sides have proved themselves: messages can be sent from now on. Called once at most."""

    def on_message(self, connection: Connection, message: Any) -> None:
        """The peer has sent a message, decoded; payloads that it refers to have arrived (``take_stream``).

        A ``DispyError`` raised here ends the connection.
        """

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone, because of ``error``; None: one side closed it. Called once, also if it never
        became ready."""


class Connection(asyncio.BufferedProtocol):
    """An authenticated connection that carries messages and payloads.

    Everything runs on the loop, except ``try_send_now``, which any thread may call.

    Args:
        owner: Object that is told what happens to the connection.
        decoder: Decodes the messages that the peer may send; all others end the connection.
        keys: Our keys.
        role: Our role ("client", "node"), whoever dials.
        peer_role: The role that the peer must have; its proof fails otherwise.
        is_dialer: True if we made the connection, whatever our role.
        tls: Encrypts the connection, from its first byte; None: no encryption.
        peer_name: Name of the peer that we dial, as the user wrote it. Its certificate must be for this name, where
            names are checked.
        unix_address: IP address that ``peer_address`` gives for a peer on a Unix socket, which has none: for a
            dialer the one that the node listens on as well.
        on_settled: Called once, when both sides have proved themselves or the connection is gone: a listener counts
            the connection as half open until then. None: nothing is called.
        make_sink: Called with the size (bytes) of each payload that arrives as a stream; returns the sink that takes
            its bytes, and that ``take_stream`` hands out.
        clock: Clock for the pacing of streams, and the time at which derived keys expire.
        farewell: Makes the message that the peer gets before a connection ends by our own fault (a message too large
            to be sent); None: the connection ends without.
    """

    def __init__(
        self,
        owner: Owner,
        decoder: msgspec.msgpack.Decoder[Any],
        keys: Keys,
        role: str,
        peer_role: str,
        *,
        is_dialer: bool,
        tls: ListenerTls | DialerTls | None = None,
        peer_name: str = "",
        unix_address: str = LOOPBACK,
        on_settled: Callable[[Connection], None] | None = None,
        make_sink: Callable[[int], streams.Sink] = streams.MemorySink,
        clock: Clock = time,
        farewell: Callable[[InternalError], Any] | None = None,
    ) -> None:
        self.machine = ConnectionMachine(
            decoder, keys, role, peer_role, is_dialer=is_dialer, tls=tls, peer_name=peer_name,
            make_sink=make_sink, farewell=farewell,
        )  # fmt: skip
        """Machine of the connection. Owners may read it; what changes it goes through this object."""
        self._writable = self.machine.writable
        self._sender = Sender(self.machine, clock, self._on_fault)
        self.owner = owner
        """Object that is told what happens to the connection. Another one may take the connection over once both
        sides have proved themselves."""
        self._is_dialer = is_dialer
        self._unix_address = unix_address
        self._on_settled = on_settled
        self._clock = clock
        self._timer = ConnectionTimer(self.machine, self._sender, asyncio.get_running_loop().call_later)
        self._is_gone = False
        """True once the socket is gone (``connection_lost``)."""
        self.heartbeat = self.machine.heartbeat
        """Signs of life. Owners may read ``pulse_s`` and ``silent_s``, and call ``set_pulse``."""
        self.cipher = self.machine.cipher
        """TLS of the connection, of which owners may read ``has_certificate``; None: it is not encrypted."""
        self.set_pulse = self._timer.set_pulse
        """Function that begins the heartbeat, or changes its interval (seconds). The peer must be told, too."""
        self.peer_address = ""
        """IP address of the peer as text; empty before ``connection_made``."""
        self.peer: Identity | None = None
        """Identity of the peer's derived key, once it has proved itself; None: it has a master secret."""
        self.trace: Callable[[str, Any], None] | None = None
        """Function that logs messages: called with a direction ("is told", "says") and each message that is sent or
        arrives, on the loop or on the thread in ``try_send_now``. None: messages are not logged."""
        self.take_stream = self.machine.incoming.take
        """Function that returns the sink (of ``make_sink``) with the payload that a message refers to by its stream
        number. Call it in ``Owner.on_message``; the caller owns the sink. Raises ``RemoteProtocolError`` if the
        payload is not complete, or there is no such stream."""

        self.count_unsent = self._sender.count_unsent
        """Function that returns the bytes that wait for the socket to take them: many if the peer does not read."""

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sender.open(transport)  # type: ignore[arg-type]  # uvloop's transports are not asyncio's
        peer = transport.get_extra_info("peername")
        self.peer_address = peer[0] if isinstance(peer, tuple) else self._unix_address
        if self._is_dialer:
            self._timer.expect_proof()
        ours = transport.get_extra_info("sockname")
        channel = plain_channel(ours, peer, is_dialer=self._is_dialer) if self.cipher is None else b""
        advice = FORWARDED if len(channel) > len(SAME_USER) else SAME_SECRET
        self.machine.start(secrets.token_bytes(NONCE_SIZE), self._clock.time(), channel, advice)
        if self.machine.has_work():
            self._sender.flush_soon()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._writable()

    def buffer_updated(self, nbytes: int) -> None:
        machine = self.machine
        try:
            machine.received(nbytes)
            while (event := machine.next_event(self._clock.monotonic())) is not None:
                if event is HANDLED:
                    continue
                if event is PROVEN:
                    self._on_proven()
                    continue
                if self.trace is not None:
                    self.trace("says", event)
                self.owner.on_message(self, event)
        except Exception as error:
            if is_of_peer(error):
                machine.refuse(error)
            else:
                self._on_fault(error)
        if machine.has_work():
            # Answers leave now, not at the end of the loop's turn.
            self._sender.flush_guarded()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone = True
        self.machine.closed()
        self._timer.close()
        self._settle()
        self._sender.closed()
        self.owner.on_closed(self, self.error or exc)

    def pause_writing(self) -> None:
        self._sender.pause()

    def resume_writing(self) -> None:
        self._sender.resume()

    def _on_proven(self) -> None:
        self._timer.stop()
        proven = self.machine.proven
        expires = None if proven is None else proven.first_to_expire
        if expires is not None:
            self._timer.end_with(expires, self._clock)
        self.peer = None if proven is None else proven.peer
        self._sender.open_to_threads()
        self._settle()
        self.owner.on_ready(self)

    def _settle(self) -> None:
        on_settled, self._on_settled = self._on_settled, None
        if on_settled is not None:
            on_settled(self)

    # What owners see.

    @property
    def is_ready(self) -> bool:
        """True while messages can be sent: both sides have proved themselves, and the connection has not ended."""
        return self.machine.is_ready

    @property
    def error(self) -> Exception | None:
        """First error because of which we ended the connection; None if we did not."""
        return self.machine.error

    @property
    def is_sending(self) -> bool:
        """True if payloads that we send as streams have not left completely: a node that stops says so only after
        them, and a scheduler reports no standstill, as jobs may wait for them."""
        return self.machine.outgoing.is_sending

    @property
    def bytes_sent(self) -> int:
        """Bytes handed to the socket over this connection, as on the wire: for the user's statistics."""
        return self.machine.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes that have arrived over this connection, as on the wire: for the user's statistics."""
        return self.machine.bytes_received

    def statistics(self) -> dict[str, int]:
        """Returns bytes on the wire so far, and the payloads that are arriving."""
        machine = self.machine
        return {
            "bytes_sent": machine.bytes_sent,
            "bytes_received": machine.bytes_received,
            "payloads_arriving": machine.incoming.count(),
        }

    # Messages.

    def send(self, message: Any) -> None:
        """Queue a message; it leaves at the end of this turn of the loop. On the loop only.

        A message larger than the peer accepts is not sent: the connection ends with ``InternalError``.
        """
        if self.trace is not None:
            self.trace("is told", message)
        self.machine.send(message)
        self._sender.flush_soon()

    def send_streamed(self, parts: list[tuple[Any, str, streams.Source]], message: Any) -> streams.Group:
        """Send one or several large payloads as streams, and after their last byte the message that refers to them.

        Returns at once: the bytes leave as the peer, the line and the socket allow.

        Args:
            parts: For each payload the object in the message that refers to it, the name of that object's
                attribute for the stream number (set here), and the source of the bytes (closed here).
            message: The message; it contains those objects.

        Returns:
            The group of streams, for ``give_up``. A group that is over if the message is too large: the connection
            ends then, as in ``send``.
        """
        group = self.machine.send_streamed(parts, message)
        if self.trace is not None:
            self.trace(f"is told, after {sum([source.size for _, _, source in parts])} bytes,", message)
        self._sender.flush_soon()
        return group

    def give_up(self, group: streams.Group) -> bool:
        """Stop sending a group of streams (of ``send_streamed``), as when its payloads are not needed any more.

        Their message is not sent, and the peer drops the bytes that it has of them.

        Returns:
            False, and nothing is done, if the message has been sent, or cannot be sent any more.
        """
        if self._is_gone or not self.machine.give_up(group):
            return False
        self._sender.flush_soon()
        return True

    def flush(self) -> None:
        """Write queued messages now, not at the end of the loop's turn: saves a turn where latency counts. On the
        loop only."""
        if self.machine.has_work():
            self._sender.flush()

    def try_send_now(self, messages: list[Any]) -> bool:
        """Send messages from any thread, without the loop (``Sender.try_send_now``).

        Returns:
            False, and nothing is sent, if they cannot leave this moment. The caller then has the loop send them.
        """
        if not self._sender.try_send_now(messages):
            return False
        trace = self.trace
        if trace is not None:
            for message in messages:
                trace("is told", message)
        return True

    # The end.

    def refuse(self, error: Exception) -> None:
        """End the connection because of an error, when queued bytes have left. No message is passed on any more.

        A listener sends a dialer that has not proved itself one constant refusal. ``Owner.on_closed`` gets the first
        of several errors.
        """
        self.machine.refuse(error)
        self._sender.flush()

    def fail(self, error: InternalError) -> None:
        """End the connection by a fault of our own. A peer that has proved itself is told (``farewell``); streams are
        given up."""
        self.machine.fail(error)
        self._sender.flush()

    def close(self) -> None:
        """End the connection when all messages queued so far have left. Streams that have not left completely are
        lost, with their messages."""
        self._sender.close()

    def abort(self, error: Exception) -> None:
        """End the connection now; unsent bytes are lost. ``Owner.on_closed`` gets the first of several errors."""
        self.machine.abort(error)
        self._sender.abort()

    def _on_fault(self, error: Exception) -> None:
        """End the connection because of an unexpected exception, which is logged, once, to be reported."""
        say_fault(
            logger,
            "the connection with %s ends by a fault of dispy: what was under way on it may be lost, and the program "
            "counts the node as gone, so its jobs run again elsewhere or end as Abandoned; please report this",
            self.peer_address or "a peer",
            error=error,
        )
        if not isinstance(error, InternalError):
            error = InternalError(f"there is a fault: {of_error(error)}", hint="please report it")
        try:
            self.fail(error)
        except Exception as second:
            self.abort(second)
