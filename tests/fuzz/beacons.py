"""A stranger on the network who says anything in datagrams, to a program that seeks nodes and to a node.

    python -m tests.fuzz.beacons --inputs 10000000
    python -m tests.fuzz.beacons --mutations          each known fault, put back, must be found

He has recorded beacons of this network: of the program, of the node, of another pair with another secret, of other
hours. He changes, cuts, joins and repeats them, from any address. What is believed must be exactly a beacon that was
made with the secret, by the other role, in these hours, at the address that it comes from; an answer must be one to a
question of this program. Honest beacons come in between, and must be believed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dispy.core.discovery import announcing, seeking
from dispy.core.discovery.announcing import Announcer
from dispy.core.discovery.seeking import Seeker
from dispy.protocol import beacon
from dispy.protocol.beacon import HOUR_S, NO_ECHO, SIZE, Beacon, Kind

KEY, OTHER = b"k" * 32, b"o" * 32
PROGRAM, NODE, ATTACKER = ("10.0.0.1", 40000), ("10.0.0.2", 9701), ("10.0.0.66", 666)
SOURCES = [PROGRAM, NODE, ATTACKER, ("fd00::1", 40000), ("10.0.0.1", 1), ("0.0.0.0", 40000)]
UNIX = 1.8e9
FIELDS = [0, 4, 5, 6, 14, 26, 27, 43, 45, 61, 73, 75, SIZE]
"""Offsets at which fields begin."""


class Genuine:
    """A datagram that somebody honest has made."""

    def __init__(
        self, data: bytes, source: tuple[str, int], said: Beacon, hours: int, is_ours: bool
    ) -> None:
        self.data = data
        self.source = source
        self.said = said
        self.hours = hours
        """Hours from now in which it was made."""
        self.is_ours = is_ours
        """True if it was made with the secret of our program and node."""


class Stranger:
    """One campaign.

    Args:
        seed: Seed of its choices.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.faults: list[str] = []
        self.believed = 0
        """Datagrams that were believed, which were honest ones."""
        self.dropped = 0
        self._now = 0.0
        self.seeker = Seeker(b"p" * 16, self._random.randbytes, lambda: 0.0)
        self.seeker.seek(KEY, 0.0)
        self.node = Announcer([KEY], b"n" * 16, NODE[1], self._random.randbytes)
        self.genuine: dict[bytes, Genuine] = {}
        self._ours: set[bytes] = set()
        """Nonces of our program that it still remembers."""
        self.record()

    def record(self) -> None:
        """Have honest ones say what there is to be said; the stranger records it."""
        self.genuine.clear()
        other = Seeker(b"q" * 16, self._random.randbytes, lambda: 0.0)
        for key in (KEY, OTHER):
            other.seek(key, 0.0)
        foreign = Announcer([OTHER], b"m" * 16, NODE[1], self._random.randbytes)
        asked = [self.seeker.seek_beacon(KEY, *PROGRAM, UNIX) for _ in range(seeking.NONCES_MAX)]
        self._ours = {_read(KEY, data).nonce for data in asked}
        for hours in (-3, -2, -1, 0, 1, 2, 3):
            unix_s = UNIX + hours * HOUR_S
            for key, seeker, node in ((KEY, other, self.node), (OTHER, other, foreign)):
                self._keep(seeker.seek_beacon(key, *PROGRAM, unix_s), PROGRAM, key, hours)
                self._keep(seeker.seek_beacon(key, *ATTACKER, unix_s), ATTACKER, key, hours)
                self._keep(node.here(NODE[0], unix_s)[0], NODE, key, hours)
                for echo in (self._random.randbytes(12), self._random.choice(sorted(self._ours))):
                    self._keep(
                        node.answer(beacon.discovery_key(key), NODE[0], unix_s, echo), NODE, key, hours
                    )

    def _keep(self, data: bytes, source: tuple[str, int], key: bytes, hours: int) -> None:
        self.genuine[data] = Genuine(data, source, _read(key, data), hours, key == KEY)

    def say(self) -> None:
        """Say one thing, to both."""
        data, source = self._make(), self._random.choice(SOURCES)
        known = self.genuine.get(data)
        if known is not None and self._random.random() < 0.5:
            source = known.source
        self._look(data, source)

    def _look(self, data: bytes, source: tuple[str, int]) -> None:
        known = self.genuine.get(data)
        may = known is not None and known.is_ours and abs(known.hours) <= 1
        try:
            taken = self.seeker.take(data, source[0], UNIX)
            self._now += announcing.ANSWER_AGAIN_S
            asked = self.node.take(data, source, self._now, UNIX)
        except Exception as error:
            self.faults.append(f"{error!r} of {data.hex()} from {source}")
            return
        for_program = (
            may and known is not None and known.said.kind is Kind.HERE and known.said.address == source[0]
            and (known.said.echo == NO_ECHO or known.said.echo in self._ours)
        )  # fmt: skip
        for_node = may and known is not None and known.said.kind is Kind.SEEK and known.source == source
        if (taken is not None) != for_program:
            self.faults.append(f"the program takes {taken} from {source}, of {data.hex()}")
        if (asked is not None) != for_node:
            self.faults.append(f"the node takes {asked} from {source}, of {data.hex()}")
        is_believed = taken is not None or asked is not None
        self.believed += is_believed
        self.dropped += not is_believed

    def _make(self) -> bytes:
        """Returns a datagram: of his own, a recorded one, or one that was made of those."""
        dice = self._random
        one = dice.choice(list(self.genuine.values())) if dice.random() < 0.05 else self._last(dice)
        data = one.data
        way = dice.randrange(8)
        if way == 0:
            return data
        if way == 1:  # one bit
            position = dice.randrange(SIZE * 8)
            changed = bytearray(data)
            changed[position // 8] ^= 1 << position % 8
            return bytes(changed)
        if way == 2:  # a field of another one
            other = self._last(dice).data
            at = dice.randrange(len(FIELDS) - 1)
            return data[: FIELDS[at]] + other[FIELDS[at] : FIELDS[at + 1]] + data[FIELDS[at + 1] :]
        if way == 3:  # the beginning of one, the end of another
            at = dice.choice(FIELDS)
            return data[:at] + self._last(dice).data[at:]
        if way == 4:
            return data[: dice.randrange(SIZE + 1)]
        if way == 5:
            return data + dice.randbytes(dice.randrange(1, 40))
        if way == 6:
            at = dice.choice(FIELDS)
            return data[:at] + dice.randbytes(SIZE - at)
        return dice.randbytes(dice.randrange(200))

    def _last(self, dice: random.Random) -> Genuine:
        """Returns a recorded beacon, each as often as the others."""
        if len(self._list) != len(self.genuine):
            self._list = list(self.genuine.values())
        return self._list[int(dice.random() * len(self._list))]

    _list: list[Genuine] = []


def _read(key: bytes, data: bytes) -> Beacon:
    found = _REAL_READ(beacon.discovery_key(key), data)
    assert found is not None
    return found


_REAL_READ = beacon.read


def run(seed: int, inputs: int, seconds: float) -> Stranger:
    """Let a stranger talk; he stops at the first faults."""
    stranger = Stranger(seed)
    end = time.monotonic() + seconds
    for count in range(inputs):
        stranger.say()
        if count % 1000 == 0 and (time.monotonic() > end or len(stranger.faults) > 3):
            break
    return stranger


# Known faults.


def _without_mac(key: bytes, data: bytes) -> Beacon | None:
    """Read a beacon, as if its MAC were right."""
    body = data[:-16]
    import hmac

    try:
        return _REAL_READ(key, body + hmac.digest(key, body, "sha256")[:16])
    except ValueError:
        return None


def _short_mac(key: bytes, data: bytes) -> Beacon | None:
    """Read a beacon, and compare the first byte of its MAC only."""
    found = _without_mac(key, data)
    import hmac

    return found if hmac.digest(key, data[:-16], "sha256")[:1] == data[-16:-15] else None


def _without_source(take: Callable[..., Any]) -> Callable[..., Any]:
    """Have the program believe a beacon wherever it comes from."""
    return lambda self, data, _source, unix_s: take(self, data, _stated(data), unix_s)


def _without_asker(take: Callable[..., Any]) -> Callable[..., Any]:
    """Have the node answer to the address that a beacon states."""
    return lambda self, data, _source, now, unix_s: take(
        self, data, (_stated(data), _port(data)), now, unix_s
    )


def _stated(data: bytes) -> str:
    found = _REAL_READ(beacon.discovery_key(KEY), data)
    return "" if found is None else found.address


def _port(data: bytes) -> int:
    found = _REAL_READ(beacon.discovery_key(KEY), data)
    return 0 if found is None else found.port


def _any_hour(key: bytes, hour: int) -> list[bytes]:
    """Returns the tags of seven hours."""
    return [beacon.tag(key, each) for each in range(hour - 3, hour + 4)]


class _All:
    """A collection that has everything."""

    maxlen = 0

    def __contains__(self, _: object) -> bool:
        return True

    def append(self, _: object) -> None:
        """Remember nothing."""


@contextmanager
def _changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "the proof is not compared": (beacon, "read", _without_mac),
    "one byte of the proof is compared": (beacon, "read", _short_mac),
    "a program believes beacons from anywhere": (Seeker, "take", _without_source(Seeker.take)),
    "a node answers whoever a beacon names": (Announcer, "take", _without_asker(Announcer.take)),
    "beacons of any hour are believed": (beacon, "tags", _any_hour),
    "answers to others are believed": (seeking, "deque", lambda **_: _All()),
}
"""Known faults by name: what is replaced, and by what."""


def find_all(seed: int, inputs: int) -> list[str]:
    """Returns the names of the known faults that are not found."""
    missed = []
    for name, change in MUTATIONS.items():
        with _changed(*change):
            is_found = bool(run(seed, inputs, 60).faults)
        print(f"{'found' if is_found else 'MISSED'}: {name}", flush=True)
        if not is_found:
            missed.append(name)
    return missed


def main() -> None:
    """Entry of ``python -m tests.fuzz.beacons``. Exit code 1 if there were faults, or known ones were not found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.beacons")
    parser.add_argument("--inputs", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--mutations", action="store_true")
    options = parser.parse_args()
    if options.mutations:
        sys.exit(1 if find_all(options.seed, 200_000) else 0)
    print(f"seed {options.seed}", flush=True)
    stranger = run(options.seed, options.inputs, options.seconds)
    for fault in stranger.faults:
        print(f"FAULT: {fault}")
    print(f"{stranger.believed} believed, {stranger.dropped} dropped, {len(stranger.faults)} faults")
    if stranger.believed * 500 < stranger.dropped:
        print("FAULT: too few honest beacons came in between")
    sys.exit(1 if stranger.faults or stranger.believed * 500 < stranger.dropped else 0)


if __name__ == "__main__":
    main()
