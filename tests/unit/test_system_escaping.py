"""Text of others: no character of it moves a cursor, turns the direction, or begins a line."""

from __future__ import annotations

import functools
import logging
import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispy.system.escaping import Formatter, line, lines, sendable
from dispy.system.wording import counted, of_error, short_repr

TURNING = {
    "\u061c",
    "\u200e",
    "\u200f",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}
"""All that have the property Bidi_Control (Unicode Standard Annex 9, table 4)."""


anything = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from(sorted(TURNING) + list("\x1b\x9b\r\n\t\0")))
)  # fmt: skip


@functools.cache
def everything() -> str:
    """Every character there is, assigned or not."""
    return "".join(map(chr, range(sys.maxunicode + 1)))


@functools.cache
def _danger() -> re.Pattern[str]:
    found = {c for c in everything() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} | TURNING
    return re.compile(f"[{re.escape(''.join(sorted(found)))}]")


def dangerous(text: str) -> set[str]:
    """Its characters that are not just shown: controls, line ends, turns of direction, halves of characters."""
    return set(_danger().findall(text))


def test_no_character_at_all_is_let_through_that_is_dangerous() -> None:
    assert len(dangerous(everything())) > 2000  # most of them halves of characters
    assert dangerous(line(everything())) == set()
    assert dangerous(lines(everything())) == {"\n", "\t"}


def test_every_character_is_treated_by_itself_and_alike() -> None:
    """So that what holds for each holds for all texts; the way for printable texts makes no difference."""
    for character in everything()[:0x3000] + "\ud800\udfff\ue000\ufeff\ufffd\uffff\U0001f600\U000e0001":
        shown = line(character)
        assert line(f"a{character}\0") == f"a{shown}\\x00"
        assert lines(character) == (character if character in "\n\t" else shown)


@given(anything)
@example("\u202egpj.exe")
def test_whatever_is_written_is_one_line_that_can_be_printed_anywhere(text: str) -> None:
    shown = line(text)
    assert dangerous(shown) == set()
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown
    assert line(shown) == shown, "escapes are escaped again"


@given(anything, anything)
def test_parts_are_treated_like_the_whole(text: str, other: str) -> None:
    assert line(text) + line(other) == line(text + other)
    assert lines(text) + lines(other) == lines(text + other)


@given(anything)
def test_lines_end_where_line_ends_are_and_nowhere_else(text: str) -> None:
    parts = ["\t".join(map(line, part.split("\t"))) for part in text.split("\n")]
    assert lines(text) == "\n".join(parts)
    assert dangerous(lines(text)) <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_what_can_be_printed_is_not_changed(text: str) -> None:
    assert line(text) == text
    assert lines(f"{text}\n\t{text}") == f"{text}\n\t{text}"


@pytest.mark.parametrize(
    "text",
    [
        "Bürgeramt 3",
        "כתובת",
        "عنوان",
        "节点",
        "👩‍🔬",
        "a\u200bb",
        "\u00a0",
        "C:\\new\\table",
        "é",
        "e\u0301",
        "",
    ],
)
def test_scripts_of_the_world_are_not_changed(text: str) -> None:
    assert line(text) == lines(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x7f\x08", "\\x7f\\x08"),
        ("\u202e", "\\u202e"),
        ("\u2028", "\\u2028"),
        ("\ud83d", "\\ud83d"),
        ("\0", "\\x00"),
    ],
)
def test_it_is_shown_what_was_there(text: str, shown: str) -> None:
    assert line(text) == shown


def formatted(message: str, *arguments: object, **more: object) -> str:
    record = logging.LogRecord("dispy.test", logging.WARNING, __file__, 1, message, arguments, None)
    record.__dict__.update(more)
    return Formatter("%(asctime)s %(name)s - %(message)s").format(record)


@given(anything, anything)
def test_a_log_record_cannot_pass_for_two(text: str, other: str) -> None:
    shown = formatted("refused %s (%r)", text, other)
    assert dangerous(shown) <= {"\n", "\t"}
    first, *further = shown.split("\n")
    assert " dispy.test - refused " in first
    assert all(part.startswith("    ") for part in further)


@given(anything)
def test_nor_can_the_text_of_an_exception_or_a_stack(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        trace = sys.exc_info()
    shown = formatted("failed", exc_info=trace, stack_info=f"Stack\n{text}")
    assert dangerous(shown) <= {"\n", "\t"}
    first, *further = shown.split("\n")
    assert first.endswith(" - failed")
    assert "    Traceback (most recent call last):" in further
    assert all(part.startswith("    ") for part in further)


def test_a_record_of_one_line_is_as_always() -> None:
    usual = logging.Formatter("%(asctime)s %(name)s - %(message)s")
    record = logging.LogRecord(
        "dispy.test", logging.INFO, __file__, 1, "node %r has %d CPUs", ("a", 3), None
    )
    assert Formatter("%(asctime)s %(name)s - %(message)s").format(record) == usual.format(record)


@example("part-\udcff.dat")
@given(anything)
def test_whatever_is_said_can_be_sent(text: str) -> None:
    sent = sendable(text)
    sent.encode()
    assert sent == text or dangerous(text) > dangerous(sent)


def test_an_exception_that_cannot_say_what_it_is_has_a_name() -> None:
    class StrFailsError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert of_error(ValueError("text")) == "ValueError: text"
    assert of_error(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert of_error(StrFailsError()) == "StrFailsError: <its str() fails>"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 jobs wait"),
        (1, "1 job waits"),
        (2, "2 jobs wait"),
        (-1, "-1 jobs wait"),
        (10_000, "10000 jobs wait"),
    ],
)
def test_numbers_agree_with_their_nouns(number: int, said: str) -> None:
    assert counted(number, "job waits", "jobs wait") == said
    assert counted(number, "job") == " ".join(said.split()[:2])


def test_anything_can_be_shown() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise OSError("no")

    class deque:
        """Not what its name says."""

    assert short_repr([1] * 100) == "[1, 1, 1, 1, 1, 1, ...]"
    assert short_repr(Shy()).startswith("<Shy instance at 0x")
    assert short_repr(deque()).startswith("<deque whose repr raises")
