"""A loop, a transport and an owner for connections that are driven by hand, without a socket or a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dispy.net.connection import Connection


class Fault(Exception):
    """Something that must not happen, whatever a stranger says."""


class FakeTimer:
    """A callback that is due some time, unless it is cancelled."""

    __slots__ = ("_arguments", "_callback", "is_cancelled")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._callback = callback
        self._arguments = arguments
        self.is_cancelled = False

    def cancel(self) -> None:
        """It is not due any more."""
        self.is_cancelled = True

    def fire(self) -> None:
        """Its time has come."""
        if not self.is_cancelled:
            self._callback(*self._arguments)


class FakeLoop:
    """As much of an event loop as connections ask for."""

    def __init__(self) -> None:
        self._soon: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.timers: list[FakeTimer] = []

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call it in the next turn."""
        self._soon.append((callback, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> FakeTimer:
        """Call it when it is fired."""
        timer = FakeTimer(callback, arguments)
        self.timers.append(timer)
        return timer

    def time(self) -> float:
        """No time passes."""
        return 0.0

    def turn(self) -> None:
        """Call what is to be called soon, and what that asks for."""
        while self._soon:
            soon, self._soon = self._soon, []
            for callback, arguments in soon:
                callback(*arguments)

    def clear(self) -> None:
        """Forget everything."""
        self._soon.clear()
        self.timers.clear()

    @contextmanager
    def running(self) -> Iterator[None]:
        """It is the running loop of this thread."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]  # as much of one as is needed
        try:
            yield
        finally:
            asyncio._set_running_loop(None)


class _NoSocket:
    def fileno(self) -> int:
        return -1


_INFO: dict[str, object] = {"peername": ("192.0.2.1", 4711), "socket": _NoSocket()}


class FakeTransport:
    """Keeps what is written."""

    __slots__ = ("is_closed", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes | bytearray | memoryview] = []
        self.is_closed = False

    @property
    def written(self) -> bytes:
        """All that was written."""
        return b"".join(self.parts)

    def get_extra_info(self, name: str) -> object:
        """As of asyncio's transports."""
        return _INFO.get(name)

    def set_write_buffer_limits(self, high: int) -> None:
        """Writes are never held up."""

    def get_write_buffer_size(self) -> int:
        """Everything leaves at once."""
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.parts.append(data)

    def writelines(self, parts: list[Any]) -> None:
        """As of asyncio's transports."""
        for part in parts:
            self.write(part)

    def is_closing(self) -> bool:
        """As of asyncio's transports."""
        return self.is_closed

    def close(self) -> None:
        """The peer is not heard any more."""
        self.is_closed = True

    abort = close


class FakeOwner:
    """Counts what it is told, and takes the streams that messages refer to, as nodes and links do."""

    __slots__ = ("closed", "messages", "ready", "settled")

    def __init__(self) -> None:
        self.ready = 0
        self.closed = 0
        self.settled = 0
        self.messages = 0

    def on_ready(self, connection: Connection) -> None:
        """The peer has proved itself."""
        self.ready += 1

    def on_message(self, connection: Connection, message: Any) -> None:
        """The peer said something."""
        if not self.ready or not connection.is_ready:
            raise Fault(f"{message!r} before the proof, or after the end")
        self.messages += 1
        for part in (message, *getattr(message, "jobs", ()), *getattr(message, "ended", ())):
            stream = getattr(part, "stream", 0)
            if stream:
                connection.take_stream(stream)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone."""
        self.closed += 1

    def on_settled(self, connection: Connection) -> None:
        """It has proved itself, or is gone."""
        self.settled += 1
