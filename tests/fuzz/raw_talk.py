"""A talk: one authenticated connection on which anything may be written, past all that its machine allows."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from dispy.net.connection import Connection
from dispy.protocol import frames, limits

from .campaign import Outcome

PATIENCE_S = 5.0
"""How long (seconds) a talk waits for one thing that it wants to hear."""

DIAL_S = 20.0
"""Seconds for the handshake: the other side may be busy with other talks."""

encode = msgspec.msgpack.Encoder().encode


class RawTalk:
    """One connection, from its dial to its end; the owner of the connection (``net.connection.Owner``).

    Args:
        outcome: Where it is counted what is said and heard.
        chance: Of all that is said unasked.
    """

    def __init__(self, outcome: Outcome, chance: random.Random) -> None:
        self.outcome = outcome
        self.chance = chance
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._streams = 1
        self.heard: Counter[str] = Counter()
        """Messages of the other side on this connection, by type."""
        self.is_over = False
        self.connection: Connection | None = None

    # Called by the connection.

    def on_ready(self, connection: Connection) -> None:
        self.connection = connection
        if not self._ready.done():
            self._ready.set_result(True)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        self.is_over = True
        if not self._ready.done():
            self._ready.set_result(False)

    def on_message(self, connection: Connection, message: Any) -> None:
        self.outcome.heard[type(message).__name__] += 1
        self.heard[type(message).__name__] += 1
        self.answer(connection, message)

    def answer(self, connection: Connection, message: Any) -> None:
        """Answer some of what the other side says, honestly or not."""
        raise NotImplementedError

    # What is said.

    async def dial(self, connect: Callable[[RawTalk], Awaitable[None]]) -> bool:
        """Connect; returns whether both sides have proved themselves."""
        with suppress(OSError):
            await connect(self)
            with suppress(TimeoutError):
                async with asyncio.timeout(DIAL_S):
                    return await self._ready
        return False

    async def wait_heard(self, *names: str) -> None:
        """Wait until one of these types of messages was heard, or the talk is over, or patience is."""
        until = time.monotonic() + PATIENCE_S
        while not (self.is_over or any(self.heard[name] for name in names) or time.monotonic() > until):
            await asyncio.sleep(0.005)

    async def wait_written(self) -> None:
        """Wait until the other side reads, or the talk is over."""
        while self.connection is not None and self.connection._sender._is_paused and not self.is_over:
            await asyncio.sleep(0.001)

    def count(self, kind: str) -> None:
        """Count an input, by what it is."""
        self.outcome.messages += 1
        self.outcome.by_type[kind] += 1

    def send(self, message: msgspec.Struct) -> None:
        """Send a message as it has to be, unless the talk is over."""
        if self.connection is not None and not self.is_over:
            self.connection.send(message)
            self.count(type(message).__name__)

    def write(self, *parts: bytes) -> None:
        """Write frames as they are, past all that the machine allows."""
        assert self.connection is not None
        if not self.is_over:
            self.connection.machine._out.extend(parts)
            self.connection.flush()

    def write_message(self, message: msgspec.Struct, *, is_damaged: bool = False) -> None:
        """Write a message, with another end if it is damaged. One that is longer than allowed is left out."""
        body = encode(message)
        if len(body) > limits.CONTROL_FRAME_MAX:
            return
        if is_damaged:
            body = body[: self.chance.randrange(len(body))] + self.chance.randbytes(3)
        self.write(frames.header(frames.CONTROL, len(body)), body)
        self.count(type(message).__name__)

    def send_stream(self, data: bytes) -> int:
        """Send a whole stream; returns its number."""
        number, self._streams = self._streams, self._streams + 1
        self.write(frames.open_frame(number, len(data)))
        for start in range(0, len(data), limits.CHUNK_MAX):
            part = data[start : start + limits.CHUNK_MAX]
            self.write(frames.header(frames.CHUNK, len(part), number) + part)
        self.outcome.by_type["stream"] += 1
        return number

    def play_with_streams(self) -> None:
        """Streams that are opened and aborted, announced and not sent, or used by nobody."""
        chance = self.chance
        number, self._streams = self._streams, self._streams + 1
        size = chance.choice([0, 1, 1000, 100_000, limits.PAYLOAD_MAX])
        self.write(frames.open_frame(number, size))
        if size and chance.random() < 0.6:
            part = bytes(min(size, chance.choice([1, 100, 50_000])))
            self.write(frames.header(frames.CHUNK, len(part), number) + part)
        way = chance.random()
        if way < 0.6:
            self.write(frames.header(frames.ABORT, 0, number))
        elif way < 0.62:
            self.write(frames.header(frames.CHUNK, 5, number + 7) + b"wrong")
        elif way < 0.8:
            self.write(
                frames.grant_frame(number, chance.choice([0, 1, 1 << 63]), chance.choice([0, 1 << 63]))
            )
        self.count("streams opened and aborted")

    async def leave(self, goodbye: msgspec.Struct, *, is_known: bool) -> None:
        """Say goodbye, or not; close in order, or break off. New identities say goodbye, or they would pile up."""
        connection = self.connection
        assert connection is not None
        way = self.chance.random()
        if not is_known or way < 0.2:
            connection.send(goodbye)
        await asyncio.sleep(0)
        if self.is_over:
            return
        if way > 0.8 and is_known:
            connection.abort(OSError("enough"))
        else:
            connection.close()
        await self.wait_over()
        connection.abort(OSError("enough"))

    async def wait_over(self) -> None:
        """Wait until the connection has ended, for two seconds at most."""
        for _ in range(2000):
            if self.is_over:
                return
            await asyncio.sleep(0.001)
