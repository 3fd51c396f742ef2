"""Timers of the staging core: what is to be done at some time, with one ``Wake`` for the earliest of them."""

from __future__ import annotations

import heapq
import math

from dispy.core.staging.actions import Outbox, Wake
from dispy.core.staging.ids import Seconds
from dispy.core.staging.state import Due, State


def add_timer(state: State, at: Seconds, due: Due, number: int = 0) -> None:
    """Have something done at a time, for the stage or part with this number. A timer is not taken back: what it is
    for looks whether it is still wanted."""
    heapq.heappush(state.timers, (at, next(state.serials), due, number))


def take_due(state: State, now: Seconds) -> list[tuple[Due, int]]:
    """Returns what is to be done by now, in the order of its times, and takes it out."""
    if now >= state.wake_at:
        state.wake_at = math.inf
    found = []
    while state.timers and state.timers[0][0] <= now:
        _, _, due, number = heapq.heappop(state.timers)
        found.append((due, number))
    return found


def wake(state: State, out: Outbox) -> None:
    """Ask to be woken for the earliest timer, unless that was asked for already."""
    if state.timers and state.timers[0][0] < state.wake_at:
        state.wake_at = state.timers[0][0]
        out.append(Wake(state.wake_at))
