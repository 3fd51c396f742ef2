"""How output is cut: what is missing can be told, and what comes next is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy.protocol.limits import REASON_MAX
from dispy.protocol.output import CUT_MARK, LATE_MAX, cut_reason, join_cut, next_span, split_cut


@given(st.binary(max_size=300), st.integers(0, 40))
def test_what_was_cut_can_be_told(printed: bytes, half: int) -> None:
    """Whatever was printed, marks like ours included."""
    size_max = 2 * half
    printed += (CUT_MARK % 7).encode()
    if len(printed) <= size_max:
        assert split_cut(printed, size_max) == (printed, 0, b"")
    else:
        end = printed[len(printed) - half :]
        kept = join_cut(printed[:half], len(printed) - size_max, end)
        assert split_cut(kept, size_max) == (printed[:half], len(printed) - size_max, end)


def test_a_mark_that_a_job_prints_is_output_like_any_other() -> None:
    forged = b"x" * 10 + (CUT_MARK % 1000).encode() + b"y" * 10
    assert split_cut(forged, 100) == (forged, 0, b"")


def test_what_is_longer_than_it_can_be_is_taken_as_it_is() -> None:
    """Only a node with a fault sends it."""
    assert split_cut(b"x" * 200, 100) == (b"x" * 200, 0, b"")


@pytest.mark.parametrize(
    ("told", "size", "span"),
    [
        (0, 0, (0, 0)),
        (0, 5, (0, 5)),
        (5, 5, (5, 0)),
        (5, 2, (5, 0)),
        (0, 11, (0, 10)),
        (100, 100 + 10 * LATE_MAX, (100, 10)),
        (100, 101 + 10 * LATE_MAX, (91 + 10 * LATE_MAX, 10)),
    ],
    ids=["nothing", "all", "nothing new", "truncated", "a share", "as late as can be", "too late"],
)
def test_what_is_told_next(told: int, size: int, span: tuple[int, int]) -> None:
    """In order; but when it would come too late the newest."""
    assert next_span(told, size, 10) == span


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_a_long_traceback_is_cut_by_its_bytes(character: str, extra: int) -> None:
    """A worker's slot has no room for more, and characters take up to four."""
    most = REASON_MAX // 2
    short = "a" * (most - most // len(character.encode()) * len(character.encode()))
    short += character * (most // len(character.encode()))
    assert cut_reason(short) == short
    long = "a" * extra + character * REASON_MAX + "end"
    shown = cut_reason(long)
    assert most - 10 < len(shown.encode()) < most + 100
    assert shown.startswith("a" * extra + character)
    assert shown.endswith(character + "end")
    assert "[dispy: cut here]" in shown
