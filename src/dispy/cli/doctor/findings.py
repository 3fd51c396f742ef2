"""Outcomes of checks, and how they are shown."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from dispy.system.escaping import line


class Verdict(Enum):
    """How good it is; the value is what the line begins with."""

    OK = "ok"
    NOTE = "note"
    BAD = "BAD"


class Finding(Struct, frozen=True):
    """Outcome of one check.

    Attributes:
        verdict: How good it is.
        text: One sentence: what was found.
        fix: What to do about it; empty: nothing.
    """

    verdict: Verdict
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    """Returns a finding with which all is well."""
    return Finding(Verdict.OK, text)


def note(text: str, fix: str = "") -> Finding:
    """Returns a finding that may be meant to be so."""
    return Finding(Verdict.NOTE, text, fix)


def bad(text: str, fix: str) -> Finding:
    """Returns a finding because of which something does not work."""
    return Finding(Verdict.BAD, text, fix)


def shown(findings: list[Finding]) -> str:
    """Returns findings as lines; what to do is a line of its own. Texts of others are escaped."""
    lines = []
    for found in findings:
        lines.append(f"  {found.verdict.value:4}  {line(found.text)}")
        if found.fix:
            lines.append(f"        -> {line(found.fix)}")
    return "\n".join(lines)
