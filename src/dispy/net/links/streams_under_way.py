"""Messages with large payloads on their way to a peer, as streams, so that one that is not wanted any more can be
stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dispy.net.connection import Connection
from dispy.protocol.streams import Group, Source

ENTRIES_MIN = 64
"""Entries of ``StreamsUnderWay`` at which those that have left are removed for the first time."""

K = TypeVar("K")
M = TypeVar("M")


class StreamsUnderWay(Generic[K, M]):
    """Messages whose payloads may not have left completely, by a key of the owner's: a job's attempt, say."""

    def __init__(self) -> None:
        self._by_key: dict[K, tuple[Connection, Group, M]] = {}
        """Messages that were not over when last looked at, in the order of sending."""
        self._look_at = ENTRIES_MIN
        """Number of entries at which those that are over are removed. Twice as many as were left the last time: so an
        entry is looked at twice on average, however many wait."""

    def send(
        self, connection: Connection, key: K, parts: list[tuple[Any, str, Source]], message: M
    ) -> None:
        """Send a message with its payloads as streams (``Connection.send_streamed``); messages that are sent
        meanwhile overtake it."""
        group = connection.send_streamed(parts, message)
        if len(self._by_key) >= self._look_at:
            self._by_key = {other: entry for other, entry in self._by_key.items() if not entry[1].is_over()}
            self._look_at = max(ENTRIES_MIN, 2 * len(self._by_key))
        self._by_key[key] = connection, group, message

    def give_up(self, key: K) -> M | None:
        """Stop sending a message, which the peer will never get.

        Returns:
            The message; None, and nothing is done, if it has left, or there is none of this key.
        """
        entry = self._by_key.pop(key, None)
        if entry is None:
            return None
        connection, group, message = entry
        return message if connection.give_up(group) else None

    def give_up_all(self, is_meant: Callable[[K], bool] = lambda _: True) -> list[M]:
        """Stop sending all messages whose keys are meant. Returns those that the peer will never get, the oldest
        first."""
        given_up = [self.give_up(key) for key in list(self._by_key) if is_meant(key)]
        return [message for message in given_up if message is not None]

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def clear(self) -> None:
        """Forget all: the connection is gone."""
        self._by_key.clear()

    def under_way(self) -> list[K]:
        """Returns the keys of the messages that have not left completely."""
        return [key for key, (_, group, _) in self._by_key.items() if not group.is_over()]
