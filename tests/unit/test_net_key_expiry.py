"""A connection ends when a key of it expires: by the clock, which may be set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dispy.errors import AuthenticationError
from dispy.net.connection_timer import EXPIRY_LOOK_S, ConnectionTimer
from dispy.security.identities import Identity

NOW = 1_800_000_000


class Stage:
    """A timer with a clock that is set, and the timers that it has asked for."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.refused: list[Exception] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        machine: Any = SimpleNamespace(refuse=self.refused.append)
        sender: Any = SimpleNamespace(flush_guarded=lambda: None)
        self.timer = ConnectionTimer(machine, sender, self._call_later)
        self.clock: Any = SimpleNamespace(time=lambda: self.now)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        entry = (seconds, call)
        self.due.append(entry)
        handle: Any = SimpleNamespace(cancel=lambda: self.due.remove(entry))
        return handle

    def begin(self, left_s: int) -> None:
        self.timer.end_with(Identity("user", "alice", "0" * 16, NOW + left_s), self.clock)

    def pass_time(self) -> float:
        """The one timer is due; returns after how many seconds."""
        ((seconds, call),) = self.due
        self.due.clear()
        self.now += seconds
        call()
        return seconds


def test_it_ends_at_the_moment_and_not_before() -> None:
    stage = Stage()
    stage.begin(150)
    assert [stage.pass_time() for _ in range(3)] == [EXPIRY_LOOK_S, EXPIRY_LOOK_S, 30.0]
    (error,) = stage.refused
    assert isinstance(error, AuthenticationError)
    assert "the key of user alice has expired at 2027-01-15 08:02:30 UTC" in str(error)
    assert "dispy secret derive user alice" in str(error)
    assert stage.due == []


@pytest.mark.parametrize(("jump", "is_over"), [(3600.0, True), (-3600.0, False)])
def test_a_clock_that_is_set_is_seen_at_the_next_look(jump: float, is_over: bool) -> None:
    stage = Stage()
    stage.begin(1000)
    stage.now += jump
    stage.pass_time()
    assert bool(stage.refused) is is_over


def test_a_connection_that_is_gone_has_no_timer() -> None:
    stage = Stage()
    stage.begin(1000)
    stage.timer.close()
    assert stage.due == []
    stage.begin(-1)
    assert stage.refused == []
