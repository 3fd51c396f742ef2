"""What happens to the network between a program and a node, changed while they talk."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.integration.proxy import RESET, Direction, Piece


class Weather:
    """The fault of all connections of one proxy: fine, until something is asked for."""

    def __init__(self) -> None:
        self._hold_until = 0.0
        self._slow_until = 0.0
        self._reset_until = 0.0

    def hold(self, seconds: float) -> None:
        """Nothing passes for a while: a partition, or a peer that seems to be there."""
        self._hold_until = time.monotonic() + seconds

    def slow(self, seconds: float) -> None:
        """Some 200 kB/s pass for a while."""
        self._slow_until = time.monotonic() + seconds

    def reset(self, seconds: float = 0.05) -> None:
        """Whatever passes in the next moments breaks its connection, in the middle of a frame."""
        self._reset_until = time.monotonic() + seconds

    def clear(self) -> None:
        """Fine again."""
        self._hold_until = self._slow_until = self._reset_until = 0.0

    def __call__(self, direction: Direction, before: int, data: bytes) -> Sequence[Piece]:
        now = time.monotonic()
        pieces: list[Piece] = []
        if now < self._hold_until:
            pieces.append(self._hold_until - now)
        if now < self._reset_until:
            return [*pieces, data[: len(data) // 2], RESET]
        if now < self._slow_until:
            for start in range(0, len(data), 10_000):
                pieces += [data[start : start + 10_000], 0.05]
            return pieces
        return [*pieces, data]
