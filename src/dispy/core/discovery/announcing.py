"""A node that is there: when it says so unasked, and whom it answers.

After ``announce`` a HERE is due at once, after 0.3 s and after 1 s; then none, until the node has another interface.
So at rest a node sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from dispy.protocol import beacon
from dispy.protocol.beacon import HOUR_S, Beacon, Kind

FIRST_S = (0.0, 0.3, 1.0)
"""Seconds after ``announce`` at which beacons are due."""

ANSWER_AGAIN_S = 1.0
"""Least seconds between two answers to one address and port: copies of a SEEK are answered once."""

ANSWERED_MAX = 1000
"""Programs that are remembered as answered; while so many are, others get no answer until the second is over."""


class Announcer:
    """The beacons of one node.

    Args:
        keys: Keys of its secret, at least one.
        incarnation: 16 bytes that name its run.
        port: TCP port at which it listens.
        randomness: Returns so many random bytes.
    """

    def __init__(
        self, keys: list[bytes], incarnation: bytes, port: int, randomness: Callable[[int], bytes]
    ) -> None:
        self._keys = [beacon.discovery_key(key) for key in keys]
        self._incarnation = incarnation
        self._port = port
        self._randomness = randomness
        self._began_s = 0.0
        self._sent = len(FIRST_S)
        """Beacons since ``announce``."""
        self._answered: dict[tuple[str, int], float] = {}
        """When an answer was sent (monotonic seconds) to each address and port, the oldest first."""
        self._hour = -1
        self._tags: dict[bytes, bytes] = {}
        """Keys of beacons by the tags that are taken in this hour."""

    def announce(self, now_s: float) -> None:
        """Say that the node is there, three times from now on (monotonic seconds)."""
        self._began_s, self._sent = now_s, 0

    def next_s(self) -> float | None:
        """Returns when the next beacon is due (monotonic seconds); None: none is."""
        return self._began_s + FIRST_S[self._sent] if self._sent < len(FIRST_S) else None

    def due(self, now_s: float) -> bool:
        """True if a beacon is due, which is noted as sent."""
        at = self.next_s()
        if at is None or at > now_s:
            return False
        self._sent += 1
        return True

    def here(self, address: str, unix_s: float) -> list[bytes]:
        """Returns what is said unasked, as bytes: a HERE for each key.

        Args:
            address: Address at which the node is reached, and from which the datagrams are sent.
            unix_s: Seconds since the epoch.
        """
        return [self._seal(key, address, unix_s, beacon.NO_ECHO) for key in self._keys]

    def answer(self, key: bytes, address: str, unix_s: float, nonce: bytes) -> bytes:
        """Returns the answer to a SEEK, as bytes.

        Args:
            key: Key of beacons that the SEEK was made with.
            address: As of ``here``.
            unix_s: Seconds since the epoch.
            nonce: That of the SEEK.
        """
        return self._seal(key, address, unix_s, nonce)

    def _seal(self, key: bytes, address: str, unix_s: float, echo: bytes) -> bytes:
        nonce = self._randomness(beacon.NONCE_SIZE)
        made = Beacon(Kind.HERE, address, self._port, self._incarnation, nonce, echo)
        return beacon.seal(key, int(unix_s // HOUR_S), made)

    def take(
        self, data: bytes, source: tuple[str, int], now_s: float, unix_s: float
    ) -> tuple[bytes, Beacon] | None:
        """Returns the SEEK in a datagram, and the key that it was made with, if it is to be answered; else None.

        Answered is a SEEK made with the secret that came from the address and port that it states: a copy from
        elsewhere cannot turn answers on somebody.

        Args:
            data: The datagram.
            source: IP address, without a zone, and port that it came from.
            now_s: Monotonic seconds.
            unix_s: Seconds since the epoch.
        """
        hour = int(unix_s // HOUR_S)
        if hour != self._hour:
            self._hour = hour
            self._tags = {tag: key for key in self._keys for tag in beacon.tags(key, hour)}
        key = self._tags.get(beacon.tag_of(data))
        if key is None:
            return None
        found = beacon.read(key, data)
        if found is None or found.kind is not Kind.SEEK or (found.address, found.port) != source:
            return None
        while self._answered:
            oldest, at = next(iter(self._answered.items()))
            if now_s - at < ANSWER_AGAIN_S:
                break
            del self._answered[oldest]
        if source in self._answered or len(self._answered) >= ANSWERED_MAX:
            return None
        self._answered[source] = now_s
        return key, found
