"""The fuzzer of keys finds nothing, and plays enough of everything; ``.ci/run`` tries it on known faults."""

from __future__ import annotations

from .key_talks import KeyTalks

TALKS = 20_000


def test_nobody_gets_in_whom_the_model_refuses_and_the_other_way_round() -> None:
    talks = KeyTalks(1)
    assert talks.run(60.0, TALKS) == []
    assert talks.played.total() == TALKS
    assert min(talks.played["let in"], talks.played["refused"]) > TALKS / 20


def test_the_same_seed_plays_the_same() -> None:
    one, other, third = KeyTalks(2), KeyTalks(2), KeyTalks(3)
    for talks in (one, other, third):
        talks.run(60.0, 500)
    assert one.played == other.played != third.played
