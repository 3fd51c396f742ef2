"""The fuzzer of keys: it finds nothing, plays enough of everything, and finds each known fault."""

from __future__ import annotations

import pytest

from . import reverts
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


def test_each_known_fault_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert reverts.try_all("keys", 10.0, 1) == 0, capsys.readouterr().out
