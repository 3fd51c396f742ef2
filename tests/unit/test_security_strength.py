"""Typed secrets: what counts for their strength, and that no part counts more than a guesser has to choose."""

from __future__ import annotations

import math
import secrets
import string

import pytest

from dispy.security.strength import STRONG_BITS, estimate

WEAK = [
    "", "a", "abc", "password", "Password123!", "letmein", "open sesame", "Tr0ub4dor&3", "hunter2hunter2hunter2",
    "correct horse battery staple", "CorrectHorseBatteryStaple", "correcthorsebatterystaple", "München-Köln-Berlin",
    "a" * 1000, "ab" * 500, "0" * 64, "1234567890" * 20, "abcdefghijklmnopqrstuvwxyz0123456789",
    "zyxwvutsrqponm9876543210", "qwertyuiopasdfghjklzxcvbnm", "Company2024!Company2024!", "!" * 100,
    "pneumonoultramicroscopicsilico", "\0" * 99,
]  # fmt: skip
STRONG = [
    "correct horse battery staple orbit", "xK7#mQ2$vL9@nR4!pW6&", "6f1ed002-ab55-4f1e-9f3c-3a1d7e5b9c40",
    "kkXq9T2bVw0Lr8Zs5NfYc3Hd", "Übermut Wasserglas Schublade Tannennadel Fahrrad",
]  # fmt: skip


@pytest.mark.parametrize("text", WEAK)
def test_what_guessers_try_is_weak(text: str) -> None:
    assert not estimate(text).is_strong, estimate(text)


@pytest.mark.parametrize("text", STRONG)
def test_five_words_or_twenty_random_characters_are_strong(text: str) -> None:
    assert estimate(text).is_strong, estimate(text)


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        (string.ascii_letters + string.digits, 24),
        ("0123456789abcdef", 32),
        (string.ascii_letters + string.digits + string.punctuation, 22),
    ],
)
def test_random_texts_are_strong_and_hardly_overestimated(alphabet: str, length: int) -> None:
    for _ in range(200):
        text = "".join(secrets.choice(alphabet) for _ in range(length))
        bits = estimate(text).bits
        assert STRONG_BITS <= bits <= 1.1 * length * math.log2(len(alphabet)), text


@pytest.mark.parametrize("text", [text for text in WEAK if text])
def test_saying_it_again_adds_little(text: str) -> None:
    """A guesser who has the text has this one in a handful of guesses more."""
    assert estimate(text * 2).bits <= estimate(text).bits + 12
    assert not estimate(text * 2).is_strong or estimate(text).bits > STRONG_BITS - 12


@pytest.mark.parametrize(
    ("longer", "shorter", "by"),
    [
        ("gate1234567890", "gate", 10),
        ("gate54321", "gate", 10),
        ("gateqwertyuiop", "gate", 10),
        ("gateZXCVBN", "gate", 10),
        ("gate-gate", "gate-", 2),
        ("gate-a-b-c", "gate-a", 14),
        ("extraordinarily", "gate", 12),
    ],
)
def test_sequences_repeats_and_long_words_count_little(longer: str, shorter: str, by: float) -> None:
    assert estimate(shorter).bits < estimate(longer).bits <= estimate(shorter).bits + by


def test_the_reason_adds_up_and_does_not_show_the_secret() -> None:
    reason = estimate("Swordfish-8317-abcdef").reason
    assert reason == (
        "it counts 42 bits, and 60 are needed: words or letters 15, other characters 5, groups of digits 13, "
        "repeats 1, sequences 7"
    )


@pytest.mark.parametrize(
    "text", ["\ud800\udcff", "日本語のパスワード", "\n\t\r", "٣٤٥٦", "ǅungla", "ß" * 3, "İ" * 5]
)
def test_any_text_is_estimated(text: str) -> None:
    assert 0 < estimate(text).bits < STRONG_BITS


def test_a_long_text_is_judged_by_its_beginning() -> None:
    begun = secrets.token_hex(128)
    assert estimate(begun + "x" * 1_000_000) == estimate(begun)
