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
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from dispy.errors import DispyError, InternalError, RemoteProtocolError, SilenceError
from dispy.protocol import frames, limits, streams
from dispy.protocol.frames import guess_protocol
from dispy.protocol.handshake import NONCE_SIZE, REFUSAL, Handshake
from dispy.protocol.pace import Pace
from dispy.security.tls import Channel, Cipher, DialerTls, ListenerTls, channel_of, explain
from dispy.settings import PULSE_S, SILENT_PULSES
from dispy.system.clock import Clock

HANDSHAKE_S = 5.0
"""From connect to proof: generous on a loaded machine, short for a stranger."""

WRITE_HIGH = 2 * limits.MIB
"""Bytes in the socket's queue above which no chunk is added: what a cancel may wait behind."""

STRANGER_BYTES_MAX = 64 * limits.KIB
"""All that a peer may send before TLS stands, for a chain of certificates; a buffer more before its proof."""

TICKS = 2
"""Looks at a connection per pulse interval."""

SILENT_TICKS = TICKS * SILENT_PULSES - 1
"""Looks in a row without a word from the peer that are silence: the time since lies between that and one more,
so that the last one is left for dialing anew."""

STRANGER_BUFFER = 4 * limits.KIB
_PEER_BUFFER = 128 * limits.KIB
"""Encrypted bytes read at once, before the proof and after it."""

Payload = bytes | bytearray | memoryview

_encode = msgspec.msgpack.Encoder().encode


class Owner(Protocol):
    """Who is told what happens to a connection."""

    def on_ready(self, connection: Connection) -> None:
        """Both sides have proved themselves."""

    def on_message(self, connection: Connection, message: Any) -> None:
        """The peer said something."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone; told once, also when it never became ready."""


class Connection(asyncio.BufferedProtocol):
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
        self._on_settled = on_settled
        self._owner = owner
        self._decode = decoder.decode
        self._identity = (key, role, peer_role)
        self._is_dialer = is_dialer
        self._tls = tls
        self._cipher: Cipher | None = None
        if tls is not None:
            self._cipher = tls.cipher(peer_name) if isinstance(tls, DialerTls) else tls.cipher()
        self._received = memoryview(bytearray(STRANGER_BUFFER)) if tls is not None else memoryview(b"")
        """Where encrypted bytes arrive."""
        self._handshake: Handshake | None = None
        self._incoming = streams.IncomingStreams(make_sink)
        self._reader = frames.FrameReader(self._on_frame, limits.HANDSHAKE_FRAME_MAX, self._incoming.room)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes | memoryview] = []
        self._left = b""
        """What the socket did not take at once, as it goes onto the wire."""
        self._lock = threading.Lock()
        """Guards the order of bytes on the socket between the loop and ``try_send_now``."""
        self._socket: socket.socket | None = None
        self._is_flushing = False
        self._is_paused = False
        self._outgoing: dict[int, streams.OutgoingStream] = {}
        self._pace = Pace()
        self._clock = clock
        self._farewell = farewell
        self._is_oldest_due = True
        self._next_stream = 1
        self.error: Exception | None = None
        """Why we ended it."""
        self._stranger_max = STRANGER_BYTES_MAX
        self._first = b""
        """The first bytes of the peer, to tell what it is if it is no peer."""
        self._is_closed = False
        self.is_ready = False
        """Both sides have proved themselves: messages can be sent."""
        self._is_proven = False
        """It was ready once."""
        self.pulse_s = PULSE_S
        self._tick: asyncio.TimerHandle | None = None
        self._has_received = False
        self._silent_ticks = 0
        self._has_sent = False
        self.bytes_received = 0
        self.bytes_sent = 0
        self.peer_address = ""
        self.trace: Callable[[str, Any], None] | None = None
        """Called with an arrow and each message, while somebody wants to see them."""

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
        self._has_received = True
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
        if self._tick is not None:
            self._tick.cancel()
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

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

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

    def _now_us(self) -> int:
        return int(self._clock.monotonic() * 1e6)

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

    # Sending.

    def send(self, message: Any) -> None:
        """Queue a message; it leaves at the end of this turn of the loop.

        One that is larger than a peer takes is not sent: the connection ends with ``InternalError``, since the
        peer would end it, and nobody would know why it does so again and again.
        """
        if self.trace is not None:
            self.trace("is told", message)
        body = _encode(message)
        if len(body) > limits.CONTROL_FRAME_MAX:
            self._end_with_too_large(message, len(body))
            return
        self._write(frames.header(frames.CONTROL, len(body)))
        self._out.append(body)

    def send_streamed(self, parts: list[tuple[Any, str, streams.Source]], message: Any) -> streams.Group:
        """Send one or several large payloads, and after the last byte of all the message that refers to them.

        Args:
            parts: For each payload the object that refers to it, the name of the attribute that is
                set to the stream's number here, and where the bytes are.
            message: Contains those objects.

        Returns:
            What ``give_up`` takes.
        """
        numbers = range(self._next_stream, self._next_stream + len(parts))
        self._next_stream += len(parts)
        for number, (holder, attribute, _) in zip(numbers, parts, strict=True):
            setattr(holder, attribute, number)
        if self.trace is not None:
            self.trace(f"is told, after {sum([source.size for _, _, source in parts])} bytes,", message)
        body = _encode(message)
        if len(body) > limits.CONTROL_FRAME_MAX:
            for _, _, source in parts:
                source.close()
            self._end_with_too_large(message, len(body))
            return streams.Group([], b"")
        # Streams of one connection overtake each other, so the message goes with the one that ends last.
        group = streams.Group(numbers, body)
        for number, (_, _, source) in zip(numbers, parts, strict=True):
            self._outgoing[number] = stream = streams.OutgoingStream(number, source, group)
            self._write(frames.open_frame(number, source.size))
            if stream.is_done():  # there is nothing in it
                self._write_control(self._end_stream(stream))
        return group

    def _end_with_too_large(self, message: Any, size: int) -> None:
        if not self.is_ready:
            return  # it ends already
        error = InternalError(
            f"a {type(message).__name__} of {size} bytes was to be sent; {limits.CONTROL_FRAME_MAX} are allowed",
            hint="this is a fault of dispy: please report it",
        )
        if self._farewell is not None:
            self._write_control(_encode(self._farewell(error)))
        self.refuse(error)

    def give_up(self, group: streams.Group) -> bool:
        """Do not send what has not gone of some streams, nor their message; False if that has gone."""
        if group.is_over() or self._is_closed:
            return False
        group.give_up()
        for number in group.numbers:
            self._drop_stream(number)
            self._write(frames.header(frames.ABORT, 0, number))
        return True

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

    @property
    def is_sending(self) -> bool:
        """Whether payloads are on their way out."""
        return bool(self._outgoing)

    def flush(self) -> None:
        """Write what is queued now, not at the end of the loop's turn: saves a turn where latency counts."""
        if self._out:
            self._flush()

    def try_send_now(self, messages: list[Any]) -> bool:
        """Send messages from any thread, without the loop; False, and nothing is sent, if it is not idle.

        Spares a sequence of single jobs the wake-up of the loop's thread: 60 us of some 500.
        """
        with self._lock:
            transport = self._transport
            if self._socket is None or transport is None or not self.is_ready:
                return False
            if self._out or self._outgoing or self._left or transport.get_write_buffer_size():
                return False
            bodies = [_encode(message) for message in messages]
            if any(len(body) > limits.CONTROL_FRAME_MAX for body in bodies):
                return False
            data = b"".join(
                [part for body in bodies for part in (frames.header(frames.CONTROL, len(body)), body)]
            )
            if self._cipher is not None:
                try:
                    data = self._cipher.encrypt(data)
                except ssl.SSLError:
                    return False
            try:
                sent = self._socket.send(data)
            except OSError:
                # Full, or broken: the loop will find out which.
                sent = 0
            self._has_sent = True
            self.bytes_sent += sent
            if sent < len(data):
                self._left = data[sent:]
                self._loop.call_soon_threadsafe(self._flush)
        trace = self.trace
        if trace is not None:
            for message in messages:
                trace("is told", message)
        return True

    def _write_control(self, body: bytes | None) -> None:
        if body is not None:
            self._write(frames.header(frames.CONTROL, len(body)))
            self._out.append(body)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._is_flushing = False
        self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or self._is_closed:
            self._out.clear()
            return
        if self._out or self._left:
            with self._lock:
                data = b"".join(self._out)
                self._out.clear()
                self._transmit(data)
        while self._outgoing and not self._is_paused and not self._is_closed:
            if not self._write_chunks():
                break

    def _transmit(self, data: bytes | memoryview) -> None:
        """Hand bytes to the socket in their order; the lock is held."""
        self._has_sent = True
        self.bytes_sent += len(data)
        if self._cipher is not None and data:
            try:
                data = self._cipher.encrypt(data)
            except ssl.SSLError:  # the peer has ended it; we shall hear of it
                return
        self._write_raw(data)

    def _write_raw(self, data: bytes | memoryview) -> None:
        transport = self._transport
        assert transport is not None
        if self._left:
            left, self._left = self._left, b""
            transport.write(left)
        if data:
            transport.write(data)

    def _write_chunks(self) -> bool:
        """One chunk of one stream; False if none may go."""
        stream = self._choose()
        size_max = self._pace.chunk_max() if stream is not None else 0
        if stream is None or not size_max:
            return False
        chunk = stream.next_chunk(size_max)
        self._pace.sent(len(chunk), self._now_us())
        head = frames.header(frames.CHUNK, len(chunk), stream.number)
        with self._lock:
            if self._cipher is None and not self._left:
                self._has_sent = True
                self.bytes_sent += len(head) + len(chunk)
                assert self._transport is not None
                self._transport.writelines([head, chunk])
            else:
                self._transmit(head)
                self._transmit(chunk)
        if stream.is_done():
            body = self._end_stream(stream)
            if body is not None:
                with self._lock:
                    self._transmit(frames.header(frames.CONTROL, len(body)) + body)
        return True

    def _end_stream(self, stream: streams.OutgoingStream) -> bytes | None:
        """All of it has gone; returns the message that goes with it."""
        self._drop_stream(stream.number)
        return stream.group.stream_done()

    def _drop_stream(self, number: int) -> None:
        stream = self._outgoing.pop(number, None)
        if stream is not None:
            stream.source.close()

    def _choose(self) -> streams.OutgoingStream | None:
        """Which stream goes on: the oldest and the one with the least left by turns.

        In turns over all of them, all would arrive when the last does, and workers would wait for it. What
        is small passes what is large, which never stands still.
        """
        ready = [stream for stream in self._outgoing.values() if stream.is_ready()]
        if len(ready) < 2:
            return ready[0] if ready else None
        self._is_oldest_due = not self._is_oldest_due
        return ready[0] if self._is_oldest_due else min(ready, key=streams.OutgoingStream.left)

    @property
    def is_streaming(self) -> bool:
        """Whether streams of ours are under way."""
        return bool(self._outgoing)

    @property
    def silent_s(self) -> float:
        """How long the peer has said nothing (seconds), to half an interval."""
        return self._silent_ticks * self.pulse_s / TICKS

    def set_pulse(self, pulse_s: float) -> None:
        """Watch the peer from now on, and show it that we are there.

        Args:
            pulse_s: A sign of life is sent and expected at least so often (seconds). A peer that is silent for
                five times so long is given up: the connection ends with ``SilenceError``.
        """
        self.pulse_s = pulse_s
        if self._tick is not None:
            self._tick.cancel()
        if not self._is_closed:
            self._tick = self._loop.call_later(pulse_s / TICKS, self._on_tick)

    def _on_tick(self) -> None:
        """Look whether anything was heard and said since the last time.

        Our own looks are counted and not the clock: time in which we did not run is not held against the peer.
        """
        self._silent_ticks = 0 if self._has_received else self._silent_ticks + 1
        self._has_received = False
        if self._silent_ticks >= SILENT_TICKS:
            self.abort(SilenceError(f"silent for {self.pulse_s * SILENT_PULSES:g} s"))
            return
        if not self._has_sent and self.is_ready:
            self._write(frames.PING_FRAME)
        self._has_sent = False
        self._tick = self._loop.call_later(self.pulse_s / TICKS, self._on_tick)

    def close(self) -> None:
        """End the connection after what was written so far."""
        if self._transport is not None and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self, error: Exception) -> None:
        """End the connection now."""
        self.error = self.error or error
        if self._transport is not None:
            self._transport.abort()
