"""The event loop of a party: as much of asyncio's as the services ask for, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from .network import Network
from .world import Handle, Party, World


class Readable:
    """A descriptor that a loop can watch: calls back while there is something to read."""

    __slots__ = ("_arguments", "_callback", "_is_due", "_loop")

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._callback: Callable[..., object] | None = None
        self._arguments: tuple[Any, ...] = ()
        self._is_due = False

    def is_readable(self) -> bool:
        """Whether there is something, or the end."""
        raise NotImplementedError

    def watch(self, loop: Loop, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Call back while there is something to read."""
        self._loop, self._callback, self._arguments = loop, callback, arguments
        self.notify()

    def ignore(self) -> bool:
        """Call back no more; False if nobody watched."""
        was_watched = self._callback is not None
        self._callback = None
        self._arguments = ()
        return was_watched

    def notify(self) -> None:
        """There may be something to read now."""
        loop = self._loop
        if self._callback is not None and not self._is_due and loop is not None and self.is_readable():
            self._is_due = True
            world = loop.world
            world.arrive(world.now + loop.wake_s * world.chance(), loop.party, self._fire)

    def _fire(self) -> None:
        self._is_due = False
        if self._callback is not None:
            self._callback(*self._arguments)
            self.notify()


class Loop(asyncio.AbstractEventLoop):
    """The loop of one process.

    Args:
        world: Where it runs.
        party: Whose it is.
        network: What it dials into.
        host: The address of the machine it runs on.
    """

    def __init__(self, world: World, party: Party, network: Network, host: str) -> None:
        self.world = world
        self.party = party
        self.wake_s = 60e-6
        """The longest that a process takes to wake up for input, when its machine is not slow."""
        self._network = network
        self._host = host
        self._tasks: list[asyncio.Task[Any]] = []
        party.loop = self
        world.at_end.append(self._close_tasks)

    def time(self) -> float:
        return self.world.now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        return self.world.soon(self.party, callback, *args)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.world.after(delay, self.party, callback, *args)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.world.at(when, self.party, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = asyncio.Task(coro, loop=self)
        # A process that is killed leaves its tasks as they are: no reason to complain.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if len(self._tasks) > 8:
            self._tasks = [other for other in self._tasks if not other.done()]
        self._tasks.append(task)
        return task

    def _close_tasks(self) -> None:
        """What has not ended will not: now, and not when memory is freed."""
        for task in self._tasks:
            coroutine = task.get_coro()
            if not task.done() and coroutine is not None:
                coroutine.close()
        self._tasks.clear()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.world.failure is None:
            self.world.fail(f"{self.party.name}: {context.get('message')}: {context.get('exception')!r}")

    def add_reader(self, fd: Readable, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        fd.watch(self, callback, args)

    def remove_reader(self, fd: Readable) -> bool:  # type: ignore[override]
        return fd.ignore()

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int
    ) -> tuple[Any, Any]:
        """Dial.

        Raises:
            ConnectionRefusedError: Nobody listens there.
        """
        made = self.create_future()
        self._network.dial(self.party, self._host, host, made)
        end = await made
        protocol = protocol_factory()
        end.begin(protocol)
        return end, protocol
