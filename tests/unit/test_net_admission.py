"""Fair shares before the proof: nobody is kept out by another dialer, and nothing grows beyond its bound."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy.net import admission
from dispy.net.admission import (
    BUSY_SHARE,
    HALF_OPEN_MAX,
    KNOWN_PER_S,
    KNOWN_S,
    LOCAL,
    REMEMBERED_MAX,
    SILENT_MAX,
    TOKENS_MAX,
    TOKENS_PER_S,
    Admission,
    dialer_of,
)

FLOOD, HONEST = "192.0.2.1", "192.0.2.2"


class Door:
    """An admission with a clock; connections are numbers."""

    def __init__(self) -> None:
        self.admission: Admission[int] = Admission()
        self.now = 0.0
        self.address: dict[int, str] = {}
        self.gone: list[int] = []
        """Connections that have given way, in order."""
        self._numbers = itertools.count()

    def arrive(self, address: str) -> int:
        """A connection from an address."""
        number = next(self._numbers)
        self.address[number] = address
        gone = self.admission.arrive(number, address, self.now)
        if gone is not None:
            self.gone.append(gone)
        return number

    def ask(self, address: str) -> int:
        """A connection that says something right at once."""
        number = self.arrive(address)
        self.admission.ask(number)
        return number

    def take_all(self) -> list[int]:
        """All that have a turn now."""
        taken = []
        while (number := self.take()) is not None:
            taken.append(number)
        return taken

    def take(self) -> int | None:
        """The next that has its turn."""
        turn = self.admission.take(self.now)
        if turn is None:
            return None
        number, gone = turn
        if gone is not None:
            self.gone.append(gone)
        return number


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::ffff", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64%eth0"),
        ("", LOCAL),
    ],
)
def test_a_dialer_is_an_ipv4_address_or_an_ipv6_network(address: str, name: str) -> None:
    assert dialer_of(address) == name


def test_whoever_speaks_has_a_turn_at_once_behind_a_silent_flood() -> None:
    door = Door()
    for _ in range(10 * HALF_OPEN_MAX):
        door.arrive(FLOOD)
        door.now += 1 / 1500
    for address in (HONEST, FLOOD):
        number = door.ask(address)
        assert door.take_all() == [number], "also at the address of the flood"
    assert len(door.admission) == SILENT_MAX - 1 + 2
    assert {door.address[gone] for gone in door.gone} == {FLOOD}
    assert door.gone == sorted(door.gone), "the oldest gives way"


def test_who_is_silent_for_a_moment_is_not_pushed_out_by_another_dialer() -> None:
    door = Door()
    slow = door.arrive(HONEST)
    for number in range(20 * HALF_OPEN_MAX):
        door.arrive(f"198.51.100.{number % 200}")
        door.now += 1 / 1500
    assert slow in door.admission, "each of two hundred has two or more"
    assert len(door.admission) == HALF_OPEN_MAX


def test_addresses_of_one_network_are_one_dialer() -> None:
    door = Door()
    for number in range(10 * HALF_OPEN_MAX):
        door.arrive(f"2001:db8::{number:x}")
    assert len(door.admission) == SILENT_MAX


def test_more_dialers_than_room_have_the_time_of_as_many_arrivals() -> None:
    door = Door()
    first = door.arrive(HONEST)
    for number in range(HALF_OPEN_MAX - 1):
        door.arrive(f"10.0.{number // 256}.{number % 256}")
    assert not door.gone
    door.arrive("10.9.0.1")
    assert door.gone == [first]


def test_a_busy_connection_does_not_give_way_to_silent_ones() -> None:
    door = Door()
    busy = door.ask(HONEST)
    assert door.take_all() == [busy]
    for number in range(5 * HALF_OPEN_MAX):
        door.arrive(f"10.0.{number // 256}.{number % 256}")
    assert busy in door.admission
    assert busy not in door.gone


def test_the_oldest_of_the_busy_gives_way_to_the_next() -> None:
    """Many who stop in the middle of their handshakes take half of the room, and nobody's turn."""
    door = Door()
    busy = []
    for number in range(3 * HALF_OPEN_MAX):
        busy.append(door.ask(f"10.0.{number // 256}.{number % 256}"))
        assert door.take_all() == busy[-1:]
    most = HALF_OPEN_MAX // BUSY_SHARE
    assert door.gone == busy[:-most]
    silent = door.arrive(HONEST)
    for number in range(most - 1):
        door.ask(f"10.1.{number // 256}.{number % 256}")
        door.take()
    assert silent in door.admission, "those who come to speak have the other half"
    door.admission.ask(silent)
    assert door.take_all() == [silent]


def test_a_busy_connection_outlives_many_that_have_begun_later() -> None:
    door = Door()
    first = door.ask(HONEST)
    door.take_all()
    for number in range(HALF_OPEN_MAX // BUSY_SHARE - 1):
        door.ask(f"10.0.{number // 256}.{number % 256}")
        door.take_all()
    assert first in door.admission
    door.ask(FLOOD)
    door.take_all()
    assert first not in door.admission


def test_failed_handshakes_use_up_the_bucket_of_their_dialer_alone() -> None:
    door = Door()
    for _ in range(3 * TOKENS_MAX):
        door.ask(FLOOD)
    taken = door.take_all()
    assert len(taken) == TOKENS_MAX
    for number in taken:
        door.admission.leave(number, door.now)
    assert not door.take_all()
    assert door.admission.has_dry
    honest = door.ask(HONEST)
    assert door.take_all() == [honest]
    door.now += 10 / TOKENS_PER_S
    assert not door.take_all(), "not before they are looked at again"
    door.admission.refill()
    assert len(door.take_all()) == 10


def test_a_bucket_outlives_the_connections_of_its_dialer() -> None:
    door = Door()
    for _ in range(TOKENS_MAX):
        number = door.ask(FLOOD)
        assert door.take_all() == [number]
        door.admission.leave(number, door.now)
    assert not len(door.admission)
    number = door.ask(FLOOD)
    assert not door.take_all()
    door.admission.leave(number, door.now)
    door.now += TOKENS_MAX / TOKENS_PER_S
    assert [len(door.take_all()) for _ in range(2 * TOKENS_MAX) if door.ask(FLOOD)].count(1) == TOKENS_MAX


def test_a_proof_gives_its_token_back() -> None:
    """A crowd with the secret, or one that reconnects, is served as fast as it proves itself."""
    door = Door()
    waiting = [door.ask(HONEST) for _ in range(5 * TOKENS_MAX)]
    served = []
    while taken := door.take_all():
        for number in taken:
            door.admission.leave(number, door.now, proved=True)
        served += taken
    assert served == waiting, "in the order of their coming, without a wait"
    assert not door.gone


def test_a_dialer_that_has_proved_the_secret_may_fail_more_often() -> None:
    door = Door()

    def rate() -> int:
        """Failed handshakes that are begun within one second, beyond those of a full bucket."""
        begun = 0
        for _ in range(1000):
            for _ in range(2):
                door.ask(FLOOD)
            door.admission.refill()
            for number in door.take_all():
                door.admission.leave(number, door.now)
                begun += 1
            door.now += 0.001
        return begun

    rate()
    assert rate() == pytest.approx(TOKENS_PER_S, abs=1)
    proves = 0
    while not proves:
        door.now += 0.1
        door.admission.refill()
        for number in door.take_all():
            proves += 1
            door.admission.leave(number, door.now, proved=True)
    rate()
    assert rate() == pytest.approx(KNOWN_PER_S, abs=2)
    door.now += KNOWN_S
    rate()
    assert rate() == pytest.approx(TOKENS_PER_S, abs=1)


def test_turns_go_round() -> None:
    door = Door()
    for _ in range(50):
        door.ask(FLOOD)
    crowd = [door.ask(f"10.0.0.{number}") for number in range(20)]
    first = [door.take() for _ in range(21)]
    assert set(crowd) < set(first), "each of the others before the second of the one"


def test_a_local_socket_needs_no_token() -> None:
    door = Door()
    for _ in range(3 * TOKENS_MAX):
        door.ask(LOCAL)
    assert len(door.take_all()) == 3 * TOKENS_MAX


def test_what_is_remembered_of_dialers_is_bounded() -> None:
    door = Door()
    for high, low in itertools.product(range(2 * REMEMBERED_MAX // 256), range(256)):
        for proved in (False, True):
            number = door.ask(f"10.{proved:d}.{high}.{low}")
            assert door.take_all() == [number]
            door.admission.leave(number, door.now, proved=proved)
    held = vars(door.admission)
    sizes = {name: len(value) for name, value in held.items() if hasattr(value, "__len__")}
    assert max(sizes.values()) <= max(REMEMBERED_MAX, HALF_OPEN_MAX + 1), sizes
    assert not len(door.admission)


def test_there_is_nothing_to_give_way_where_nobody_is() -> None:
    door = Door()
    assert door.admission.give_way(0.0) is None
    number = door.arrive(HONEST)
    assert door.admission.give_way(0.0) == number
    door.admission.leave(number, 0.0)
    assert not door.admission.connections()


ADDRESSES = [f"10.0.0.{number}" for number in range(3)] + ["2001:db8::1", "2001:db8::2", LOCAL]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "ask", "take", "prove", "fail", "refill", "give way", "wait"]),
        st.integers(0, 1000),
    ),
    max_size=300,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_shares_and_bounds_hold_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """The machine against plain lists; with small bounds, so that they are reached."""
    bounds = {"HALF_OPEN_MAX": 12, "SILENT_MAX": 4, "TOKENS_MAX": 3, "REMEMBERED_MAX": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(admission, name, value)
        check_steps(steps, bounds)


def check_steps(steps: list[tuple[str, int]], bounds: dict[str, int]) -> None:
    """Play some steps, and check after each what must always hold."""
    door = Door()
    stage: dict[int, str] = {}
    failed: Counter[str] = Counter()
    for step, choice in steps:
        among = {name: [n for n in stage if stage[n] == name] for name in ("silent", "waiting", "busy")}
        idle = Counter(dialer_of(door.address[n]) for n in among["silent"] + among["waiting"])
        gone = len(door.gone)
        if step == "arrive":
            stage[door.arrive(ADDRESSES[choice % len(ADDRESSES)])] = "silent"
        elif step == "ask" and among["silent"]:
            number = among["silent"][choice % len(among["silent"])]
            door.admission.ask(number)
            stage[number] = "waiting"
        elif step == "take":
            number = door.take()
            assert (number is None) <= (not door.admission.has_turns)
            if number is not None:
                assert stage[number] == "waiting"
                del stage[number]
                stage[number] = "busy"  # behind all that are busy already
                failed[dialer_of(door.address[number])] += 1
        elif step in ("prove", "fail") and among["busy"]:
            number = among["busy"][choice % len(among["busy"])]
            door.admission.leave(number, door.now, proved=step == "prove")
            del stage[number]
            failed[dialer_of(door.address[number])] -= step == "prove"
        elif step == "refill":
            door.admission.refill()
        elif step == "give way":
            number = door.admission.give_way(door.now)
            assert (number is None) == (not stage)
            if number is not None:
                door.gone.append(number)
        elif step == "wait":
            door.now += choice / 1000
        for number in door.gone[gone:]:
            check_gave_way(number, step, door, stage, idle)
            del stage[number]
        assert sorted(door.admission.connections()) == sorted(stage)
        assert len(stage) <= bounds["HALF_OPEN_MAX"]
        busy = [number for number in stage if stage[number] == "busy"]
        assert len(busy) <= bounds["HALF_OPEN_MAX"] // BUSY_SHARE
        silent = Counter(dialer_of(door.address[n]) for n in stage if stage[n] == "silent")
        assert max(silent.values(), default=0) <= bounds["SILENT_MAX"]
        for name, count in failed.items():
            assert name == LOCAL or count <= bounds["TOKENS_MAX"] + door.now * KNOWN_PER_S + 1e-6


def check_gave_way(number: int, step: str, door: Door, stage: dict[int, str], idle: Counter[str]) -> None:
    """Busy connections give way to busy ones; otherwise the few of one dialer stay before the many of another."""
    name = dialer_of(door.address[number])
    if step == "take" or not idle:
        assert number == next(n for n in stage if stage[n] == "busy")
        return
    assert stage[number] != "busy"
    if idle[name] < max(idle.values()):
        silent = [n for n in stage if stage[n] == "silent" and dialer_of(door.address[n]) == name]
        assert number == silent[0]
        assert len(silent) >= 4, "the bound of the dialer's own silent ones"
