"""The sending half of a connection: messages and payloads to bytes on a socket, in order, encrypted, paced.

Messages are queued and leave in one write at the end of the loop's turn (``Sender.send``). Payloads too large for a
message leave as streams, one chunk at a time, while three things allow it: the peer has granted it (each stream's
window), the line takes it soon (``protocol.pace``), and the socket is not full (back-pressure: ``pause_writing``).
Messages never wait behind more than the chunks that were already handed to the socket.

Threads: everything runs on the loop, except ``try_send_now``, which any thread may call. The lock guards the order of
bytes: its holder writes them to the socket, or leaves them in ``_left``, which leaves before anything else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from dispy.errors import InternalError
from dispy.net.heartbeat import Heartbeat
from dispy.protocol import frames, limits, streams
from dispy.protocol.pace import Pace
from dispy.security.tls import Cipher
from dispy.system.clock import Clock
from dispy.system.wording import of_error

logger = logging.getLogger("dispy.net")

Payload = bytes | bytearray | memoryview

_encode = msgspec.msgpack.Encoder().encode


class Sender(asyncio.BufferedProtocol):
    """Sends messages and payloads over one transport; ``Connection`` adds the receiving half.

    Args:
        cipher: Encrypts what is sent; None: it is sent unencrypted.
        clock: Clock for the pacing of streams.
        farewell: Makes the message that the peer gets before a connection ends by our own fault, from the error;
            None: none is sent.
    """

    def __init__(
        self,
        cipher: Cipher | None,
        clock: Clock,
        farewell: Callable[[InternalError], Any] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._cipher = cipher
        self._transport: asyncio.Transport | None = None
        """Transport of asyncio that writes to the socket; None before ``connection_made``."""
        self._out: list[bytes | memoryview] = []
        """Headers and bodies of frames, unencrypted, that leave with the next flush, in order."""
        self._left = b""
        """Bytes, encrypted if there is TLS, that the socket did not take from ``try_send_now``; they leave before all
        others."""
        self._lock = threading.Lock()
        """Guards the order of bytes on the socket, and the cipher, between the loop and threads in
        ``try_send_now``."""
        self._socket: socket.socket | None = None
        """A duplicate descriptor of the transport's socket, for ``try_send_now``; None before the peer's proof and
        after the end. The transport may close its own descriptor while another thread writes."""
        self._is_flushing = False
        """True while a call of ``_flush_scheduled``, which writes ``_out``, is queued on the loop: no second one is
        queued."""
        self._is_paused = False
        """True while the transport's buffer holds too much: no chunks are sent (back-pressure)."""
        self._outgoing: dict[int, streams.OutgoingStream] = {}
        """Streams whose last chunk has not left, by stream number, oldest first."""
        self._pace = Pace()
        """Limits the bytes of all streams together that were sent and not acknowledged yet (GRANT), by the speed of
        the line: messages would have to wait behind them."""
        self._clock = clock
        self._farewell = farewell
        self._is_oldest_due = True
        """True if the last choice among several streams was the oldest; the next one is then the stream with the
        fewest bytes left (``_choose``)."""
        self._next_stream = 1
        """Number of the next stream; never used twice on a connection. 0 means no stream."""
        self._heartbeat = Heartbeat(self._loop, self._ping, self.abort)
        self.error: Exception | None = None
        """First error because of which we ended the connection; None if we did not."""
        self._is_closed = False
        """True once the connection is gone (``connection_lost``): nothing is sent any more."""
        self.is_ready = False
        """True while messages can be sent: both sides have proved themselves, and the connection stands."""
        self.bytes_sent = 0
        """Bytes handed to the socket over this connection, headers of frames included: for the user's statistics.
        Approximate: some are counted before encryption, some after it."""
        self.trace: Callable[[str, Any], None] | None = None
        """Function that logs messages: called with a direction ("is told", "says") and each message that is sent or
        arrives, on the loop or on the thread in ``try_send_now``. None: messages are not logged."""

    def refuse(self, error: Exception) -> None:
        """End the connection because of an error; implemented by ``Connection``."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush_guarded()

    # Messages.

    def send(self, message: Any) -> None:
        """Queue a message; it leaves at the end of this turn of the loop. On the loop only.

        A message larger than the peer accepts is not sent: the connection ends with ``InternalError``. The peer would
        end it anyway, again after each reconnect, and could not say which message was at fault.
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
        """Send one or several large payloads as streams, and after their last byte the message that refers to them.

        Returns at once: the bytes leave as the peer, the line and the socket allow.

        Args:
            parts: For each payload the object in the message that refers to it, the name of that object's
                attribute for the stream number (set here), and the source of the bytes (closed here).
            message: The message; it contains those objects.

        Returns:
            The group of streams, for ``give_up``. An empty group that is over if the message is too large: the
            connection ends then, as in ``send``.
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
            return  # the connection ends already
        self.fail(
            InternalError(
                f"a {type(message).__name__} of {size} bytes was to be sent; "
                f"{limits.CONTROL_FRAME_MAX} are allowed",
                hint="this is a fault of dispy: please report it",
            )
        )

    def fail(self, error: InternalError) -> None:
        """End the connection by a fault of our own. A peer that has proved itself is told (``farewell``); streams are
        given up."""
        if not self.is_ready:
            self.refuse(error)
            return
        for number in list(self._outgoing):
            self._drop_stream(number)
        if self._farewell is not None:
            self._write_control(_encode(self._farewell(error)))
        self.refuse(error)

    def give_up(self, group: streams.Group) -> bool:
        """Stop sending a group of streams (of ``send_streamed``), as when its payloads are not needed any more.

        Their message is not sent, and the peer drops the bytes that it has of them (ABORT).

        Returns:
            False, and nothing is done, if the message has left already, or the connection is gone.
        """
        if group.is_over() or self._is_closed:
            return False
        group.give_up()
        for number in group.numbers:
            self._drop_stream(number)
            self._write(frames.header(frames.ABORT, 0, number))
        return True

    @property
    def is_sending(self) -> bool:
        """True if payloads that we send as streams have not left completely: a node that stops says so only after
        them, and a scheduler reports no standstill, as jobs may wait for them."""
        return bool(self._outgoing)

    def flush(self) -> None:
        """Write queued messages now, not at the end of the loop's turn: saves a turn where latency counts. On the
        loop only."""
        if self._out:
            self._flush()

    def try_send_now(self, messages: list[Any]) -> bool:
        """Send messages from any thread, without the loop. A sequence of single jobs saves the wake-up of the loop's
        thread: 60 us of some 500.

        Returns:
            False, and nothing is sent, if other bytes are queued (order), a message is too large, or the connection
            is not ready. The caller then has the loop send them.
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
                # The socket is full, or broken: the loop will find out which.
                sent = 0
            self._heartbeat.has_sent = True
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
        self._flush_guarded()

    def _flush_guarded(self) -> None:
        """Write what is queued. A fault of this program ends the connection: the loop would only print it."""
        try:
            self._flush()
        except Exception as error:
            self.on_fault(error)

    def on_fault(self, error: Exception) -> None:
        """End the connection because of an unexpected exception, which is logged to be reported."""
        logger.error("a connection ends by a fault; please report this", exc_info=error)
        try:
            self.fail(InternalError(f"there is a fault: {of_error(error)}", hint="please report it"))
        except Exception as second:
            self.abort(second)

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
        """Encrypt bytes, if there is TLS, and hand them to the transport, behind ``_left``. The caller holds the
        lock.

        The transport queues what the socket does not take.
        """
        self._heartbeat.has_sent = True
        self.bytes_sent += len(data)
        if self._cipher is not None and data:
            try:
                data = self._cipher.encrypt(data)
            except ssl.SSLError:  # the peer has ended TLS; ``connection_lost`` will follow
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
        """Send one chunk of one stream; returns False if none may be sent now.

        That is so if no stream has bytes left and an open window, or too many bytes of all streams are under way
        (``_pace``). After the last chunk of a group of streams its message is sent.
        """
        stream = self._choose()
        size_max = self._pace.chunk_max() if stream is not None else 0
        if stream is None or not size_max:
            return False
        chunk = stream.next_chunk(size_max)
        self._pace.sent(len(chunk), self._now_us())
        head = frames.header(frames.CHUNK, len(chunk), stream.number)
        with self._lock:
            if self._cipher is None and not self._left:
                self._heartbeat.has_sent = True
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
        """Remove a stream whose bytes have all left, and close its source.

        Returns:
            The encoded message to send now, if it was the last stream of its group; else None.
        """
        self._drop_stream(stream.number)
        return stream.group.stream_done()

    def _drop_stream(self, number: int) -> None:
        stream = self._outgoing.pop(number, None)
        if stream is not None:
            stream.source.close()

    def _choose(self) -> streams.OutgoingStream | None:
        """Returns the stream that sends the next chunk: by turns the oldest, and the one with the fewest bytes left.

        A turn for each stream was rejected: all payloads would arrive only with the last one, and workers would wait.
        This way small payloads pass large ones, and the oldest never stands still. None if no window is open.
        """
        ready = [stream for stream in self._outgoing.values() if stream.is_ready()]
        if len(ready) < 2:
            return ready[0] if ready else None
        self._is_oldest_due = not self._is_oldest_due
        return ready[0] if self._is_oldest_due else min(ready, key=streams.OutgoingStream.left)

    def close(self) -> None:
        """End the connection when all messages queued so far have left. Streams that have not left completely are
        lost, with their messages."""
        if self._transport is not None and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self, error: Exception) -> None:
        """End the connection now; unsent bytes are lost. ``Owner.on_closed`` gets the first of several errors."""
        self.error = self.error or error
        if self._transport is not None:
            self._transport.abort()

    def _ping(self) -> None:
        """Send a PING, a sign of life, if messages can be sent.

        Called by the heartbeat when nothing was sent for half a heartbeat interval.
        """
        if self.is_ready:
            self._write(frames.PING_FRAME)

    def _now_us(self) -> int:
        return int(self._clock.monotonic() * 1e6)
