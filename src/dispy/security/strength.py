"""Strength of a secret that a person typed: how many guesses it stands, by its words, repeats and sequences.

The estimate counts what a guesser has to choose, part by part, and adds the bits up. There is no dictionary: a run of
letters is taken for a word. So the estimate is low for random lowercase letters, which look like one long word. For a
line of a song, which guessers know as a whole, the estimate is high. A generated secret is never estimated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

STRONG_BITS = 60
"""Bits from which a secret is strong. Half of all 2**60 guesses take 18 million years at a listener, at 1,000 a
second, and 800 million years of a core, at 45 ms each, for whoever has recorded a proof."""

_LENGTH_MAX = 256
"""Characters that are looked at, from the first: the search for repeats grows faster than the length. So many hold
several times ``STRONG_BITS``, unless they repeat themselves."""

_LETTER, _DIGIT, _OTHER = math.log2(26), math.log2(10), math.log2(33)
"""Bits of a random lowercase letter, of a digit, and of one of the 33 other characters of ASCII."""

_WORD, _WORD_LENGTH = math.log2(7776), 8
"""Bits of a word of up to so many letters: drawn from a list for dice (EFF, 2016: 6**5 words)."""

_FURTHER_LETTER = 1.5
"""Bits of each letter of a word beyond ``_WORD_LENGTH``: about the upper end for English text (Shannon 1951,
"Prediction and Entropy of Printed English")."""

_CAPITAL, _AGAIN = 1.0, 1.0
"""Bits of capital letters in a word (there or not), and of a part that stands in the secret for another time."""

_LINES = (
    "abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop",
)  # fmt: skip
"""Sequences that are known to everybody: the alphabet, digits, rows of keyboards. They are known backwards, too."""
_SEQUENCES = [*_LINES, *(line[::-1] for line in _LINES)]

_REPEATED = re.compile(r"(..+?)\1+|(.)\2\2+", re.DOTALL)
"""Text that follows itself: two or more characters, or one that stands there three times (double ones are common)."""
_RUNS = re.compile(r"[^\W\d_]+|\d+|.", re.DOTALL)
_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Places in a run of letters where the next word begins: ``correctHorse``, ``HTTPServer``."""


class Estimate(NamedTuple):
    """Strength of a secret.

    Attributes:
        bits: Base-2 logarithm of the number of guesses that the secret stands.
        reason: How that adds up, for the user; shows nothing of the secret but its make.
    """

    bits: float
    reason: str

    @property
    def is_strong(self) -> bool:
        """True if the secret may be guessed at by anybody on a network."""
        return self.bits >= STRONG_BITS


def estimate(secret: str) -> Estimate:
    """Estimate how many guesses a typed secret stands.

    Args:
        secret: The secret; characters beyond the 256th are ignored.
    """
    found: dict[str, list[float]] = {}
    for kind, bits in _count(secret[:_LENGTH_MAX]):
        found.setdefault(kind, []).append(bits)
    total = sum(map(sum, found.values()))
    parts = ", ".join(f"{kind} {sum(bits):.0f}" for kind, bits in found.items())
    return Estimate(total, f"it counts {total:.0f} bits, and {STRONG_BITS} are needed: {parts}")


def _count(text: str) -> Iterator[tuple[str, float]]:
    """Yield the parts of a secret: the kind of each, in the plural, and its bits."""
    for match in _REPEATED.finditer(text):
        yield "repeats", math.log2(len(match[0]) // len(match[1] or match[2]))
    seen = set()
    for part, is_sequence in _parts(_REPEATED.sub(r"\1\2", text)):
        kind, bits = ("sequences", _LETTER + math.log2(len(part))) if is_sequence else _worth(part)
        # A single letter or digit stands twice in many a random text.
        is_again = part.lower() in seen and (len(part) > 2 or not part.isalnum())
        seen.add(part.lower())
        yield ("repeats", _AGAIN) if is_again else (kind, bits)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words, groups of digits, other characters and sequences (True) of a text, in order."""
    while text:
        before, length = _find_sequence(text)
        for run in _RUNS.findall(text[:before]):
            for word in _CASE.split(run):
                yield word, False
        if length:
            yield text[before : before + length], True
        text = text[before + length :]


def _find_sequence(text: str) -> tuple[int, int]:
    """Returns where the first sequence in a text begins, and its length; the end of the text, and 0, without one."""
    folded = text.lower()
    for start, first in enumerate(folded):
        # Three letters of the alphabet stand in many words: "first", "define".
        length = 0
        end = start + (3 if first.isdigit() else 4)
        while end <= len(folded) and any(folded[start:end] in sequence for sequence in _SEQUENCES):
            length = end - start
            end += 1
        if length:
            return start, length
    return len(text), 0


def _worth(part: str) -> tuple[str, float]:
    """Returns the kind (in the plural) and the bits of a word, a group of digits or another character."""
    if part[0].isdigit():
        return "groups of digits", len(part) * _DIGIT
    if not part[0].isalpha():
        return "other characters", _OTHER
    word = _WORD + max(0, len(part) - _WORD_LENGTH) * _FURTHER_LETTER
    return "words or letters", min(len(part) * _LETTER, word) + (0.0 if part == part.lower() else _CAPITAL)
