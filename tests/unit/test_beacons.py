"""Beacons: what is believed, whom a node answers, and when something is sent. Played time, no sockets."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import msgspec
import pytest

from dispy.core.discovery.announcing import ANSWER_AGAIN_S, ANSWERED_MAX, Announcer
from dispy.core.discovery.seeking import FIRST_S, NONCES_MAX, PAUSE_MAX_S, PAUSE_S, SPREAD, Seeker
from dispy.protocol import beacon
from dispy.protocol.beacon import HOUR_S, SIZE, Beacon, Kind

KEY, OTHER = b"k" * 32, b"o" * 32
NOW, UNIX = 1000.0, 1.8e9
PROGRAM, NODE = ("10.0.0.1", 40000), ("10.0.0.2", 9701)
PORT = 9701


def _random() -> Callable[[int], bytes]:
    """Returns a source of random bytes, the same ones each time."""
    return random.Random(1).randbytes


@dataclasses.dataclass
class Both:
    """A program and a node with the same secret."""

    seeker: Seeker
    node: Announcer

    def sought(self, address: str = PROGRAM[0], port: int = PROGRAM[1], unix_s: float = UNIX) -> bytes:
        """Returns a SEEK of the program."""
        return self.seeker.seek_beacon(KEY, address, port, unix_s)

    def answer(self, data: bytes, source: tuple[str, int] = PROGRAM, now_s: float = NOW) -> bytes | None:
        """Returns the node's answer to a datagram; None: it gives none."""
        found = self.node.take(data, source, now_s, UNIX)
        return None if found is None else self.node.answer(found[0], NODE[0], UNIX, found[1].nonce)


@pytest.fixture
def both() -> Both:
    seeker = Seeker(b"p" * 16, _random(), lambda: 0.0)
    seeker.seek(KEY, NOW)
    return Both(seeker, Announcer([KEY], b"n" * 16, PORT, _random()))


@pytest.mark.parametrize("address", ["10.0.0.2", "255.255.255.254", "fd00::2", "fe80::1"])
@pytest.mark.parametrize("kind", Kind)
def test_a_beacon_says_what_it_was_given(address: str, kind: Kind) -> None:
    key = beacon.discovery_key(KEY)
    made = Beacon(kind, address, 65535, bytes(range(16)), b"n" * 12, b"e" * 12)
    data = beacon.seal(key, 5, made)
    assert len(data) == SIZE
    assert beacon.tag_of(data) == beacon.tag(key, 5)
    assert beacon.read(key, data) == made


def test_nothing_of_the_secret_is_in_a_beacon() -> None:
    """Neither a key, nor what stays the same from hour to hour."""
    key = beacon.discovery_key(KEY)
    made = Beacon(Kind.HERE, "10.0.0.2", PORT, b"i" * 16, b"n" * 12)
    one, other = beacon.seal(key, 5, made), beacon.seal(key, 6, made)
    assert KEY not in one
    assert key not in one
    assert one[6:14] != other[6:14]
    assert one[75:] != other[75:]


@pytest.mark.parametrize("position", range(SIZE))
def test_a_changed_byte_is_not_believed(both: Both, position: int) -> None:
    data = bytearray(both.node.here(NODE[0], UNIX)[0])
    data[position] ^= 1
    assert both.seeker.take(bytes(data), NODE[0], UNIX) is None
    data[position] ^= 1
    assert both.seeker.take(bytes(data), NODE[0], UNIX) is not None


@pytest.mark.parametrize(
    "made",
    [
        {"port": 0},
        {"length": 5},
        {"length": 16, "padding": b"x"},
        {"length": 4, "padding": b"x"},
        {"kind": 3},
        {"flags": 1},
        {"version": 2},
    ],
    ids=str,
)
def test_who_has_the_key_cannot_send_nonsense(both: Both, made: dict[str, int | bytes]) -> None:
    """All of these are made with the right key."""
    import hmac
    import struct

    key = beacon.discovery_key(KEY)
    values = {"version": 1, "kind": 2, "length": 4, "port": 9701, "flags": 0, "padding": b""} | made
    packed = bytes([10, 0, 0, 2]) + bytes(values["padding"])  # type: ignore[arg-type]
    if values["length"] == 16:
        packed = bytes([10, 0, 0, 2])
        both_sources = [str(NODE[0]), "a00:2::"]
    else:
        both_sources = [str(NODE[0])]
    body = struct.pack(
        ">4sBB8s12sB16sH16s12sH", b"dspy", values["version"], values["kind"], beacon.tag(key, int(UNIX // HOUR_S)),
        b"n" * 12, values["length"], packed, values["port"], b"i" * 16, bytes(12), values["flags"],
    )  # fmt: skip
    data = body + hmac.digest(key, body, "sha256")[:16]
    for source in both_sources[:1]:
        assert both.seeker.take(data, source, UNIX) is None


@pytest.mark.parametrize("size", [0, 1, 4, 5, 13, SIZE - 1, SIZE + 1, 65507])
def test_datagrams_of_other_sizes_are_dropped(both: Both, size: int) -> None:
    data = (both.node.here(NODE[0], UNIX)[0] + bytes(65507))[:size]
    assert both.seeker.take(data, NODE[0], UNIX) is None
    assert both.node.take(data, NODE, NOW, UNIX) is None
    assert beacon.read(beacon.discovery_key(KEY), data) is None


def test_program_and_node_find_each_other(both: Both) -> None:
    answer = both.answer(both.sought())
    assert answer is not None
    taken = both.seeker.take(answer, NODE[0], UNIX)
    assert taken is not None
    key, found = taken
    assert (key, found.address, found.port, found.incarnation) == (KEY, *NODE, b"n" * 16)


def test_what_a_node_says_unasked_is_believed(both: Both) -> None:
    assert both.seeker.take(both.node.here(NODE[0], UNIX)[0], NODE[0], UNIX) is not None


@pytest.mark.parametrize("hours", [-2, -1, 0, 1, 2])
def test_clocks_may_be_an_hour_apart(both: Both, hours: int) -> None:
    data = both.node.here(NODE[0], UNIX + hours * HOUR_S)[0]
    assert (both.seeker.take(data, NODE[0], UNIX) is not None) == (abs(hours) <= 1)
    asked = both.sought(unix_s=UNIX + hours * HOUR_S)
    assert (both.answer(asked) is not None) == (abs(hours) <= 1)


# Attackers: a stranger, who has no key, and records, repeats, and forges sources.


def test_other_secrets_are_dropped(both: Both) -> None:
    stranger = Announcer([OTHER], b"n" * 16, PORT, _random())
    assert both.seeker.take(stranger.here(NODE[0], UNIX)[0], NODE[0], UNIX) is None
    seeker = Seeker(b"p" * 16, _random(), lambda: 0.0)
    seeker.seek(OTHER, NOW)
    assert both.answer(seeker.seek_beacon(OTHER, *PROGRAM, UNIX)) is None


def test_a_copy_from_elsewhere_is_dropped(both: Both) -> None:
    """So nobody is led to the attacker, and no answer goes to somebody who did not ask."""
    assert both.seeker.take(both.node.here(NODE[0], UNIX)[0], "10.0.0.66", UNIX) is None
    assert both.answer(both.sought(), ("10.0.0.66", PROGRAM[1])) is None
    assert both.answer(both.sought(), (PROGRAM[0], PROGRAM[1] + 1)) is None


def test_an_answer_to_somebody_else_is_dropped(both: Both) -> None:
    """It was recorded, and comes with a forged source."""
    other = Seeker(b"q" * 16, random.Random(2).randbytes, lambda: 0.0)
    other.seek(KEY, NOW)
    answer = both.answer(other.seek_beacon(KEY, *PROGRAM, UNIX))
    assert answer is not None
    assert both.seeker.take(answer, NODE[0], UNIX) is None
    assert other.take(answer, NODE[0], UNIX) is not None


def test_a_copy_of_a_question_is_answered_once_a_second(both: Both) -> None:
    asked = both.sought()
    answers = [both.answer(asked, now_s=NOW + tenth / 10) for tenth in range(31)]
    assert sum(answer is not None for answer in answers) == 4
    assert ANSWER_AGAIN_S == 1.0


def test_a_flood_of_questions_with_the_key_is_answered_up_to_a_limit(both: Both) -> None:
    asked = [both.sought(port=1 + number) for number in range(ANSWERED_MAX + 50)]
    answers = [both.answer(data, (PROGRAM[0], 1 + number)) for number, data in enumerate(asked)]
    assert sum(answer is not None for answer in answers) == ANSWERED_MAX
    assert both.answer(both.sought(port=65000), (PROGRAM[0], 65000), NOW + ANSWER_AGAIN_S) is not None


def test_each_role_takes_only_what_the_other_says(both: Both) -> None:
    """So an answer is never answered: two nodes cannot be set at each other."""
    assert both.answer(both.node.here(NODE[0], UNIX)[0], NODE) is None
    assert both.seeker.take(both.sought(), PROGRAM[0], UNIX) is None


def test_only_the_last_questions_are_remembered(both: Both) -> None:
    first = both.answer(both.sought())
    assert first is not None
    for _ in range(NONCES_MAX):
        both.sought()
    assert both.seeker.take(first, NODE[0], UNIX) is None


def test_a_secret_that_is_not_sought_any_more_is_dropped(both: Both) -> None:
    data = both.node.here(NODE[0], UNIX)[0]
    assert both.seeker.take(data, NODE[0], UNIX) is not None
    both.seeker.drop(KEY)
    assert both.seeker.take(data, NODE[0], UNIX) is None
    assert both.seeker.next_s() is None


def test_a_secret_that_is_being_changed_has_two_keys(both: Both) -> None:
    """A node with both is found by programs with either."""
    node = Announcer([KEY, OTHER], b"n" * 16, PORT, _random())
    other = Seeker(b"q" * 16, random.Random(2).randbytes, lambda: 0.0)
    other.seek(OTHER, NOW)
    said = node.here(NODE[0], UNIX)
    for key, seeker in ((KEY, both.seeker), (OTHER, other)):
        assert [taken[0] for data in said if (taken := seeker.take(data, NODE[0], UNIX))] == [key]
        asked = node.take(seeker.seek_beacon(key, *PROGRAM, UNIX), PROGRAM, NOW + ord(key[:1]), UNIX)
        assert asked is not None
        answer = node.answer(asked[0], NODE[0], UNIX, asked[1].nonce)
        assert seeker.take(answer, NODE[0], UNIX) is not None


# When.


def _times(seeker: Seeker, until_s: float) -> list[float]:
    """Returns the seconds after ``NOW`` at which a search sends, up to a time."""
    found = []
    while (at := seeker.next_s()) is not None and at <= NOW + until_s:
        assert seeker.due(at - 0.001) == []
        assert seeker.due(at) == [KEY]
        found.append(at - NOW)
    return found


def test_a_search_sends_at_once_and_ever_more_seldom(both: Both) -> None:
    times = _times(both.seeker, 3600)
    assert times[:3] == pytest.approx(FIRST_S)
    pauses = [after - before for before, after in itertools.pairwise(times[2:])]
    assert pauses[0] == pytest.approx(PAUSE_S)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(PAUSE_MAX_S)


def test_pauses_differ_from_program_to_program() -> None:
    ends = []
    for spread in (-1.0, 1.0):
        seeker = Seeker(b"p" * 16, _random(), lambda spread=spread: spread)  # type: ignore[misc]
        seeker.seek(KEY, NOW)
        ends.append(_times(seeker, 20)[3])
    assert ends == pytest.approx([1 + PAUSE_S * (1 - SPREAD), 1 + PAUSE_S * (1 + SPREAD)])


def test_a_search_begins_anew_but_not_while_it_begins(both: Both) -> None:
    """A program that asks without end makes no storm."""
    for _ in range(1000):
        both.seeker.seek(KEY, NOW)
        both.seeker.due(NOW)
    assert len(_times(both.seeker, 2)) == 2
    both.seeker.seek(KEY, NOW + 5)
    assert _times(both.seeker, 7) == pytest.approx([5, 5.3, 6])


def test_a_node_says_three_times_that_it_is_there_and_then_nothing(both: Both) -> None:
    assert both.node.next_s() is None
    both.node.announce(NOW)
    found = []
    while (at := both.node.next_s()) is not None:
        assert not both.node.due(at - 0.001)
        assert both.node.due(at)
        found.append(at - NOW)
    assert found == pytest.approx([0, 0.3, 1.0])
    assert not both.node.due(NOW + 1e6)


def test_beacons_are_values() -> None:
    made = Beacon(Kind.HERE, "10.0.0.2", PORT, b"i" * 16, b"n" * 12)
    assert msgspec.structs.replace(made, port=1) != made
