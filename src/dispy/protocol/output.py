"""Cutting of a job's output: which part is kept in the result, and which part is sent while the job runs."""

from __future__ import annotations

import re

from dispy.protocol import limits

CUT_MARK = "\n... [dispy: %d bytes of output cut here] ...\n"
"""Text that replaces the missing middle of long output; ``%d`` is the number of missing bytes."""

_MARK = re.compile(
    re.escape(CUT_MARK.encode()).replace(rb"%d", rb"(\d+)")
)  # group 1: the number of missing bytes

LATE_MAX = 8
"""Messages of live output by which a watching client may be behind the job, about 0.8 s. If it is further behind, all
but the newest output is skipped: newer is worth more."""


def join_cut(head: bytes, cut: int, tail: bytes) -> bytes:
    """Returns head and tail of long output, with a mark between them for the ``cut`` bytes that are missing."""
    return head + CUT_MARK.encode() % cut + tail


def split_cut(kept: bytes, size_max: int = limits.OUTPUT_MAX) -> tuple[bytes, int, bytes]:
    """Split kept output of one stream into head, number of missing bytes, and tail: the inverse of ``join_cut``.

    Args:
        kept: Complete output, or the result of ``join_cut``. Only the latter is longer than ``size_max``, so that
            a job cannot forge a cut.
        size_max: Bytes above which output was cut when it was kept (``worker.Load.output_max``).

    Returns:
        Head, number of missing bytes, tail. Complete output is all head, with 0 missing bytes.
    """
    found = _MARK.match(kept, size_max // 2) if len(kept) > size_max else None
    if found is None:
        return kept, 0, b""
    return kept[: found.start()], int(found[1]), kept[found.end() :]


def cut_reason(text: str) -> str:
    """Returns a traceback that is short enough to be sent: if it is long, its middle is replaced by a mark.

    The limit is in bytes (32 KiB), not in characters, which take up to four bytes each: traceback and payload of a
    result must fit into the worker's slot together.
    """
    data = text.encode() if len(text) > limits.REASON_MAX // 8 else b""
    if len(data) <= limits.REASON_MAX // 2:
        return text
    half = limits.REASON_MAX // 4
    # Errors are ignored: a cut may split a character of several bytes.
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... [dispy: cut here] ...\n{tail}"


def next_span(told: int, size: int, share: int) -> tuple[int, int]:
    """Choose the bytes of a running job's growing output to send next; returns their position and number (0: none).

    If more than ``LATE_MAX`` shares are unsent, all but the last ``share`` bytes are skipped: the reader is too slow.

    Args:
        told: Position (bytes) up to which the output was sent or skipped.
        size: Size of the output now (bytes). If the job has truncated it below ``told``, nothing is sent.
        share: Most bytes that may be sent now: this job's part of a message (``limits.PRINTED_MAX``).
    """
    behind = size - told
    if behind <= 0:
        return told, 0
    if behind > LATE_MAX * share:
        return size - share, share
    return told, min(behind, share)
