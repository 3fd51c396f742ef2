"""Bytes of a connection on their way to its socket: in order, from any thread, no faster than the socket drains.

The machine (``protocol.connection``) says which bytes are next. They are written at the end of the loop's turn, all
messages of the turn at once; then chunks of streams, one at a time, while the transport's buffer has room
(back-pressure). So messages never wait behind more than the chunks that were already handed to the transport.

Threads: everything runs on the loop, except ``try_send_now``, which any thread may call. The lock guards the order of
bytes: its holder takes them from the machine and writes them to the socket, or leaves them in ``_left``, which leaves
before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from dispy.protocol import limits
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.system.clock import Clock

Payload = bytes | bytearray | memoryview

WRITE_HIGH = 2 * limits.MIB
"""Bytes in the transport's buffer above which no chunk is added until it has drained (back-pressure): a cancel has to
wait behind them. Messages are added in any case."""


class Sender:
    """Writes what a machine has to send to one transport.

    Args:
        machine: The machine of the connection.
        clock: Clock for the pacing of streams.
        on_fault: Called with an unexpected exception of a write that the loop has called: it would only print it.
    """

    def __init__(
        self, machine: ConnectionMachine, clock: Clock, on_fault: Callable[[Exception], None]
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        """Transport of asyncio that writes to the socket; None before ``open`` and after ``closed``."""
        self._left = b""
        """Bytes as on the wire that the socket did not take from ``try_send_now``; they leave before all others."""
        self._lock = threading.Lock()
        """Guards the order of bytes on the socket, between the loop and threads in ``try_send_now``: from taking them
        out of the machine until they are written, or are in ``_left``."""
        self._socket: socket.socket | None = None
        """A duplicate descriptor of the transport's socket, for ``try_send_now``; None before the peer's proof and
        after the end. The transport may close its own descriptor while another thread writes."""
        self._is_flushing = False
        """True while a call of ``_on_turn`` is queued on the loop: no second one is queued."""
        self._is_paused = False
        """True while the transport's buffer holds too much: no chunks are sent (back-pressure)."""

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to write to a transport."""
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._transport = transport

    def open_to_threads(self) -> None:
        """Let other threads send, too: the peer has proved itself. Without a descriptor to spare, they cannot."""
        assert self._transport is not None
        with contextlib.suppress(OSError):
            descriptor = self._transport.get_extra_info("socket").fileno()
            self._socket = socket.socket(fileno=socket.dup(descriptor))
            self._socket.setblocking(False)

    def closed(self) -> None:
        """Let go of the transport, which is gone: nothing is sent any more."""
        with self._lock:
            self._transport = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def pause(self) -> None:
        """Add no chunks: the transport's buffer is full."""
        self._is_paused = True

    def resume(self) -> None:
        """Add chunks again: the transport's buffer has drained."""
        self._is_paused = False
        self.flush_guarded()

    def count_unsent(self) -> int:
        """Returns the bytes that the socket has not taken."""
        queued = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return len(self._left) + queued

    def flush_soon(self) -> None:
        """Have ``flush`` called in the loop's next turn, unless that is arranged already."""
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._is_flushing = False
        if self._left or self._machine.has_work():
            self.flush_guarded()

    def flush_guarded(self) -> None:
        """Do ``flush``, and call ``on_fault`` with an exception."""
        try:
            self.flush()
        except Exception as error:
            self._on_fault(error)

    def flush(self) -> None:
        """Write what the machine has to send, now. If the machine is over, close the transport behind it.

        The transport queues what the socket does not take.
        """
        transport, machine = self._transport, self._machine
        if transport is None:
            return
        with self._lock:
            if self._left:
                self._write_left(transport)
            data = machine.data_to_send()
            if data:
                transport.write(data)
        while machine.outgoing.is_sending and not self._is_paused:
            with self._lock:
                parts = machine.next_chunk(self._clock.monotonic())
                if not parts:
                    break
                if self._left:
                    self._write_left(transport)
                transport.writelines(parts)
        if machine.is_over and not transport.is_closing():
            transport.close()

    def _write_left(self, transport: asyncio.Transport) -> None:
        left, self._left = self._left, b""
        transport.write(left)

    def try_send_now(self, messages: list[Any]) -> bool:
        """Send messages from any thread, without the loop. A sequence of single jobs saves the wake-up of the loop's
        thread: 60 us of some 500.

        Returns:
            False, and nothing is sent, if other bytes are queued (order), a message is too large, or the connection
            is not ready. The caller then has the loop send them.
        """
        if self._machine.outgoing.is_sending:
            return False  # without waiting for the loop, which may be reading a chunk from a disk
        with self._lock:
            transport = self._transport
            if self._socket is None or transport is None or self._left or transport.get_write_buffer_size():
                return False
            data = self._machine.data_now(messages)
            if data is None:
                return False
            try:
                sent = self._socket.send(data)
            except OSError:
                # The socket is full, or broken: the loop will find out which.
                sent = 0
            if sent < len(data):
                self._left = data[sent:]
                self._loop.call_soon_threadsafe(self._on_turn)
        return True

    def close(self) -> None:
        """Write what is queued, chunks included, and close the transport behind it."""
        if self._transport is not None and not self._transport.is_closing():
            self.flush()
            self._machine.close()
            self._transport.close()

    def abort(self) -> None:
        """Close the socket now; what the transport holds is lost."""
        if self._transport is not None:
            self._transport.abort()
