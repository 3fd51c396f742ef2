"""The search of one program for nodes by beacons: when to seek, and which answers to believe.

States: a secret is sought from ``seek`` to ``drop``. After ``seek`` a SEEK is due at once, after 0.3 s and after 1 s,
as datagrams are lost; then after pauses that grow from 10 to 60 s, as nodes that come later say so themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dispy.protocol import beacon
from dispy.protocol.beacon import HOUR_S, Beacon, Kind

FIRST_S = (0.0, 0.3, 1.0)
"""Seconds after ``seek`` at which the first beacons are due."""

PAUSE_S = 10.0
"""Seconds from the last of those to the next one."""

PAUSE_MAX_S = 60.0
"""Longest pause (seconds)."""

GROWTH = 1.5
"""Factor from one pause to the next."""

SPREAD = 0.2
"""Share by which pauses differ at random, so that programs that began together do not go on together."""

NONCES_MAX = 64
"""Nonces of our own beacons that are remembered, as answers repeat them: of about a minute on ten interfaces."""


class _Sought:
    """A secret that is sought, by the key of its beacons."""

    __slots__ = ("due_s", "key", "pause_s", "sent")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.sent = 0
        """Beacons since ``seek``: 0 to 3, then 4."""
        self.due_s = 0.0
        """When the next one is due (monotonic seconds)."""
        self.pause_s = PAUSE_S


class Seeker:
    """The search by all secrets of one program.

    Args:
        identity: 16 bytes that name the program's run.
        randomness: Returns so many random bytes.
        spread: Returns a random number from -1 to 1.
    """

    def __init__(
        self, identity: bytes, randomness: Callable[[int], bytes], spread: Callable[[], float]
    ) -> None:
        self._identity = identity
        self._randomness = randomness
        self._spread = spread
        self._sought: dict[bytes, _Sought] = {}
        """Searches by the key of the secret."""
        self._nonces: deque[bytes] = deque(maxlen=NONCES_MAX)
        self._tags: dict[bytes, bytes] = {}
        """Keys of secrets by the tags that are taken in this hour."""
        self._hour = -1

    def seek(self, key: bytes, now_s: float) -> None:
        """Seek nodes with a secret from now on; if it is sought already, as if that began now.

        Without effect while the first beacons are still due: whoever asks again and again makes no more of them.

        Args:
            key: Key of the secret.
            now_s: Monotonic seconds.
        """
        if key in self._sought and self._sought[key].sent < len(FIRST_S):
            return
        sought = self._sought[key] = _Sought(beacon.discovery_key(key))
        sought.due_s = now_s
        self._hour = -1

    def drop(self, key: bytes) -> None:
        """Seek nodes with a secret no more."""
        self._sought.pop(key, None)
        self._hour = -1

    def next_s(self) -> float | None:
        """Returns when the next beacon is due (monotonic seconds); None: nothing is sought."""
        return min((each.due_s for each in self._sought.values()), default=None)

    def due(self, now_s: float) -> list[bytes]:
        """Returns the keys of the secrets whose beacons are due, and notes them as sent.

        Args:
            now_s: Monotonic seconds.
        """
        found = []
        for key, sought in self._sought.items():
            if sought.due_s > now_s:
                continue
            found.append(key)
            sought.sent = min(sought.sent + 1, len(FIRST_S) + 1)
            if sought.sent < len(FIRST_S):
                sought.due_s = now_s + FIRST_S[sought.sent] - FIRST_S[sought.sent - 1]
            else:
                sought.due_s = now_s + sought.pause_s * (1 + SPREAD * self._spread())
                sought.pause_s = min(sought.pause_s * GROWTH, PAUSE_MAX_S)
        return found

    def seek_beacon(self, key: bytes, address: str, port: int, unix_s: float) -> bytes:
        """Returns a SEEK for one interface, as bytes.

        Args:
            key: Key of the secret.
            address: Our address there.
            port: UDP port at that address to which answers go.
            unix_s: Seconds since the epoch.
        """
        nonce = self._randomness(beacon.NONCE_SIZE)
        self._nonces.append(nonce)
        made = Beacon(Kind.SEEK, address, port, self._identity, nonce)
        return beacon.seal(self._sought[key].key, int(unix_s // HOUR_S), made)

    def take(self, data: bytes, source: str, unix_s: float) -> tuple[bytes, Beacon] | None:
        """Returns the secret's key and what a node has said; None for what is not believed.

        Believed is a HERE made with the secret, which came from the address that it states; an answer must repeat a
        nonce of ours. Dropped are beacons of programs, of other secrets, of other hours, and copies of what was said
        at another address.

        Args:
            data: The datagram.
            source: IP address that it came from, without a zone.
            unix_s: Seconds since the epoch.
        """
        self._turn(int(unix_s // HOUR_S))
        key = self._tags.get(beacon.tag_of(data))
        if key is None:
            return None
        found = beacon.read(self._sought[key].key, data)
        if found is None or found.kind is not Kind.HERE or found.address != source:
            return None
        if found.echo != beacon.NO_ECHO and found.echo not in self._nonces:
            return None
        return key, found

    def _turn(self, hour: int) -> None:
        """Make the table of tags, unless it is that of this hour."""
        if hour != self._hour:
            self._hour = hour
            self._tags = {
                tag: key for key, sought in self._sought.items() for tag in beacon.tags(sought.key, hour)
            }
