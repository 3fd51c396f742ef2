"""A proxy between a client and a node that does to bytes what networks and attackers do.

A *fault* decides what becomes of the bytes of one connection: it is asked with every piece that is passed on,
for both directions, and answers with what is to be sent instead. Everything that is drawn by chance comes
from the fault's own seed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["to node", "to client"]


class _Stop:
    """What to do instead of sending anything more."""


END: Final = _Stop()
"""Both sides are told the end of the stream."""

RESET: Final = _Stop()
"""Both sides are told that the connection is broken."""

Piece = bytes | float | _Stop
"""Bytes to send, seconds to wait, or the end."""

Fault = Callable[[Direction, int, bytes], Iterable[Piece]]
"""Called with the direction, how many bytes have gone that way before, and the next bytes."""


Change = Callable[[bytes], Sequence[Piece]]
"""What becomes of the bytes from one place on."""


def clean(direction: Direction, before: int, data: bytes) -> Sequence[Piece]:
    """No fault."""
    return [data]


def bytewise(direction: Direction, before: int, data: bytes) -> Sequence[Piece]:
    """Single bytes, as far as a handshake goes; a job's worth of them would take its time."""
    near = max(0, min(len(data), 1500 - before))
    return [*(data[at : at + 1] for at in range(near)), data[near:]]


@dataclass
class At:
    """Something happens to the byte at one place.

    Attributes:
        direction: Of the byte.
        place: How many bytes go before it in this direction.
        change: What becomes of the data from there on.
    """

    direction: Direction
    place: int
    change: Change
    has_happened: bool = False

    def __call__(self, direction: Direction, before: int, data: bytes) -> Sequence[Piece]:
        at = self.place - before
        if direction != self.direction or not 0 <= at < len(data):
            return [data]
        self.has_happened = True
        return [data[:at], *self.change(data[at:])]


class Slow:
    """A line with a rate, each way.

    Args:
        rate: Bytes per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at: dict[Direction, float] = {}

    def __call__(self, direction: Direction, before: int, data: bytes) -> Sequence[Piece]:
        now = time.monotonic()
        free_at = max(now, self._free_at.get(direction, now)) + len(data) / self._rate
        self._free_at[direction] = free_at
        return [data, free_at - now]


class Hold:
    """A line on which nothing goes to the node after so many bytes, until it is let go.

    Args:
        size: Bytes of a connection that go before that.

    Attributes:
        holds: Set when that is so.
        let_go: To be set.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.holds = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, direction: Direction, before: int, data: bytes) -> Iterator[Piece]:
        if direction == "to node" and before + len(data) > self._size:
            while not self.let_go.is_set():
                self.holds.set()
                yield 0.005
        yield data


def flip(mask: int) -> Change:
    """Some bits of the byte are changed."""
    return lambda data: [bytes([data[0] ^ mask]), data[1:]]


def delay(seconds: float) -> Change:
    """What comes from there on comes late."""
    return lambda data: [seconds, data]


def duplicate(data: bytes) -> Sequence[Piece]:
    """Some bytes come twice."""
    return [data[:20], data]


def lose(data: bytes) -> Sequence[Piece]:
    """Some bytes do not come."""
    return [data[20:]]


def insert(foreign: bytes) -> Change:
    """Bytes come that nobody sent."""
    return lambda data: [foreign, data]


def cut(data: bytes) -> Sequence[Piece]:
    """Nothing comes any more, and the end is told."""
    return [END]


def reset(data: bytes) -> Sequence[Piece]:
    """The connection breaks."""
    return [RESET]


class Proxy:
    """Listens on a port of its own and passes everything on to a node, with faults.

    Args:
        port: The node's, on loopback.
        faults: Makes the fault of each connection from its number, from 0.
        listens: Where TLS of the client ends; None: it is passed on as it is.
        dials: The same towards the node.
        host: Address of both the node and the proxy.
    """

    def __init__(
        self,
        port: int,
        faults: Callable[[int], Fault] = lambda _: clean,
        *,
        listens: ssl.SSLContext | None = None,
        dials: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.faults = faults
        self.connections = 0
        """How many there have been."""
        self._target = port
        self._listens = listens
        self._dials = dials
        self._host = host
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(lambda _loop, _context: None)  # broken TLS is what we are here for
        async with await asyncio.start_server(self._pass_on, sock=self._socket, ssl=self._listens):
            await self._stopping.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were aborted close their sockets

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.faults(self.connections)
        self.connections += 1
        writers = [writer]
        try:
            name = "node" if self._dials is not None else None
            there, to_node = await asyncio.open_connection(
                self._host, self._target, ssl=self._dials, server_hostname=name
            )
            writers.append(to_node)
            ways = [_pump(reader, to_node, "to node", fault), _pump(there, writer, "to client", fault)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_reset = any(task.result() is RESET for task in done if task.exception() is None)
            for task in left:
                # The end of one way is told; what comes the other way until then is passed on.
                if is_reset or any(task.exception() is not None for task in done):
                    task.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await asyncio.wait_for(task, 2)
            if is_reset:
                _break(writers)
        except (OSError, TimeoutError):
            pass
        finally:
            for each in writers:
                each.transport.abort()

    def close(self) -> None:
        """Stop; all connections break."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._socket.close()


def _break(writers: Sequence[asyncio.StreamWriter]) -> None:
    import struct

    for writer in writers:
        with suppress(OSError):
            connection = writer.get_extra_info("socket")
            # No time to linger: the kernel sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction, fault: Fault
) -> _Stop:
    before = 0
    while data := await reader.read(1 << 16):
        for piece in fault(direction, before, data):
            if isinstance(piece, _Stop):
                if piece is END:
                    _end(writer)
                return piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            elif piece:
                writer.write(piece)
                await writer.drain()
        before += len(data)
    _end(writer)
    return END


def _end(writer: asyncio.StreamWriter) -> None:
    if writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()
    else:
        writer.close()


@contextmanager
def proxy(
    port: int,
    faults: Callable[[int], Fault] = lambda _: clean,
    *,
    listens: ssl.SSLContext | None = None,
    dials: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Iterator[Proxy]:
    """A proxy that is gone afterwards."""
    made = Proxy(port, faults, listens=listens, dials=dials, host=host)
    try:
        yield made
    finally:
        made.close()


def by_chance(seed: str, reach: int, kinds: Sequence[Change]) -> At:
    """One of several faults at a place that is drawn, among the first ``reach`` bytes of a direction."""
    chance = random.Random(seed)
    direction: Direction = "to node" if chance.random() < 0.5 else "to client"
    return At(direction, chance.randrange(reach), chance.choice(kinds))
