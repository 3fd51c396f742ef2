"""Echoes messages of one size the way jobs go: client to node, node to one of two workers, and all the way back.

The floor for large arguments and results: uvloop's BufferedProtocol, receiving into buffers that are used
again and sending from them, whole messages, four processes, TCP on loopback. Nothing is framed,
pickled, scheduled or kept.

    python -m benchmarks.programs.echo_chain SIZE             the node: starts two workers, prints its port
    python -m benchmarks.programs.echo_chain SIZE PORT        a worker
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable

import uvloop

WORKERS = 2


class Messages(asyncio.BufferedProtocol):
    """Receives messages of one size and sends them.

    Args:
        size: Of a message (bytes).
        on_message: Told of each, with the buffer; gives it back by ``free`` or passes it to ``send``.
    """

    def __init__(self, size: int, on_message: Callable[[Messages, bytearray], None]) -> None:
        self._size = size
        self._on_message = on_message
        self._free: list[bytearray] = []
        self._buffer = bytearray(size)
        self._filled = 0
        self._sending: list[Callable[[], None]] = []
        self._is_paused = False
        self.waiting = 0
        """Messages sent that have not been answered, for whoever counts them."""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have it told when all is written."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are not asyncio's
        self.transport.set_write_buffer_limits(high=0)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The rest of the message."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what is whole."""
        self._filled += nbytes
        if self._filled == self._size:
            whole = self._buffer
            self._buffer = self._free.pop() if self._free else bytearray(self._size)
            self._filled = 0
            self._on_message(self, whole)

    def send(self, data: bytearray, on_sent: Callable[[], None]) -> None:
        """Send a message; the buffer must not change until told."""
        self._sending.append(on_sent)
        self.transport.write(data)
        if not self._is_paused:
            self._sent()

    def pause_writing(self) -> None:
        """Some of it is still here."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """All has gone."""
        self._is_paused = False
        self._sent()

    def _sent(self) -> None:
        sending, self._sending = self._sending, []
        for on_sent in sending:
            on_sent()

    def free(self, buffer: bytearray) -> None:
        """Use a buffer again."""
        self._free.append(buffer)

    def eof_received(self) -> bool:
        """The end of one is the end of all."""
        asyncio.get_running_loop().stop()
        return False


class Client:
    """One end of the chain, with a few messages under way.

    Args:
        size: Of a message.
        port: The node's.
        ahead: Messages under way at once.
    """

    def __init__(self, size: int, port: int, ahead: int) -> None:
        self._ahead = ahead
        self._data = bytearray(size)
        self._loop = uvloop.new_event_loop()
        self._left = self._under_way = 0

        async def connect() -> Messages:
            loop = asyncio.get_running_loop()
            return (
                await loop.create_connection(lambda: Messages(size, self._on_reply), "127.0.0.1", port)
            )[1]

        self._messages = self._loop.run_until_complete(connect())

    def echo(self, count: int) -> None:
        """Send so many messages and take all answers in."""
        self._left = count
        while self._left and self._under_way < self._ahead:
            self._send()
        self._loop.run_forever()

    def _send(self) -> None:
        self._left -= 1
        self._under_way += 1
        self._messages.send(self._data, _nothing)

    def _on_reply(self, messages: Messages, buffer: bytearray) -> None:
        messages.free(buffer)
        self._under_way -= 1
        if self._left:
            self._send()
        elif not self._under_way:
            self._loop.stop()

    def close(self) -> None:
        """End the chain."""
        self._messages.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def _nothing() -> None:
    pass


async def serve_node(size: int) -> None:
    """Pass messages to whoever of the workers has least to do, and their answers back."""
    loop = asyncio.get_running_loop()
    workers: list[Messages] = []
    clients: list[Messages] = []
    origins: dict[Messages, deque[Messages]] = {}
    are_ready = asyncio.Event()

    def on_request(client: Messages, data: bytearray) -> None:
        worker = min(workers, key=lambda each: each.waiting)
        worker.waiting += 1
        origins[worker].append(client)
        worker.send(data, lambda: client.free(data))

    def on_answer(worker: Messages, data: bytearray) -> None:
        worker.waiting -= 1
        origins[worker].popleft().send(data, lambda: worker.free(data))

    def new_worker() -> Messages:
        made = Messages(size, on_answer)
        workers.append(made)
        origins[made] = deque()
        if len(workers) == WORKERS:
            are_ready.set()
        return made

    def new_client() -> Messages:
        made = Messages(size, on_request)
        clients.append(made)
        return made

    inner = await loop.create_server(new_worker, "127.0.0.1", 0)
    module = "benchmarks.programs.echo_chain"
    port = inner.sockets[0].getsockname()[1]
    started = [
        subprocess.Popen([sys.executable, "-m", module, str(size), str(port)]) for _ in range(WORKERS)
    ]
    await are_ready.wait()
    outer = await loop.create_server(new_client, "127.0.0.1", 0)
    print(outer.sockets[0].getsockname()[1], flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        for process in started:
            process.terminate()


async def serve_worker(size: int, port: int) -> None:
    """Send back what comes."""

    def on_request(messages: Messages, data: bytearray) -> None:
        messages.send(data, lambda: messages.free(data))

    await asyncio.get_running_loop().create_connection(
        lambda: Messages(size, on_request), "127.0.0.1", port
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    main = serve_node if len(sys.argv) == 2 else serve_worker
    uvloop.install()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(*map(int, sys.argv[1:])))
    except RuntimeError:
        pass  # stopped, as the other end is gone
