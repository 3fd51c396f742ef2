"""Batches at both ends, step by step. What holds in any order of events: ``tests/properties/test_batches.py``."""

from __future__ import annotations

from dispy.protocol.batches import Arrived, Sent
from dispy.protocol.node import JobsEnded


def sent(*numbers: int, last: int = 0) -> Sent[JobsEnded]:
    return Sent([JobsEnded(number, 1, []) for number in numbers], last)


def numbers(batches: list[JobsEnded]) -> list[int]:
    return [batch.batch for batch in batches]


def settled(last: int = 0, kept: tuple[int, ...] = ()) -> Arrived:
    """The receiver's end after its first ``Welcome``."""
    arrived = Arrived()
    assert arrived.attach() == 0
    return arrived.compare(last, kept, is_known=True, is_same=True)


def test_batches_are_numbered_and_kept_until_they_are_acknowledged() -> None:
    batches = sent()
    for computation in (7, 8, 9):
        batches.add(JobsEnded(0, computation, []))
    assert [(batch.batch, batch.computation) for batch in batches.kept] == [(1, 7), (2, 8), (3, 9)]
    assert numbers(batches.acknowledge(2)) == [1, 2]
    assert numbers(batches.acknowledge(1)) == []
    assert numbers(list(batches.kept)) == [3]
    assert batches.last == 3


def test_a_reconnect_is_an_acknowledgement() -> None:
    batches = sent(4, 5, 6, last=6)
    assert batches.numbers_after(4) == [5, 6]
    assert numbers(batches.resume(4)) == [4]
    assert (numbers(list(batches.kept)), batches.last) == ([5, 6], 6)


def test_no_number_is_used_again_that_the_receiver_knows() -> None:
    """The sender was killed before it could write down how far it had counted."""
    batches = sent(4, last=4)
    assert numbers(batches.resume(9)) == [4]
    batch = JobsEnded(0, 1, [])
    batches.add(batch)
    assert batch.batch == 10


def test_what_is_not_wanted_any_more_is_kept_no_longer() -> None:
    batches = sent(1, 2, 3, last=3)
    assert numbers(batches.discard(lambda batch: batch.batch != 2)) == [1, 3]
    assert batches.discard(lambda batch: batch.batch != 2) == []
    assert numbers(list(batches.kept)) == [2]


def test_one_number_stands_for_all_before_it() -> None:
    """The first one, with a large payload, arrives last."""
    arrived = settled()
    for number in (2, 3):
        assert not arrived.has(number)
        arrived.arrive(number)
        arrived.release(number)
        assert arrived.has(number)
    assert (arrived.received, arrived.ahead, arrived.due()) == (0, {2, 3}, 0)
    arrived.arrive(1)
    arrived.arrive(1)
    assert (arrived.received, arrived.ahead, arrived.due()) == (3, set(), 0)
    arrived.release(2)
    assert arrived.due() == 2
    arrived.tell(arrived.due())
    assert arrived.due() == 0
    arrived.tell(arrived.due())
    assert arrived.told == 2


def test_what_the_sender_does_not_keep_never_comes() -> None:
    arrived = settled(9, (3, 7))
    assert arrived.received == 2
    arrived.arrive(7)
    assert arrived.received == 2
    arrived.arrive(3)
    assert arrived.received == 9
    assert arrived.has(5), "nobody waits for it"


def test_after_a_reconnect_the_receiver_knows_what_it_has() -> None:
    arrived = settled()
    for number in (1, 2, 5):
        arrived.arrive(number)
    arrived.release(1)
    assert arrived.attach() == 1
    assert arrived.compare(6, [2, 3, 5], is_known=True, is_same=True) is arrived
    assert [number for number in range(1, 8) if not arrived.has(number)] == [3, 4, 6, 7]
    arrived.arrive(3)
    assert arrived.received == 6, "4 and 6 never come"


def test_nothing_is_acknowledged_before_it_is_known_to_whom() -> None:
    """A sender that was started anew would take old numbers for new batches."""
    arrived = settled()
    arrived.arrive(1)
    arrived.attach()
    arrived.release(1)
    assert arrived.due() == 0
    assert arrived.compare(1, [1], is_known=True, is_same=True).due() == 1


def test_another_incarnation_of_the_sender_goes_on_from_what_it_was_told() -> None:
    arrived = settled()
    for number in (1, 2, 3):
        arrived.arrive(number)
    arrived.release(2)
    assert arrived.attach() == 2
    other = arrived.compare(4, [4], is_known=True, is_same=False)
    assert (other.received, other.has(3), other.has(4)) == (3, True, False), "3 has died with the other one"
    arrived.release(3)
    assert other.due() == 0, "the journal speaks of old numbers"


def test_a_sender_that_has_forgotten_the_receiver_counts_from_one() -> None:
    arrived = settled()
    arrived.arrive(1)
    arrived.release(1)
    arrived.attach()
    other = arrived.compare(0, [], is_known=False, is_same=True)
    assert (other.received, other.has(1)) == (0, False)
