"""One connection: bytes of a socket to messages of a peer that has proved itself. The sending half is ``net.sender``.

The states of a connection, in order:

    state     accepts                          ends when                      next state
    TLS       records of TLS, up to 64 KiB     TLS stands                     proof
    proof     one small frame at a time        both sides know the secret     ready
    ready     frames of any kind               the socket is closed           closed

Without TLS a connection begins in *proof*. Any error in any state ends the connection (``refuse``). A listener then
sends a dialer that has not proved itself one constant refusal; in all other cases nothing is sent. ``Owner.on_ready``
is called when *ready* begins, ``Owner.on_closed`` when the connection is closed, from any state. Five seconds are
allowed until *ready*: the dialer counts them here, the listener in ``net.listener``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from dispy.errors import DispyError, InternalError, RemoteProtocolError
from dispy.net.loopback import SAME_USER, plain_channel
from dispy.net.sender import Sender
from dispy.protocol import frames, limits, streams
from dispy.protocol.frames import guess_protocol
from dispy.protocol.handshake import NONCE_SIZE, REFUSAL, SAME_SECRET, Handshake
from dispy.security.tls import Channel, Cipher, DialerTls, ListenerTls, explain
from dispy.system.addresses import LOOPBACK
from dispy.system.clock import Clock

FORWARDED = (
    f"{SAME_SECRET}; if they have, something forwards this link (ssh -L, say): that takes TLS on both sides"
)
"""Advice where a proof fails that is bound to both ends' addresses: on loopback without TLS."""

HANDSHAKE_S = 5.0
"""Seconds that are allowed from connect (dialer) or accept (listener) to proof; then the connection is refused.
Generous on a loaded machine, short for a stranger."""

WRITE_HIGH = 2 * limits.MIB
"""Bytes in the transport's buffer above which no chunk is added until it has drained (back-pressure): a cancel has to
wait behind them. Messages are added in any case."""

STRANGER_BYTES_MAX = 64 * limits.KIB
"""Bytes that a peer may send before TLS stands: enough for a chain of certificates. From then to its proof it may
send ``STRANGER_BUFFER`` bytes more. Without TLS this is the limit up to the proof. Beyond it the connection is
refused."""

STRANGER_BUFFER = 4 * limits.KIB
"""Encrypted bytes read at once before the proof: size of the buffer that a stranger costs."""
_PEER_BUFFER = 128 * limits.KIB
"""Encrypted bytes read at once after the proof."""


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


class Connection(Sender):
    """An authenticated connection that carries messages and payloads.

    Everything runs on the loop, except ``try_send_now``, which any thread may call.

    Args:
        owner: Object that is told what happens to the connection.
        decoder: Decodes the messages that the peer may send; all others end the connection.
        key: The shared secret (32 bytes).
        role: Our role ("client", "node").
        peer_role: The role that the peer must have; its proof fails otherwise.
        is_dialer: True if we made the connection.
        tls: Encrypts the connection, from its first byte; None: no encryption.
        peer_name: Name of the peer that we dial, as the user wrote it. Its certificate must be for this name, where
            names are checked.
        unix_address: IP address that ``peer_address`` gives for a peer on a Unix socket, which has none: for a
            dialer the one that the node listens on as well.
        on_settled: Called once, when both sides have proved themselves or the connection is gone: a listener counts
            the connection as half open until then. None: nothing is called.
        make_sink: Called with the size (bytes) of each payload that arrives as a stream; returns the sink that takes
            its bytes, and that ``take_stream`` hands out.
        clock: Clock for the pacing of streams.
        farewell: Makes the message that the peer gets before a connection ends by our own fault (a message too large
            to be sent); None: the connection ends without.
    """

    def __init__(
        self,
        owner: Owner,
        decoder: msgspec.msgpack.Decoder[Any],
        key: bytes,
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
        cipher: Cipher | None = None
        if tls is not None:
            cipher = tls.cipher(peer_name) if isinstance(tls, DialerTls) else tls.cipher()
        super().__init__(cipher, clock, farewell)
        self._on_settled = on_settled
        self._owner = owner
        self._decode = decoder.decode
        self._identity = (key, role, peer_role)
        self._is_dialer = is_dialer
        self._tls = tls
        self._received = memoryview(bytearray(STRANGER_BUFFER)) if tls is not None else memoryview(b"")
        """Memory that encrypted bytes are read into, then decrypted from; empty without TLS."""
        self._handshake: Handshake | None = None
        """The handshake of dispy (not of TLS) while it runs; None before and after."""
        self._incoming = streams.IncomingStreams(make_sink)
        self._reader = frames.FrameReader(self._on_frame, limits.HANDSHAKE_FRAME_MAX, self._incoming.room)
        self._deadline: asyncio.TimerHandle | None = None
        """Timer of a dialer that refuses a peer without proof after ``HANDSHAKE_S``. None: the connection is not made
        yet, or we are the listener, whose timer is in ``net.listener``."""
        self._stranger_max = STRANGER_BYTES_MAX
        """Value of ``bytes_received`` above which a peer without proof is refused."""
        self._first = b""
        """The peer's first bytes, up to 16, to name its protocol in an error if it does not speak dispy's. With TLS
        they are the first encrypted bytes; once TLS stands, the first decrypted ones."""
        self._is_proven = False
        """True once the peer has proved itself; stays True when the connection ends. Decides how errors are
        worded."""
        self.bytes_received = 0
        """Bytes that have arrived over this connection, as on the wire (encrypted, with TLS)."""
        self.peer_address = ""
        """IP address of the peer as text; empty before ``connection_made``."""
        self._unix_address = unix_address

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's
        transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[attr-defined]  # same
        peer = transport.get_extra_info("peername")
        self.peer_address = peer[0] if isinstance(peer, tuple) else self._unix_address
        if self._is_dialer:
            self._deadline = self._loop.call_later(HANDSHAKE_S, self._on_deadline)
        if self._cipher is None:
            ours = transport.get_extra_info("sockname")
            channel = plain_channel(ours, peer, is_dialer=self._is_dialer)
            self._begin_proof(channel, FORWARDED if len(channel) > len(SAME_USER) else SAME_SECRET)
        elif self._is_dialer:
            self._cipher.feed(b"")
            self._write_raw(self._cipher.pending())

    def _begin_proof(self, channel: Channel, advice: str = SAME_SECRET) -> None:
        nonce = secrets.token_bytes(NONCE_SIZE)
        self._handshake = Handshake(
            *self._identity, nonce, is_dialer=self._is_dialer, channel=channel, advice=advice
        )
        self._write_control(self._handshake.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.writable() if self._cipher is None else self._received

    def buffer_updated(self, nbytes: int) -> None:
        self._heartbeat.has_received = True
        self.bytes_received += nbytes
        if not self.is_ready and self.bytes_received > self._stranger_max:
            self.refuse(RemoteProtocolError("too much before the proof"))
            return
        if not self._first and (self._cipher is None or not self._cipher.is_established):
            self._first = bytes(self.get_buffer(0)[: min(nbytes, frames.HEADER_SIZE)])
        try:
            if self._cipher is None:
                self._reader.received(nbytes)
            else:
                self._decrypt(self._cipher, self._received[:nbytes])
        except ssl.SSLError as error:
            self.refuse(self._explain_tls(error))
        except (DispyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.refuse(self._explain(error))
        except Exception as error:
            self.on_fault(error)
        if self._out:
            # Answers leave now, not at the end of the loop's turn.
            self._flush_guarded()

    def _decrypt(self, cipher: Cipher, data: memoryview) -> None:
        was_established = cipher.is_established
        with self._lock:
            try:
                cipher.feed(data)
            finally:
                if cipher.has_pending:
                    self._write_raw(cipher.pending())
        if cipher.is_established and not was_established:
            self._first = b""
            self._stranger_max = self.bytes_received + STRANGER_BUFFER
            tls = self._tls
            assert tls is not None
            self._begin_proof(tls.channel_of(cipher))
        while cipher.has_more and not self._is_closed:
            with self._lock:
                size = cipher.read_into(self._reader.writable())
            if not size:
                break
            if not self._first:
                self._first = bytes(self._reader.writable()[: min(size, frames.HEADER_SIZE)])
            self._reader.received(size)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.error is None and self._is_dialer and not self._is_proven:
            self._tell_stranger()
        self._is_closed = True
        self.is_ready = False
        self._heartbeat.stop()
        self._settle()
        for number in list(self._outgoing):
            self._drop_stream(number)
        self._reader.close()
        self._incoming.close()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        self._owner.on_closed(self, self.error or exc)

    def _tell_stranger(self) -> None:
        """Set ``error`` to a text with the protocol of a peer that hung up before its proof, if its first bytes show
        another one than dispy's: the user has probably given a wrong port."""
        if self._first and guess_protocol(self._first) not in ("dispy's protocol", "another protocol"):
            if self._cipher is None:
                self.error = self._explain(RemoteProtocolError("it ended"))

    # Frames.

    def _on_frame(self, kind: int, stream: int, body: memoryview) -> None:
        if kind == frames.CONTROL:
            if self.is_ready:
                message = self._decode(body)
                if self.trace is not None:
                    self.trace("says", message)
                self._owner.on_message(self, message)
            elif self._handshake is not None:
                self._on_handshake(self._handshake, body)
        elif kind == frames.PLACED:
            self._incoming.placed(stream, len(body))
            self._write(frames.grant_frame(stream, len(body), self._now_us()))
        elif kind == frames.CHUNK:
            self._incoming.chunk(stream, body)
            self._write(frames.grant_frame(stream, len(body), self._now_us()))
        elif kind == frames.OPEN:
            self._incoming.open(stream, frames.read_open(body))
        elif kind == frames.GRANT:
            self._on_grant(stream, *frames.read_grant(body))
        elif kind == frames.ABORT:
            self._incoming.abort(stream)

    def _on_grant(self, stream: int, count: int, arrived_us: int) -> None:
        self._pace.granted(count, arrived_us, self._now_us())
        outgoing = self._outgoing.get(stream)
        if outgoing is not None:
            outgoing.window = min(outgoing.window + count, limits.STREAM_WINDOW)
        if self._outgoing:
            self._schedule_flush()

    def _on_handshake(self, handshake: Handshake, body: memoryview) -> None:
        self._write_control(handshake.receive(body))
        if not handshake.done:
            return
        self._handshake = None
        self.is_ready = self._is_proven = True
        self._reader.widen()
        assert self._transport is not None
        with contextlib.suppress(OSError):
            # We write on a descriptor of our own: the transport may close its own while another thread writes.
            descriptor = self._transport.get_extra_info("socket").fileno()
            self._socket = socket.socket(fileno=socket.dup(descriptor))
            self._socket.setblocking(False)
        if self._cipher is not None:
            self._received = memoryview(bytearray(_PEER_BUFFER))
        self._settle()
        self._owner.on_ready(self)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        on_settled, self._on_settled = self._on_settled, None
        if on_settled is not None:
            on_settled(self)

    def _on_deadline(self) -> None:
        self.refuse(RemoteProtocolError(f"no proof within {HANDSHAKE_S:g} s"))

    def _explain_tls(self, error: ssl.SSLError) -> Exception:
        if isinstance(error, ssl.SSLZeroReturnError):
            return RemoteProtocolError("the peer ended the connection")
        if self._is_proven:
            # The bytes were damaged on their way. The owner can dial again.
            return RemoteProtocolError(f"what came was changed on its way: {error.reason or error}")
        return explain(error, self._is_dialer)

    def _explain(self, error: Exception) -> Exception:
        """Returns the error to end a connection with: for a peer without proof that broke the protocol, an error that
        names the protocol it speaks; otherwise ``error`` itself."""
        if self.is_ready or not isinstance(error, RemoteProtocolError):
            return error
        said = guess_protocol(self._first)
        if not self._is_dialer:
            return RemoteProtocolError(f"{said} before the proof: {error}")
        hint = "give tls=True" if said == "TLS" else "check its address and port"
        role = self._identity[2]
        return RemoteProtocolError(f"what answers there speaks {said} and is no {role} of dispy", hint=hint)

    def refuse(self, error: Exception) -> None:
        """End the connection because of an error, when queued bytes have left. No message is passed on any more.

        A listener sends a dialer that has not proved itself one constant refusal. ``Owner.on_closed`` gets the first
        of several errors.
        """
        if self.error is None:
            self.error = error
            if self._handshake is not None and not self._is_dialer:
                self._write_control(REFUSAL)
        # Frames that have arrived already, and those that still come, are ignored.
        self._handshake = None
        self.is_ready = False
        self.close()

    def take_stream(self, number: int) -> Any:
        """Returns the sink (of ``make_sink``) with the payload that a message refers to by its stream number.

        The caller owns the sink: it can be taken once.

        A payload that no message takes stays in memory until the connection ends.

        Raises:
            RemoteProtocolError: The payload is not complete, or there is no such stream.
        """
        return self._incoming.take(number)

    @property
    def is_encrypted(self) -> bool:
        """True if the connection is encrypted with TLS."""
        return self._cipher is not None

    @property
    def has_certificate(self) -> bool:
        """True if the peer has shown a certificate, and we have checked it (``security.tls``)."""
        return self._cipher is not None and self._cipher.has_certificate

    # The peer's heartbeat.

    @property
    def pulse_s(self) -> float:
        """Heartbeat interval of this connection (seconds), as ``set_pulse`` has set it last; before,
        ``settings.PULSE_S``."""
        return self._heartbeat.pulse_s

    @property
    def silent_s(self) -> float:
        """Seconds since the peer's last byte, in steps of half a heartbeat interval; 0.0 before ``set_pulse``."""
        return self._heartbeat.silent_s

    def set_pulse(self, pulse_s: float) -> None:
        """Begin the heartbeat, or change its interval. The caller must tell the peer this interval (``SetPulse``).

        Args:
            pulse_s: Heartbeat interval (seconds): a sign of life is sent, and expected, in each. The connection
                ends with ``SilenceError`` if the peer is silent for five intervals.
        """
        self._heartbeat.start(pulse_s)
