"""Handshakes between holders of any keys, honest ones and liars, against a model of who must get in as whom.

    python -m tests.fuzz keys --seconds 20 --seed 1
    python -m tests.fuzz keys --mutations            each known fault, put back, must be found

The model is written by the words of ``docs/explanation/security.md``, and shares no code with what is tried: it makes
identities, derived keys and the table of roles by itself. No process, no socket: some ten thousand talks a second.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dispy.errors import DispyError
from dispy.protocol.handshake import Handshake, Proof
from dispy.security import identities
from dispy.security.identities import Revoked
from dispy.security.keys import Key, Keys

from .mutations import encode

NOW = 1_800_000_000
ROLES = ("user", "node", "admin", "relay", "scheduler")
PLACES = (
    ("client", "node"),
    ("client", "scheduler"),
    ("node", "client"),
    ("scheduler", "client"),
    ("relay", "client"),
)
MASTERS = [hashlib.sha256(b"master %d" % number).digest() for number in range(3)]
TYPED = 2
"""Number of the master that was typed."""


class Fault(AssertionError):
    """Somebody got in who must not, or the other way round, or as somebody else."""


@dataclass(frozen=True)
class Who:
    """An identity, as the model has it."""

    role: str
    name: str
    master: int
    until: int | None
    serial: int
    is_direct: bool

    def text(self) -> str:
        parts = [self.role, self.name]
        if self.is_direct:
            parts.append("direct")
        if self.serial:
            parts.append(f"serial={self.serial}")
        if self.until is not None:
            parts.append(datetime.fromtimestamp(self.until, UTC).strftime("until=%Y%m%dT%H%M%SZ"))
        return ":".join([*parts, f"key={fingerprint(MASTERS[self.master])}"])

    def key(self) -> bytes:
        return derived(MASTERS[self.master], self.text())


def fingerprint(key: bytes) -> str:
    return hmac.new(key, b"dispy fingerprint", "sha256").hexdigest()[:16]


def derived(key: bytes, text: str) -> bytes:
    return hmac.new(key, b"dispy 5 derived key\0" + text.encode(), "sha256").digest()


def may(who: Who, role: str, peer_role: str) -> bool:
    """The table of the documents."""
    return {
        ("client", "scheduler"): who.role == "user",
        ("client", "node"): who.role == "scheduler" or (who.role == "user" and who.is_direct),
        ("node", "client"): who.role == "node",
        ("scheduler", "client"): who.role == "scheduler",
    }.get((role, peer_role), False)


@dataclass
class Side:
    """An honest side: masters by their numbers, or derived keys; what it revokes; its clock and its role."""

    role: str
    peer_role: str
    held: list[int | Who]
    revoked: list[Revoked] = field(default_factory=list)
    now: float = NOW

    def keys(self) -> Keys:
        """What it has, for the handshake."""
        lines = []
        for each in self.held:
            if isinstance(each, int):
                lines.append(Key(MASTERS[each], fingerprint(MASTERS[each]), is_typed=each == TYPED))
            else:
                lines.append(
                    Key(each.key(), fingerprint(MASTERS[each.master]), identities.parse(each.text()))
                )
        return Keys(tuple(lines), tuple(self.revoked))

    def takes(self, who: Who, role: str, peer_role: str) -> bool:
        """Whether it takes a key for good, of its own or of its peer."""
        is_revoked = any(
            (each.role, each.name) == (who.role, who.name)
            and (each.serial is None or who.serial <= each.serial)
            for each in self.revoked
        )
        return not is_revoked and (who.until is None or self.now < who.until) and may(who, role, peer_role)

    def common(self, who: Who) -> bytes | None:
        """The key in common with who has that identity."""
        if who in self.held or (who.master in self.held and who.master != TYPED):
            return who.key()
        return None

    def first(self) -> int | Who:
        """What it dials with."""
        valid = [
            each
            for each in self.held
            if isinstance(each, int) or each.until is None or self.now < each.until
        ]
        return valid[0] if valid else self.held[0]


@dataclass
class Claim:
    """What a liar says that it is, and the key that it proves."""

    who: Who | str | None
    """None: to have a master. A text is no identity."""
    key: bytes

    def keys(self) -> Keys:
        identity: Any = (
            None if self.who is None else _Said(self.who if isinstance(self.who, str) else self.who.text())
        )
        return Keys((Key(self.key, "", identity),))


@dataclass(frozen=True)
class _Said:
    """An identity that is whatever text was chosen."""

    words: str
    until: None = None

    def text(self) -> str:
        return self.words


class Liar(Handshake):
    """An end that checks nothing, says its claim, and proves its key."""

    def _fault_of_ours(self, identity: Any) -> str:
        return ""

    def _choose(self, said: list[str]) -> tuple[Any, bytes]:
        return None, self._key

    def _on_dialers_proof(self, proof: Proof) -> bytes:
        self.done = True
        return encode(Proof(self._mac(b"listener", self._key)))

    def _on_listeners_proof(self, proof: Proof) -> None:
        self.done = True


def expect(side: Side, claim: Claim, *, is_dialer: bool) -> tuple[bool, Who | None]:
    """Whether an honest side lets a claim in, and as whom (None: as somebody with a master)."""
    first = side.first()
    if is_dialer and isinstance(first, Who) and not side.takes(first, side.role, side.peer_role):
        return False, None
    if claim.who is None:
        held = [first] if is_dialer else side.held
        proved = [
            each for each in held if claim.key == (MASTERS[each] if isinstance(each, int) else each.key())
        ]
        ours = proved[0] if proved else None
        is_fine = not isinstance(ours, Who) or side.takes(ours, side.role, side.peer_role)
        return bool(proved) and is_fine, None
    if isinstance(claim.who, str) or side.common(claim.who) != claim.key:
        return False, None
    is_own = is_dialer and claim.who == first
    return is_own or side.takes(claim.who, side.peer_role, side.role), claim.who


class KeyTalks:
    """Talks by chance.

    Args:
        seed: The same one plays the same talks.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.played: Counter[str] = Counter()

    def run(self, seconds: float, inputs: int) -> list[str]:
        """Play until a fault, so many talks, or for so long; returns the faults."""
        end = time.monotonic() + seconds
        while self.played.total() < inputs and time.monotonic() < end:
            try:
                self.play()
            except Fault as fault:
                return [str(fault)]
        return []

    def play(self) -> None:
        """Play one talk, of an honest side with a liar or an honest one.

        Raises:
            Fault: The honest side did not do what the model says.
        """
        chance = self._chance
        role, peer_role = chance.choice(PLACES)
        if chance.random() < 0.5:
            role, peer_role = peer_role, role
        side = Side(role, peer_role, self._held(), self._revoked(), self._clock())
        claim = self._claim(side)
        is_dialer = chance.random() < 0.5
        honest = Handshake(side.keys(), role, peer_role, bytes(32), is_dialer=is_dialer, now=side.now)
        liar = Liar(claim.keys(), peer_role, role, bytes([1]) * 32, is_dialer=not is_dialer, now=NOW)
        is_in = _talk(honest, liar, is_dialer=is_dialer)
        wanted, who = expect(side, claim, is_dialer=is_dialer)
        peer = None if honest.peer is None else honest.peer.text()
        if is_in != wanted or (is_in and peer != (None if who is None else who.text())):
            raise Fault(
                f"{'let in' if is_in else 'refused'} as {peer}, and the model says "
                f"{'let in' if wanted else 'refused'} as {who}: {side} "
                f"{'dials' if is_dialer else 'is dialed by'} {claim}"
            )
        self.played["let in" if is_in else "refused"] += 1

    def _who(self) -> Who:
        chance = self._chance
        role = chance.choice(ROLES)
        until = NOW + chance.randint(-1, 2) if chance.random() < 0.3 else None
        is_direct = role == "user" and chance.random() < 0.5
        return Who(
            role,
            chance.choice("ab"),
            chance.choice((0, 0, 1, TYPED)),
            until,
            chance.choice((0, 0, 1)),
            is_direct,
        )

    def _held(self) -> list[int | Who]:
        chance = self._chance
        if chance.random() < 0.6:
            return list(chance.choice(((0,), (0,), (0, 1), (1, 0), (TYPED,), (TYPED, 0))))
        one = self._who()
        other = Who(one.role, one.name, chance.choice((0, 1)), None, 1 - min(one.serial, 1), one.is_direct)
        return [one, other] if chance.random() < 0.3 else [one]

    def _revoked(self) -> list[Revoked]:
        chance = self._chance
        if chance.random() < 0.7:
            return []
        return [Revoked(chance.choice(ROLES), chance.choice("ab"), chance.choice((None, 0, 1)))]

    def _clock(self) -> float:
        return NOW + self._chance.choice((-1, 0, 0, 0.5, 1, 2))

    def _claim(self, side: Side) -> Claim:
        """An honest claim as often as not; else one of which something is wrong."""
        chance = self._chance
        who = chance.choice(side.held) if chance.random() < 0.3 else self._who()
        if isinstance(who, int):
            return Claim(None, MASTERS[who])
        if chance.random() < 0.5:
            return Claim(who, who.key())
        first = side.held[0]
        own = MASTERS[first] if isinstance(first, int) else first.key()
        said = chance.choice(
            (who, who, None, who.text().replace(":", ";", 1), who.text() + ":", "", "x" * 160)
        )
        said = None if said == "" else said
        text = said.text() if isinstance(said, Who) else said or ""
        key = chance.choice(
            (
                self._who().key(),
                derived(own, text),
                own if isinstance(first, Who) else bytes(32),
                who.key(),
                bytes(32),
            )
        )
        return Claim(said, key)


def _talk(honest: Handshake, liar: Handshake, *, is_dialer: bool) -> bool:
    """Let both talk to the end; returns whether the honest one lets the other in."""
    dialer = honest if is_dialer else liar
    sides = [liar, honest] if is_dialer else [honest, liar]
    try:
        message = dialer.start()
        while message is not None:
            message = sides[0].receive(message)
            sides.reverse()
    except DispyError:
        return False
    return honest.done
