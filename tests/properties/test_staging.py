"""Whatever happens to files on their way: each want is answered once, and nothing is held, asked or done beyond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from simulated_staging import DIGESTS, SIZES, SimulatedStaging

from dispy.core.staging import SupplierId
from dispy.core.staging.thread_turns import WRITERS

NAMES = [SupplierId(name) for name in (b"a", b"b", b"c")]
FILES = st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=4)
WHO = st.sampled_from(NAMES)
PLACE = st.integers(0, 20)


class Staging(RuleBasedStateMachine):
    """Anything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimulatedStaging()

    @initialize(
        wanted=st.lists(st.tuples(WHO, FILES, st.booleans()), min_size=1, max_size=5),
        warmth=st.sampled_from([0, 8, 8, 20]),
        left=st.sets(st.integers(0, len(SIZES) - 1), max_size=2),
    )
    def begin(self, wanted: list[tuple[SupplierId, list[int], bool]], warmth: int, left: set[int]) -> None:
        """Some files are wanted, of which whole parts may lie there; in a warm world pieces were asked for."""
        for which in sorted(left):
            self.world.leave_part(which, is_right=True)
        for who, files, has_directory in wanted:
            self.world.want(who, files, directory="work" if has_directory else "")
        for _ in range(warmth):
            self.world.run_task(0)

    @rule(
        who=WHO, files=FILES, directory=st.sampled_from(["", "work", "other"]), store=st.sampled_from("sst"),
        excess=st.sampled_from([0, 0, 0, 0, 1, -1, 5, 40]), together=st.booleans(),
        package=st.sampled_from([0, 0, 1]),
    )  # fmt: skip
    def want(
        self, who: SupplierId, files: list[int], directory: str, store: str, excess: int, together: bool, package: int
    ) -> None:  # fmt: skip
        """Files are wanted; a supplier may say a wrong size, and list one file for several of a computation."""
        computation = 1000 + NAMES.index(who) if together and store == "s" else None
        self.world.want(
            who,
            files,
            directory=directory,
            store=store,
            excess=excess,
            computation=computation,
            package=package,
        )

    @rule(place=PLACE, count=st.integers(1, 3))
    def drop(self, place: int, count: int) -> None:
        numbers = list(self.world.wanted)
        for number in numbers[place % len(numbers) :][:count]:
            self.world.drop(number)

    @rule(directory=st.sampled_from(["work", "other"]))
    def leave(self, directory: str) -> None:
        """A directory is removed once nothing is put there; what was to be is dropped."""
        for number, wanted in self.world.wanted.items():
            if wanted.event.directory == directory and not wanted.answers:
                self.world.drop(number)
        self.world.leave(directory)

    @rule(who=WHO, place=PLACE, count=st.integers(1, 4))
    def answer(self, who: SupplierId, place: int, count: int) -> None:
        self.world.answer(who, place, count)

    @rule(count=st.integers(1, 6))
    def go_on(self, count: int) -> None:
        for _ in range(count):
            self.world.go_on()

    @rule(place=PLACE)
    def run_task(self, place: int) -> None:
        self.world.run_task(place)

    @rule(number=st.integers(0, WRITERS - 1))
    def run_writer(self, number: int) -> None:
        self.world.run_writer(number)

    @rule(who=WHO, is_connected=st.booleans())
    def connect(self, who: SupplierId, is_connected: bool) -> None:
        self.world.set_connected(who, is_connected)

    @rule(
        who=WHO, which=st.integers(0, len(SIZES) - 1), how=st.sampled_from(["lies", "unreadable", "honest"])
    )
    def corrupt(self, who: SupplierId, which: int, how: str) -> None:
        """Files of a supplier change or go, or are again what they were."""
        peer = self.world.peers[who]
        if how == "honest":
            peer.lies.clear()
            peer.unreadable.clear()
        else:
            getattr(peer, how).add(DIGESTS[which])
        self.world.trouble()

    @rule(is_full=st.booleans())
    def fill(self, is_full: bool) -> None:
        """The disk is full, or has room again."""
        self.world.is_full = is_full
        self.world.trouble()

    @rule(which=st.integers(0, len(SIZES) - 1))
    def remove(self, which: int) -> None:
        """Somebody removes a file from the store."""
        self.world.stored.discard(("s", DIGESTS[which]))  # type: ignore[arg-type]
        for wanted in self.world.wanted.values():
            wanted.may_fail = True

    @rule(which=st.integers(0, len(SIZES) - 1))
    def receive_elsewhere(self, which: int) -> None:
        self.world.begin_other("s", which)

    @rule(which=st.integers(0, len(SIZES) - 1), is_right=st.booleans())
    def leave_part(self, which: int, is_right: bool) -> None:
        self.world.leave_part(which, is_right=is_right)

    @rule(is_whole=st.booleans())
    def end_elsewhere(self, is_whole: bool) -> None:
        self.world.end_others(is_whole=is_whole)

    @rule(seconds=st.sampled_from([0.0, 0.011, 0.1, 1.2]))
    def tick(self, seconds: float) -> None:
        self.world.tick(seconds)

    def teardown(self) -> None:
        self.world.settle()


TestStaging = Staging.TestCase


@given(
    st.integers(0, len(SIZES) - 1),
    st.sampled_from([-9, -1, 1, 9]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 30), max_size=30),
)
def test_who_says_a_wrong_size_harms_nobody_else(
    which: int,
    excess: int,
    is_first: bool,
    is_one: bool,
    is_there: bool,
    is_together: bool,
    order: list[int],
) -> None:
    """Not a file that is there, nor one that is on its way, nor other stages of the same supplier, even those that
    ask in one name."""
    world = SimulatedStaging()
    if is_there:
        world.want(NAMES[1], [which])
        world.settle()
    liar = len(world.wanted) + (1 if is_first else 2)
    for number in range(len(world.wanted) + 1, len(world.wanted) + 3):
        name = NAMES[0] if number == liar or is_one else NAMES[1]
        computation = 7 if is_together and is_one else None
        world.want(name, [which], excess=excess if number == liar else 0, computation=computation)
    for place in order:
        world.run_task(place)
        world.run_writer(place % WRITERS)
        world.answer(NAMES[place % 2], place)
    world.settle()
    reasons = {number: wanted.answers[0] for number, wanted in world.wanted.items()}
    is_lie = excess > 0 or SIZES[which] > 0
    assert ("its content is not what it was said to be" in reasons.pop(liar)) == is_lie  # type: ignore[arg-type]
    assert not any(reasons.values())
    asked = sum(peer.total for peer in world.peers.values())
    world.want(NAMES[1], [which])
    world.settle()
    assert sum(peer.total for peer in world.peers.values()) == asked, "it was dropped from the store"


@given(
    st.sampled_from([3, 5, 6, 7, 8, 0, 2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 6]),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=8),
)
def test_who_sends_something_else_harms_nobody_else(
    which: int, liar_first: bool, is_said: bool, warmth: int, turns: list[tuple[int, int, int, bool]]
) -> None:
    """Whoever is asked first, and whichever pieces come from whom: the honest one gets the right file.

    In each turn one client, perhaps the only one who is connected, sends some pieces, and threads do some work.
    """
    world = SimulatedStaging()
    liar = NAMES[0] if liar_first else NAMES[1]
    peer = world.peers[liar]
    (peer.unreadable if is_said else peer.lies).add(DIGESTS[which])
    for name in NAMES[:2]:
        world.want(name, [which, (which + 1) % len(SIZES)], directory="work")
    for _ in range(warmth):
        world.run_task(0)
    for who, pieces, work, is_alone in turns:
        if is_alone:
            world.set_connected(NAMES[1 - who], False)
        if not world.peers[NAMES[who]].is_connected:
            world.set_connected(NAMES[who], True)
        world.answer(NAMES[who], 0, pieces)
        for step in range(work):
            world.run_writer(step % WRITERS)
            world.run_task(0)
    world.settle()
    for wanted in world.wanted.values():
        assert wanted.event.supplier == liar or wanted.answers == [""]


@pytest.mark.parametrize("pace", [1, 2, 4])
@pytest.mark.parametrize("size", range(1, 8))
def test_a_large_file_is_not_passed_for_ever(size: int, pace: int) -> None:
    """Smaller ones come all the time, more of them than the line can take."""
    world = SimulatedStaging()
    name = NAMES[0]
    large = world.want(name, [8], store="large")
    since: int | None = None
    for step in range(100):
        world.want(name, [size], store=f"small{step}")
        for _ in range(pace):
            world.answer(name, 0)
            for number in range(WRITERS):
                world.run_writer(number)
        while world.tasks:
            world.run_task(0)
        stage = world.machine.state.stages.get(large)
        if stage is None:
            break
        since = world.peers[name].total if since is None and stage.missing else since
    # Until as many bytes were asked for as it has, others may pass; then those of them that were wanted by then.
    assert since is not None
    assert world.wanted[large].answers == [""], "it waits and waits"
    world.settle()
