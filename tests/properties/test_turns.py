"""The line of those who wait for their turn, against a search of all of them."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from dispy.core.turns import Turns


class Waiting:
    """Somebody who waits, with a key."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = 0

    def __repr__(self) -> str:
        return f"{self.number} with {self.key}"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "discard", "rise", "fall", "ask"]), st.integers(0, 5), st.integers(0, 9)
    ),
    max_size=200,
)


@given(STEPS)
def test_the_first_has_the_smallest_key_and_of_these_came_first(steps: list[tuple[str, int, int]]) -> None:
    everybody = [Waiting(number) for number in range(6)]
    line: Turns[Waiting] = Turns(lambda item: item.key)
    there: list[Waiting] = []
    for action, index, amount in steps:
        item = everybody[index]
        if action == "add":
            line.add(item)
            there += [item] if item not in there else []
        elif action == "discard":
            line.discard(item)
            there = [other for other in there if other is not item]
        elif action == "rise":
            item.key += amount
        elif action == "fall":
            item.key -= amount
            line.fall(item)
        assert line.first() is min(there, key=lambda other: other.key, default=None)


def test_what_falls_and_rises_for_ever_takes_no_room() -> None:
    line: Turns[Waiting] = Turns(lambda item: item.key)
    item, other = Waiting(0), Waiting(1)
    line.add(item)
    line.add(other)
    for _ in range(1000):
        item.key = 5
        assert line.first() is other
        item.key = -1
        line.fall(item)
        assert line.first() is item
    assert line.entries() <= 2 * 2 + 17


def test_who_was_taken_out_is_held_no_longer() -> None:
    """Computations stand in line, with all their data: one that is closed must be free at once."""
    line: Turns[Waiting] = Turns(lambda item: item.key)
    line.add(stays := Waiting(0))
    gone = []
    for number in range(1, 9):
        item = Waiting(number)
        line.add(item)
        item.key = -number
        line.fall(item)
        line.discard(item)
        gone.append(weakref.ref(item))
        del item
    gc.collect()
    assert [each() for each in gone] == [None] * 8
    assert line.first() is stays
