"""How what a job prints is cut: which of it is kept, which of it is told while the job runs."""

from __future__ import annotations

import re

from dispy.protocol import limits

CUT_MARK = "\n... [dispy: %d bytes of output cut here] ...\n"
"""Stands where output is missing."""

_MARK = re.compile(re.escape(CUT_MARK.encode()).replace(rb"%d", rb"(\d+)"))

LATE_MAX = 8
"""What would take more messages than this to tell, some 0.8 s, is not told: what is newer is worth more."""


def join_cut(head: bytes, cut: int, tail: bytes) -> bytes:
    """What is kept of output that was longer by ``cut`` bytes in the middle."""
    return head + CUT_MARK.encode() % cut + tail


def split_cut(kept: bytes, size_max: int = limits.OUTPUT_MAX) -> tuple[bytes, int, bytes]:
    """The beginning of what a job printed, how many bytes are missing behind it, and the end.

    Args:
        kept: Of one stream, all of it, or what ``join_cut`` made of more than ``size_max`` bytes. It cannot be
            mistaken for the other: only what was cut is longer than ``size_max``.
        size_max: As where it was cut.
    """
    found = _MARK.match(kept, size_max // 2) if len(kept) > size_max else None
    if found is None:
        return kept, 0, b""
    return kept[: found.start()], int(found[1]), kept[found.end() :]


def cut_reason(text: str) -> str:
    """A traceback that leaves room for a payload in a worker's slot: the middle of a longer one is cut.

    By bytes, not characters, which take up to four.
    """
    data = text.encode() if len(text) > limits.REASON_MAX // 8 else b""
    if len(data) <= limits.REASON_MAX // 2:
        return text
    half = limits.REASON_MAX // 4
    # Halves of characters where it is cut are left out.
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... [dispy: cut here] ...\n{tail}"


def next_span(told: int, size: int, share: int) -> tuple[int, int]:
    """Which bytes of a growing output to tell next: where they begin, and how many.

    Args:
        told: Position up to which it was told.
        size: Its size now. Smaller than ``told`` if the job has truncated it: then there is nothing to tell.
        share: Bytes that may be told now.
    """
    behind = size - told
    if behind <= 0:
        return told, 0
    if behind > LATE_MAX * share:
        return size - share, share
    return told, min(behind, share)
