"""The machine of one connection: bytes and the time in, messages and bytes out. No socket, clock, thread or loop.

``ConnectionMachine`` puts the parts together: TLS (``security.tls``), the proof of the secret
(``protocol.handshake``), frames, streams in both directions, the heartbeat. Its shell is ``net.connection``; tests
and fuzzers drive it without one. What the caller MUST do, in this order:

    start        ``start``, then send ``data_to_send``.
    bytes came   They are in ``writable()``. Call ``received``, then ``next_event`` until it returns None. Handle each
                 event before asking for the next: take the streams of a message at once (``incoming.take``), as the
                 peer may open others in their place. Then send.
    send         ``data_to_send``, and as long as the socket takes more ``next_chunk``, until it is empty. Call both
                 after each of the methods that queue something: ``next_event``, ``send``, ``send_streamed``,
                 ``give_up``, ``look``, ``refuse``, ``fail``. Bytes must leave in the order in which they came.
    time         ``look`` every ``heartbeat.tick_s`` seconds, from ``PROVEN`` on. A peer that has not proved itself
                 within ``stranger.HANDSHAKE_S`` must be refused: ``refuse``.
    end          Once ``is_over``: send ``data_to_send``, close the socket; no event comes any more. When the socket
                 is gone, whoever closed it: ``closed``, once.

The states, in order:

    state    accepts                          sends                 ends when                 next
    TLS      records of TLS, up to 64 KiB     records of TLS        TLS stands                PROOF
    PROOF    one control frame of 512 bytes   the handshake         both know the secret      READY
             at a time: 4 KiB after TLS, or
             64 KiB without it
    READY    frames of any kind               all kinds             see below                 ENDED
    ENDED    nothing: bytes are ignored       what was queued       for good

Without TLS a connection begins in PROOF. From every state it goes to ENDED by:

    what                     by                          ``error``                          sent last
    the peer broke a rule    ``received``,               RemoteProtocolError, or            in PROOF, by a listener:
                             ``next_event``              what the handshake says            REFUSAL; else nothing
    the owner refuses        ``refuse``                  as given                           the same
    we broke a rule          ``send``, ``fail``          InternalError                      ``farewell``, in READY
    we have a fault          ``fail``, by whom it is     InternalError                      ``farewell``, in READY
                             raised to
    the peer is silent       ``look``                    SilenceError                       nothing
    the owner gives up       ``abort``                   as given                           nothing
    the socket is gone       ``closed``                  of a wrong protocol, or none       nothing

Rules:

1. A stranger gets little: one frame of 512 bytes at a time, 64 KiB in all with TLS (certificates), 5 kB of memory.
   A listener says no more to a stranger than a challenge and one constant refusal.
2. Who dials (``is_dialer``: the client of TLS, says Hello) and who is what (``role``) are separate, and both free.
3. Messages leave in the order in which they were sent. The message of streams leaves behind its last chunk, so
   messages sent later may pass it.
4. Each chunk is answered with a GRANT. At most 8 MiB of a stream are under way without one, and of all together what
   ``protocol.pace`` allows.
5. At most 4,096 streams are open in one direction: a receiver refuses more, a sender waits (``outgoing_streams``).
6. A message is at most 8 MiB long. A sender ends the connection itself that would have to send a longer one.
7. Two looks per heartbeat interval; nine in a row without a byte end the connection.

Threads: ``data_now`` and ``heartbeat.has_sent`` are for any thread, if the caller has a lock around each of
``data_now``, ``data_to_send``, ``next_chunk`` and the write that follows. All else belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dispy.errors import AuthenticationError, InternalError, RemoteProtocolError, SilenceError
from dispy.protocol import frames, limits, streams
from dispy.protocol.connection.faults import is_of_peer, too_large
from dispy.protocol.connection.heartbeat import Heartbeat
from dispy.protocol.connection.outgoing_streams import Frames, OutgoingStreams
from dispy.protocol.connection.states import HANDLED, PROVEN, Signal, State
from dispy.protocol.connection.stranger import BUFFER, Stranger
from dispy.protocol.handshake import REFUSAL, SAME_SECRET, Handshake
from dispy.protocol.history import History
from dispy.security.keys import Keys
from dispy.security.tls import Channel, Cipher, DialerTls, ListenerTls, TlsError, explain

_PEER_BUFFER = 128 * limits.KIB
"""Encrypted bytes read at once after the proof."""

_encode = msgspec.msgpack.Encoder().encode


class ConnectionMachine:
    """One side of a connection. The text of the module says which method must follow which.

    Args:
        decoder: Decodes the messages that the peer may send; all others end the connection.
        keys: Our keys.
        role: Our role ("client", "node"), whoever dials.
        peer_role: The role that the peer must have; its proof fails otherwise.
        is_dialer: True if we made the connection, whatever our role.
        tls: Encrypts the connection, from its first byte: of a dialer if ``is_dialer``. None: no encryption.
        peer_name: Name of the peer that we dial, as the user wrote it. Its certificate must be for this name, where
            names are checked.
        make_sink: Called with the size (bytes) of each payload that arrives as a stream; returns the sink that takes
            its bytes, and that ``incoming.take`` hands out.
        farewell: Makes the message that the peer gets before a connection ends by our own fault (a message too large
            to be sent); None: the connection ends without.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Any],
        keys: Keys,
        role: str,
        peer_role: str,
        *,
        is_dialer: bool,
        tls: ListenerTls | DialerTls | None = None,
        peer_name: str = "",
        make_sink: Callable[[int], streams.Sink] = streams.MemorySink,
        farewell: Callable[[InternalError], Any] | None = None,
    ) -> None:
        self._decode = decoder.decode
        self._role = role
        self._is_dialer = is_dialer
        self._farewell = farewell
        self._tls = tls
        self.cipher: Cipher | None = None
        """TLS of this connection; None: it is not encrypted. Read its properties only."""
        self._received = memoryview(b"")
        """Memory that encrypted bytes are read into, then decrypted from; empty without TLS."""
        if tls is not None:
            self.cipher = tls.cipher(peer_name) if isinstance(tls, DialerTls) else tls.cipher()
            self._received = memoryview(bytearray(BUFFER))
        self.state = State.PROOF if tls is None else State.TLS
        """State; only ``_enter`` sets it, with the next two."""
        self.is_ready = False
        """True while messages can be sent: both sides have proved themselves, and nothing has ended it."""
        self.is_over = False
        """True once the connection has ended: the caller must send what is left, and close the socket."""
        self.error: Exception | None = None
        """First error because of which we ended the connection; None if we did not."""
        self._stranger: Stranger | None = Stranger(keys, role, peer_role, is_dialer=is_dialer)
        """The peer before its proof; None afterwards."""
        self.proven: Handshake | None = None  # with the peer's identity, from ``PROVEN`` on
        self.incoming = streams.IncomingStreams(make_sink)
        """Payloads that arrive. The caller may only ``take`` them, as it handles the message that refers to them."""
        self._reader = frames.FrameReader(limits.HANDSHAKE_FRAME_MAX, self.incoming.room)
        self.writable = self._reader.writable if tls is None else lambda: self._received
        """Function that returns the memory to read the next bytes from the socket into; never empty. Call it after
        ``next_event`` has returned None. ``received`` must follow the read."""
        self.outgoing = OutgoingStreams()
        """Payloads that leave. The caller may only read ``is_sending``."""
        self._out: Frames = []
        """Headers and bodies of frames, unencrypted, that the next ``data_to_send`` returns, in order."""
        self.heartbeat = Heartbeat()
        """The peer's signs of life, and ours. The caller may set ``pulse_s``; ``look`` is called by ours."""
        self.bytes_received = 0
        """Bytes that have arrived over this connection, as on the wire (encrypted, with TLS)."""
        self.bytes_sent = 0
        """Bytes that were handed out to be sent over this connection, as on the wire."""
        self._history = History("a connection")  # of the peer, for the error if a message cannot be handled

    def _enter(self, state: State) -> None:
        self.state = state
        self.is_ready = state is State.READY
        self.is_over = state is State.ENDED

    # From the start to the proof.

    def start(self, nonce: bytes, now: float, channel: Channel = b"", advice: str = SAME_SECRET) -> None:
        """Begin: call this once, first, when there is a socket. Then send ``data_to_send``.

        Args:
            nonce: 32 fresh random bytes. A reused nonce would let an old proof be replayed.
            now: The present (seconds since the epoch), by which derived keys may have expired.
            channel: Without TLS: bytes that no other connection has, equal at both ends (``net.loopback``).
            advice: What the user should do if the proof fails.
        """
        if self.is_over or self._stranger is None:
            return
        self._stranger.nonce, self._stranger.now = nonce, now
        if self.cipher is None:
            self._begin_proof(channel, advice)
        elif self._is_dialer:
            self.cipher.feed(b"")

    def _begin_proof(self, channel: Channel, advice: str = SAME_SECRET) -> None:
        assert self._stranger is not None
        self._enter(State.PROOF)
        try:
            self._write_control(self._stranger.begin_proof(channel, advice))
        except AuthenticationError as error:  # our own key has expired
            self.refuse(error)

    def _on_handshake(self, stranger: Stranger, handshake: Handshake, body: memoryview) -> Signal:
        self._write_control(handshake.receive(body))
        if not handshake.done:
            return HANDLED
        self._stranger = None
        self.proven = handshake
        self._enter(State.READY)
        self._reader.widen()
        if self.cipher is not None:
            self._received = memoryview(bytearray(_PEER_BUFFER))
        return PROVEN

    # What arrives.

    def received(self, count: int) -> None:
        """Take in ``count`` bytes (at least 1) that were read into ``writable()``.

        Then call ``next_event`` until it returns None, also when the connection is over.
        """
        self.heartbeat.has_received = True
        self.bytes_received += count
        if self.is_over:
            return
        if self._stranger is not None:
            if self._stranger.is_too_much(self.bytes_received):
                self.refuse(RemoteProtocolError("too much before the proof"))
                return
            if self.state is State.TLS or self.cipher is None:
                self._stranger.note_first(self.writable()[:count])
        try:
            if self.cipher is None:
                self._reader.received(count)
            else:
                self._feed(self.cipher, self._received[:count])
        except Exception as error:
            self._blame(error, f"{count} bytes in state {self.state.name}", None)

    def _feed(self, cipher: Cipher, data: memoryview) -> None:
        cipher.feed(data)
        if self.state is State.TLS and cipher.is_established:
            assert self._stranger is not None
            assert self._tls is not None
            self._stranger.on_tls(self.bytes_received)
            self._begin_proof(self._tls.channel_of(cipher))

    def next_event(self, now: float) -> Any:
        """Handle the next frame, and return what it is to the caller.

        Handle the event before the next call: take the streams that the message refers to (``incoming.take``). If
        handling it fails, ``refuse`` or ``fail``. A peer that breaks a rule ends the connection here: None is
        returned, and the connection ``is_over``.

        Args:
            now: The present (seconds of any clock that never goes back, the same one as in ``next_chunk``). The peer
                is told when chunks arrived: with one time for all of a read, ``pace`` took fast lines for slow ones.

        Returns:
            A message of the peer, decoded; ``PROVEN``, once, before the first one; ``HANDLED``; or None: bytes are
            missing.

        Raises:
            InternalError: Handling the frame has failed by a fault of ours: ``fail``.
        """
        frame = None
        try:
            while not self.is_over:
                frame = self._reader.next_frame()
                if frame is not None:
                    kind, stream, body = frame
                    if kind == frames.CONTROL and self._stranger is None:
                        message = self._decode(body)
                        self._history.notes.append((type(message), None, now))
                        return message
                    self._history.notes.append((frames.NAMES[kind], stream, now))
                    return self._on_frame(kind, stream, body, int(now * 1e6))
                if self.cipher is None or not self._decrypt(self.cipher):
                    break
        except Exception as error:
            self._blame(error, _in_words(frame), now)
        return None

    def _decrypt(self, cipher: Cipher) -> bool:
        """Decrypt what has arrived, as much as fits; returns False if there is nothing."""
        if not cipher.has_more:
            return False
        room = self._reader.writable()
        size = cipher.read_into(room)
        if self._stranger is not None:
            self._stranger.note_first(room[:size])
        self._reader.received(size)
        return size > 0

    def _on_frame(self, kind: int, stream: int, body: memoryview, now_us: int) -> Signal:
        """Handle a frame that is no message of a peer."""
        if kind == frames.CONTROL:
            stranger = self._stranger
            if stranger is not None and stranger.handshake is not None:
                return self._on_handshake(stranger, stranger.handshake, body)
        elif kind == frames.PLACED:
            self.incoming.placed(stream, len(body))
            self._out.append(frames.grant_frame(stream, len(body), now_us))
        elif kind == frames.CHUNK:
            self.incoming.chunk(stream, body)
            self._out.append(frames.grant_frame(stream, len(body), now_us))
        elif kind == frames.OPEN:
            self.incoming.open(stream, frames.read_open(body))
        elif kind == frames.GRANT:
            self.outgoing.granted(stream, *frames.read_grant(body), now_us)
        elif kind == frames.ABORT:
            self.incoming.abort(stream)
        return HANDLED

    # What is sent.

    def send(self, message: Any) -> None:
        """Queue a message; dropped unless the connection is ready.

        One that is larger than the peer accepts ends the connection with ``InternalError``: the peer would end it,
        again after each reconnect, and could not say which message was at fault.
        """
        if self.is_ready:
            body = _encode(message)
            if len(body) > limits.CONTROL_FRAME_MAX:
                self.fail(too_large(message, len(body)))
                return
            self._out.append(frames.header(frames.CONTROL, len(body)))
            self._out.append(body)

    def send_streamed(
        self, parts: Sequence[tuple[Any, str, streams.Source]], message: Any
    ) -> streams.Group:
        """Send one or several large payloads as streams, and after their last byte the message that refers to them.

        Those beyond the number that the peer takes at once wait.

        Args:
            parts: For each payload the object in the message that refers to it, the name of that object's
                attribute for the stream number (set here), and the source of the bytes (closed here).
            message: The message; it contains those objects.

        Returns:
            The group of streams, for ``give_up``. A group that is over if the connection is not ready, or ends as the
            message is too large (``send``) or has more payloads than a peer takes at once.
        """
        numbers = self.outgoing.numbers(len(parts))
        for number, (holder, attribute, _) in zip(numbers, parts, strict=True):
            setattr(holder, attribute, number)
        body = _encode(message)
        is_too_large = len(body) > limits.CONTROL_FRAME_MAX or len(parts) > limits.STREAMS_MAX
        if not self.is_ready or is_too_large:
            for _, _, source in parts:
                source.close()
            if self.is_ready:
                self.fail(too_large(message, len(body)))
            return streams.Group([], b"")
        return self.outgoing.add(numbers, [source for _, _, source in parts], body, self._out)

    def give_up(self, group: streams.Group) -> bool:
        """Stop sending a group of streams (of ``send_streamed``), as when its payloads are not needed any more.

        Their message is not sent, and the peer drops the bytes that it has of them (ABORT). Returns False, and
        nothing is done, if the message has been sent, or cannot be sent any more.
        """
        return self.outgoing.give_up(group, self._out)

    def has_work(self) -> bool:
        """True if ``data_to_send`` or ``next_chunk`` may have something to return, or the socket is to be closed."""
        if self._out or self.outgoing.is_sending or self.is_over:
            return True
        return self.cipher is not None and self.cipher.has_pending

    def data_to_send(self) -> bytes:
        """Returns, once, all that is queued, as it goes on the wire: send it next. Empty: nothing is queued."""
        data = b"".join(self._out)
        self._out.clear()
        if self.cipher is not None:
            data = _encrypt(self.cipher, data) if data else self.cipher.pending()
        if data:
            self.heartbeat.has_sent = True
            self.bytes_sent += len(data)
        return data

    def next_chunk(self, now: float) -> Frames:
        """Returns the next chunk of a stream as it goes on the wire, in pieces: send it next, then call again.

        Call it when ``data_to_send`` has been sent, and only as long as the socket takes bytes: a message that is
        sent later has to wait behind them. Empty: no chunk may be sent before something else happens. ``now``: the
        present (seconds), as in ``received``.
        """
        parts: Frames = []
        if not self.outgoing.is_sending or not self.is_ready:
            return parts
        self.outgoing.next_chunk(int(now * 1e6), parts)
        if parts:
            if self.cipher is not None:
                # What follows a chunk is small, and a record of TLS for each part costs more than to join them.
                parts = [_encrypt(self.cipher, part) for part in (*parts[:2], b"".join(parts[2:])) if part]
            self.heartbeat.has_sent = True
            self.bytes_sent += sum(map(len, parts))
        return parts

    def data_now(self, messages: Sequence[Any]) -> bytes | None:
        """Returns messages as they go on the wire, past the queue: they must be sent at once. For any thread.

        The caller must hold its lock from before the call until the bytes are with the socket, and must have handed
        over all bytes that were returned before.

        Returns:
            None, and nothing is to be sent, if others are queued (order), one is too large, or we are not ready.
        """
        if not self.is_ready or self._out or self.outgoing.is_sending:
            return None
        parts = []
        for message in messages:
            body = _encode(message)
            if len(body) > limits.CONTROL_FRAME_MAX:
                return None
            parts.append(frames.header(frames.CONTROL, len(body)))
            parts.append(body)
        data = b"".join(parts)
        if self.cipher is not None:
            data = _encrypt(self.cipher, data)
        self.heartbeat.has_sent = True
        self.bytes_sent += len(data)
        return data or None

    def _write_control(self, body: bytes | None) -> None:
        if body is not None:
            self._out.append(frames.header(frames.CONTROL, len(body)))
            self._out.append(body)

    # The end.

    def look(self) -> bool:
        """Look for signs of life. Call it every ``heartbeat.tick_s`` seconds, from ``PROVEN`` until ``closed``.

        Queues a PING if one is due. A peer that does not take our last bytes, after the end, is silent as well.
        Returns False if the peer is given up: close the socket at once, whatever is left, and do not look again.
        """
        try:
            if self.heartbeat.look() and self.is_ready:
                self._out.append(frames.PING_FRAME)
        except SilenceError as error:
            self.abort(error)
            return False
        return True

    def refuse(self, error: Exception) -> None:
        """End the connection because of an error; ``error`` keeps the first of several.

        A listener queues one constant refusal for a dialer without proof. Frames that are there already are ignored.
        """
        if self.error is None:
            self.error = error
            if self.state is State.PROOF and not self._is_dialer:
                self._write_control(REFUSAL)
        self._enter(State.ENDED)

    def fail(self, error: InternalError) -> None:
        """End the connection by a fault of our own. A peer that has proved itself is told (``farewell``)."""
        if self.is_ready and self._farewell is not None:
            self._write_control(_encode(self._farewell(error)))
        self.refuse(error)

    def abort(self, error: Exception) -> None:
        """End the connection because of an error, without another byte: what is queued is lost."""
        self.error = self.error or error
        self._enter(State.ENDED)
        self._out.clear()

    def close(self) -> None:
        """End the connection in good order: what is queued is sent, payloads that are still leaving are lost."""
        self._enter(State.ENDED)

    def closed(self) -> None:
        """Note that the socket is gone, and let go of all payloads: call it once, last. It may set ``error``."""
        if self._stranger is not None and self.cipher is None:
            self.error = self.error or self._stranger.explain_end()
        self._enter(State.ENDED)
        self._out.clear()
        self.outgoing.close()
        self._reader.close()
        self.incoming.close()

    def _blame(self, error: Exception, what: str, now: float | None) -> None:
        """End the connection by an error of the peer at ``what``, in words that help the user if it is a stranger.

        Raises:
            InternalError: The error is one of ours.
        """
        if not is_of_peer(error):
            raise self._history.fault(what, now) from error
        if self._stranger is None:
            self.refuse(error)
        elif isinstance(error, TlsError):
            self.refuse(explain(error, self._role, is_dialer=self._is_dialer))
        else:
            self.refuse(self._stranger.explain(error))


def _in_words(frame: frames.Frame | None) -> str:
    """Returns words for what was handled: a frame, or bytes that are no frame yet."""
    if frame is None:
        return "bytes"
    kind, stream, body = frame
    return f"{frames.NAMES[kind]} of stream {stream} with {len(body)} bytes"


def _encrypt(cipher: Cipher, data: bytes | memoryview) -> bytes:
    try:
        return cipher.encrypt(data)
    except TlsError:
        return b""  # the peer has ended TLS: nothing can be sent, and the socket ends as well
