"""One connection: bytes of a socket to messages of a peer that has proved itself, and back.

Before the proof it takes one small frame at a time and nothing else. After it,
messages queued during one turn of the loop leave in one write; streams go between them, a chunk
at a time, as far as the peer grants, the pace allows and the socket takes.
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
from dispy.net.sender import Sender
from dispy.protocol import frames, limits, streams
from dispy.protocol.frames import guess_protocol
from dispy.protocol.handshake import NONCE_SIZE, REFUSAL, Handshake
from dispy.security.tls import Channel, Cipher, DialerTls, ListenerTls, channel_of, explain
from dispy.system.clock import Clock

HANDSHAKE_S = 5.0
"""From connect to proof: generous on a loaded machine, short for a stranger."""

WRITE_HIGH = 2 * limits.MIB
"""Bytes in the socket's queue above which no chunk is added: what a cancel may wait behind."""

STRANGER_BYTES_MAX = 64 * limits.KIB
"""All that a peer may send before TLS stands, for a chain of certificates; a buffer more before its proof."""

STRANGER_BUFFER = 4 * limits.KIB
_PEER_BUFFER = 128 * limits.KIB
"""Encrypted bytes read at once, before the proof and after it."""


class Owner(Protocol):
    """Who is told what happens to a connection."""

    def on_ready(self, connection: Connection) -> None:
        """Both sides have proved themselves."""

    def on_message(self, connection: Connection, message: Any) -> None:
        """The peer said something."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone; told once, also when it never became ready."""


class Connection(Sender):
    """A framed, authenticated connection.

    Args:
        owner: Whom to tell.
        decoder: Of the messages that the peer may send.
        key: The shared secret.
        role: What we are ("client", "node").
        peer_role: What the peer must be.
        is_dialer: Whether we made the connection.
        tls: Encrypts the connection, from its first byte; None: nothing does.
        peer_name: What we dial, as the user calls it.
        on_settled: Told once, when both sides have proved themselves or the connection is gone.
        make_sink: Where payloads go that arrive as streams, from their sizes.
        clock: What streams are paced by.
        farewell: Makes what a peer is told before a connection ends by our own fault.
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
        """Where encrypted bytes arrive."""
        self._handshake: Handshake | None = None
        self._incoming = streams.IncomingStreams(make_sink)
        self._reader = frames.FrameReader(self._on_frame, limits.HANDSHAKE_FRAME_MAX, self._incoming.room)
        self._deadline: asyncio.TimerHandle | None = None
        self._stranger_max = STRANGER_BYTES_MAX
        self._first = b""
        """The first bytes of the peer, to tell what it is if it is no peer."""
        self._is_proven = False
        """It was ready once."""
        self.bytes_received = 0
        self.peer_address = ""

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's
        transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[attr-defined]  # same
        peer = transport.get_extra_info("peername")
        self.peer_address = peer[0] if isinstance(peer, tuple) else ""
        if self._is_dialer:
            self._deadline = self._loop.call_later(HANDSHAKE_S, self._on_deadline)
        if self._cipher is None:
            self._begin_proof(b"")
        elif self._is_dialer:
            self._cipher.feed(b"")
            self._write_raw(self._cipher.pending())

    def _begin_proof(self, channel: Channel) -> None:
        self._handshake = Handshake(
            *self._identity, secrets.token_bytes(NONCE_SIZE), is_dialer=self._is_dialer, channel=channel
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
        if self._out:
            # Answers leave at once.
            self._flush()

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
            self._begin_proof(channel_of(cipher, tls.pinned) if isinstance(tls, DialerTls) else tls.channel)
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
        """It said a little and went away: perhaps that tells what it is."""
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
            # A descriptor of our own: the transport may close its own while another thread writes.
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
            # Damage on the way: the link is made anew.
            return RemoteProtocolError(f"what came was changed on its way: {error.reason or error}")
        return explain(error, self._is_dialer)

    def _explain(self, error: Exception) -> Exception:
        """What a stranger did, in the words of somebody who has to find out whose fault it is."""
        if self.is_ready or not isinstance(error, RemoteProtocolError):
            return error
        said = guess_protocol(self._first)
        if not self._is_dialer:
            return RemoteProtocolError(f"{said} before the proof: {error}")
        hint = "give tls=True" if said == "TLS" else "check its address and port"
        role = self._identity[2]
        return RemoteProtocolError(f"what answers there speaks {said} and is no {role} of dispy", hint=hint)

    def refuse(self, error: Exception) -> None:
        """End the connection; a stranger is told one constant thing."""
        if self.error is None:
            self.error = error
            if self._handshake is not None and not self._is_dialer:
                self._write_control(REFUSAL)
        # What was said before, or what comes behind it, is not heard any more.
        self._handshake = None
        self.is_ready = False
        self.close()

    def take_stream(self, number: int) -> Any:
        """The sink with the payload that a message refers to."""
        return self._incoming.take(number)

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self._cipher is not None

    @property
    def has_certificate(self) -> bool:
        """Whether the peer has shown a certificate that we have checked."""
        return self._cipher is not None and self._cipher.has_certificate

    # The peer's heartbeat.

    @property
    def pulse_s(self) -> float:
        """Heartbeat interval (seconds)."""
        return self._heartbeat.pulse_s

    @property
    def silent_s(self) -> float:
        """How long the peer has said nothing (seconds), to half an interval."""
        return self._heartbeat.silent_s

    def set_pulse(self, pulse_s: float) -> None:
        """Watch the peer from now on, and show it that we are there.

        Args:
            pulse_s: A sign of life is sent and expected at least so often (seconds). A peer that is silent for
                five times so long is given up: the connection ends with ``SilenceError``.
        """
        self._heartbeat.start(pulse_s)
