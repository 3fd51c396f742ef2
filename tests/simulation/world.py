"""Virtual time: what happens next, to whom, and whether he can react to it.

A *party* is a process: a client, a node, a computation host, a worker. What is due for one that is stopped is
held until it continues; what is due for a dead one never happens. ``nature`` is everything that is no
process: the network, the kernel, fate.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

EPOCH = 1_000_000_000.0
"""What a wall clock shows when a world begins."""


class Failure(AssertionError):
    """Something that must not happen has happened."""


class Handle:
    """A callback that is due some time, unless it is cancelled."""

    __slots__ = ("arguments", "callback", "is_input", "party")

    def __init__(self, party: Party, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.party = party
        self.callback: Callable[..., object] | None = callback
        self.arguments = arguments
        self.is_input = False
        """It is something that arrives, and no timer."""

    def cancel(self) -> None:
        """It is not due any more."""
        self.callback = None
        self.arguments = ()

    def cancelled(self) -> bool:
        """As of asyncio's handles."""
        return self.callback is None


class Party:
    """A process, or what stands for all that is none.

    Attributes:
        index: Its number in this world.
        loop: Its event loop, if it has one.
    """

    __slots__ = (
        "_asleep", "_held", "_stopped_at", "heard", "index", "is_dead", "is_running", "loop", "name", "stops",
        "world",
    )  # fmt: skip

    def __init__(self, world: World, name: str, index: int) -> None:
        self.world = world
        self.name = name
        self.index = index
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_dead = False
        self.is_running = True
        """Neither dead nor stopped."""
        self.heard: dict[str, tuple[float, int]] = {}
        """When it last heard something from each machine, by the clock of ``awake``; and its ``stops`` then."""
        self.stops = 0
        """How often it has stood still."""
        self._held: list[Handle] = []
        self._asleep = 0.0
        self._stopped_at = 0.0

    def awake(self) -> float:
        """How long it has been running (seconds); while it is stopped this stands still."""
        now = self.world.now
        if not self.is_running:
            now = self._stopped_at
        return now - self._asleep

    def hold(self, handle: Handle) -> None:
        """Something is due while it cannot react."""
        if not self.is_dead:
            self._held.append(handle)

    def stop(self) -> None:
        """SIGSTOP."""
        if self.is_running:
            self.is_running = False
            self.stops += 1
            self._stopped_at = self.world.now

    def go_on(self) -> None:
        """SIGCONT: all that is due by now happens at once.

        Timers before input or after it: an ``epoll_wait`` that was interrupted looks at the timers first,
        one that returns has input.
        """
        if self.is_dead or self.is_running:
            return
        self.is_running = True
        self._asleep += self.world.now - self._stopped_at
        held, self._held = self._held, []
        inputs = [handle for handle in held if handle.is_input]
        timers = [handle for handle in held if not handle.is_input]
        first, second = (timers, inputs) if self.world.chance() < 0.6 else (inputs, timers)
        self.world.ready.extend(first)
        self.world.ready.extend(second)

    def kill(self) -> None:
        """SIGKILL."""
        self.is_dead = True
        if self.is_running:
            self._stopped_at = self.world.now
        self.is_running = False
        self._held.clear()


class World:
    """Everything that will happen, in its order.

    Args:
        seed: All chance comes from it.
        trace: Takes a line for everything worth telling; None: nobody listens.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.chance = self.random.random
        self.now = 0.0
        self.shift_s = 0.0
        """By how much wall clocks have been set."""
        self.steps = 0
        self.digest = 0
        self.ready: deque[Handle] = deque()
        self.failure: Failure | None = None
        self.at_end: list[Callable[[], None]] = []
        """What is to be done when nothing will happen any more."""
        self.peace_at = float("inf")
        """When faults have ceased."""
        self.has_refusals = False
        """Whether a node may have refused something: no room, no processes, cannot load."""
        self.has_disk_trouble = False
        """Whether a store of files, or a working directory, may have had no room."""
        self.has_damage = False
        """Whether a file on a disk is not what was written."""
        self._trace = trace
        self.is_traced = trace is not None
        self._heap: list[tuple[float, int, Handle]] = []
        self._sequence = 0
        self._parties = 0
        self.nature = self.party("nature")

    def party(self, name: str) -> Party:
        """A new process."""
        self._parties += 1
        return Party(self, name, self._parties)

    def fail(self, text: str) -> None:
        """End the run: something must not have happened. Remembered, should somebody catch what is raised."""
        if self.failure is None:
            self.failure = Failure(f"at {self.now:.6f} s: {text}")
            self.note("FAILURE", text)
        raise self.failure

    def note(self, who: str, text: str) -> None:
        """Tell who reads the trace."""
        if self._trace is not None:
            self._trace(f"{self.now:12.6f} {who:>10}  {text}")

    # A clock, as services want it.

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self.now

    def time(self) -> float:
        """Virtual seconds since the epoch."""
        return EPOCH + self.now + self.shift_s

    # What is to happen.

    def after(self, delay: float, party: Party, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Have something happen to a party."""
        return self.at(self.now + delay, party, callback, *arguments)

    def at(self, time: float, party: Party, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Have something happen to a party at a time (seconds); at once if that has passed."""
        handle = Handle(party, callback, arguments)
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, handle))
        return handle

    def arrive(self, time: float, party: Party, callback: Callable[..., object], *arguments: Any) -> None:
        """Have something arrive from outside of a party."""
        self.at(time, party, callback, *arguments).is_input = True

    def soon(self, party: Party, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Have something happen next."""
        handle = Handle(party, callback, arguments)
        self.ready.append(handle)
        return handle

    def run(self, deadline: float, steps: int = 1 << 60) -> None:
        """Let happen what is due until a time (seconds), or so many steps in all.

        Raises:
            Failure: What must not happen did.
        """
        ready = self.ready
        heap = self._heap
        heappop = heapq.heappop
        set_loop = asyncio._set_running_loop
        loop: asyncio.AbstractEventLoop | None = None
        try:
            while self.steps < steps:
                if ready:
                    handle = ready.popleft()
                elif heap and heap[0][0] <= deadline:
                    time, _, handle = heappop(heap)
                    if time > self.now:
                        self.now = time
                else:
                    self.now = max(self.now, deadline)
                    return
                callback = handle.callback
                if callback is None:
                    continue
                party = handle.party
                if not party.is_running:
                    party.hold(handle)
                    continue
                if party.loop is not loop:
                    loop = party.loop
                    set_loop(loop)
                handle.callback = None
                self.steps += 1
                self.digest = hash((self.digest, self.now, party.index))
                callback(*handle.arguments)
                if self.failure is not None:
                    raise self.failure
        finally:
            set_loop(None)

    def end(self) -> None:
        """Nothing will happen any more."""
        for tidy_up in self.at_end:
            tidy_up()
        self.at_end.clear()
        self.ready.clear()
        self._heap.clear()

    def saw(self, value: int) -> None:
        """Make the digest depend on something: two runs of equal digests are the same run."""
        self.digest = hash((self.digest, value))
